/**
 * The controller's own identity on a test's API server: a ServiceAccount with exactly the rights that the chart gives it
 * (controller/doctor/rights.ts), so that every test of the whole product runs under them.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { neededRights } from '#controller/doctor/rights.ts';
import { renderKubeconfig } from '#hack/stack/kubernetes.ts';
import { fileScope } from './file-scope.ts';
import type { TestKubernetes } from './kubernetes.ts';

export const controllerNamespace = 'nkudo-system';
const name = 'nkudo';
export const controllerUser = `system:serviceaccount:${controllerNamespace}:${name}`;
/** Longer than any test. */
const tokenSeconds = 24 * 3600;
const rbac = '/apis/rbac.authorization.k8s.io/v1';

/** Makes namespace, identity and rights; gives the path of its kubeconfig. */
export async function createControllerIdentity({ client, access }: Pick<TestKubernetes, 'client' | 'access'>): Promise<string> {
  const account = `/api/v1/namespaces/${controllerNamespace}/serviceaccounts/${name}`;
  await client.apply(`/api/v1/namespaces/${controllerNamespace}`, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: controllerNamespace } });
  await client.apply(account, { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace: controllerNamespace } });
  const subjects = [{ kind: 'ServiceAccount', name, namespace: controllerNamespace }];
  const apiVersion = 'rbac.authorization.k8s.io/v1';
  for (const isOwn of [false, true]) {
    const rules = neededRights
      .filter(({ isOwnNamespace }) => (isOwnNamespace === true) === isOwn)
      .map(({ group, resource, subresource, verbs }) => ({ apiGroups: [group], resources: [subresource === undefined ? resource : `${resource}/${subresource}`], verbs }));
    const kind = isOwn ? 'Role' : 'ClusterRole';
    const at = (plural: string): string => `${rbac}/${isOwn ? `namespaces/${controllerNamespace}/` : ''}${plural}/nkudo-controller`;
    const metadata = { name: 'nkudo-controller', ...(isOwn ? { namespace: controllerNamespace } : {}) };
    await client.apply(at(`${kind.toLowerCase()}s`), { apiVersion, kind, metadata, rules });
    await client.apply(at(`${kind.toLowerCase()}bindings`), { apiVersion, kind: `${kind}Binding`, metadata, roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind, name: 'nkudo-controller' }, subjects });
  }
  const answer = await client.request('POST', `${account}/token`, { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { expirationSeconds: tokenSeconds } });
  const { status } = answer.body as { status?: { token?: string } }; // A TokenRequest, or a Status.
  if (status?.token === undefined) throw new Error(`no token for the controller: ${answer.status} ${JSON.stringify(answer.body)}`);
  const path = join(fileScope().directory, 'controller-kubeconfig');
  writeFileSync(path, renderKubeconfig({ ...access, adminToken: status.token }), { mode: 0o600 });
  return path;
}
