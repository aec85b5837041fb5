/** Accounts of Kubernetes with exactly the rights that a test gives them, and tokens of theirs: good ones and bad ones. */
import { createPrivateKey, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { ResourceRight } from '#controller/fleet-api/rights.ts';
import type { TestKubernetes } from '#test/harness/kubernetes.ts';

export async function makeAccount(kubernetes: TestKubernetes, namespace: string, account: { readonly name: string; readonly rights: readonly ResourceRight[] }): Promise<void> {
  const metadata = { name: account.name, namespace };
  const rules = account.rights.map((right) => ({ apiGroups: ['nkudo.dev'], resources: [right.subresource === undefined ? right.resource : `${right.resource}/${right.subresource}`], verbs: [right.verb] }));
  const group = 'rbac.authorization.k8s.io';
  const rbac = `/apis/${group}/v1/namespaces/${namespace}`;
  await kubernetes.client.apply(`/api/v1/namespaces/${namespace}/serviceaccounts/${account.name}`, { apiVersion: 'v1', kind: 'ServiceAccount', metadata });
  await kubernetes.client.apply(`${rbac}/roles/${account.name}`, { apiVersion: `${group}/v1`, kind: 'Role', metadata, rules });
  await kubernetes.client.apply(`${rbac}/rolebindings/${account.name}`, {
    apiVersion: `${group}/v1`, kind: 'RoleBinding', metadata,
    roleRef: { apiGroup: group, kind: 'Role', name: account.name }, subjects: [{ kind: 'ServiceAccount', name: account.name, namespace }],
  });
}

/** `audience` null: the one of the API server itself. */
export async function requestToken(kubernetes: TestKubernetes, namespace: string, account: { readonly name: string; readonly audience: string | null }): Promise<string> {
  const spec = { expirationSeconds: 3_600, ...(account.audience === null ? {} : { audiences: [account.audience] }) };
  const answer = await kubernetes.client.request('POST', `/api/v1/namespaces/${namespace}/serviceaccounts/${account.name}/token`, { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec });
  const { status } = answer.body as { readonly status: { readonly token: string } }; // As the API server answers a TokenRequest.
  return status.token;
}

const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');

/** The same token with another end, signed by the API server's own key. */
export function withExpiry(token: string, signingKeyFile: string, expiresAtSeconds: number): string {
  const [header, payload] = token.split('.');
  if (header === undefined || payload === undefined) throw new Error('not a JWT');
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>; // Claims of our API server.
  const unsigned = `${header}.${encode({ ...claims, iat: expiresAtSeconds - 3_600, nbf: expiresAtSeconds - 3_600, exp: expiresAtSeconds })}`;
  return `${unsigned}.${sign('sha256', Buffer.from(unsigned), createPrivateKey(readFileSync(signingKeyFile))).toString('base64url')}`;
}
