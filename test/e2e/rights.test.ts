/**
 * [R1] The controller's rights in Kubernetes are exactly those that it uses: a whole life of an installation under its own
 * identity, and then the API server's audit log against the list that the chart's role is made of.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { neededRights } from '#controller/doctor/rights.ts';
import { installRoles } from '#hack/stack/crds.ts';
import { createControllerIdentity, controllerNamespace, controllerUser } from '#test/harness/controller-identity.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { ask } from '../integration/http-api/http-reader.ts';
import { createWorld, microVMSpec, siteName, statusOf, type World } from './world.ts';

let world: World;
beforeAll(async () => {
  world = await createWorld();
  await world.startController();
});

const group = '/apis/nkudo.dev/v1alpha1';

function apply(plural: string, kind: string, name: string, spec: object): Promise<unknown> {
  const { namespace } = world;
  return world.kubernetes.client.apply(`${group}/namespaces/${namespace}/${plural}/${name}`, { apiVersion: 'nkudo.dev/v1alpha1', kind, metadata: { name, namespace }, spec });
}

async function waitReady(plural: string, name: string): Promise<void> {
  await until(async () => {
    const object = await world.kubernetes.client.find(`${group}/namespaces/${world.namespace}/${plural}/${name}`);
    const conditions = (object === null ? [] : statusOf(object)['conditions'] ?? []) as readonly { type: string; status: string }[]; // The shape of every condition list.
    return conditions.some(({ type, status }) => type === 'Ready' && status === 'True');
  }, `${plural}/${name} to be Ready`);
}

/** A program of the tenant, with the roles that its people have; gives its token for the tenants' API. */
async function createTenantProgram(): Promise<string> {
  const { client } = world.kubernetes;
  await installRoles(client);
  const account = `/api/v1/namespaces/${world.namespace}/serviceaccounts/robot`;
  await client.apply(account, { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'robot', namespace: world.namespace } });
  for (const role of ['nkudo-viewer', 'nkudo-operator']) {
    await client.apply(`/apis/rbac.authorization.k8s.io/v1/namespaces/${world.namespace}/rolebindings/${role}`, {
      apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'RoleBinding', metadata: { name: role, namespace: world.namespace },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: role }, subjects: [{ kind: 'ServiceAccount', name: 'robot', namespace: world.namespace }],
    });
  }
  // The API server takes up a binding a moment after it was made.
  await until(async () => {
    const review = await client.request('POST', '/apis/authorization.k8s.io/v1/subjectaccessreviews', {
      apiVersion: 'authorization.k8s.io/v1', kind: 'SubjectAccessReview',
      spec: { user: `system:serviceaccount:${world.namespace}:robot`, resourceAttributes: { namespace: world.namespace, group: 'nkudo.dev', resource: 'microvms', verb: 'delete' } },
    });
    return (review.body as { status: { allowed: boolean } }).status.allowed; // A review.
  }, 'the roles of the tenant’s program to be in force');
  const answer = await client.request('POST', `${account}/token`, { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { audiences: ['nkudo'] } });
  return (answer.body as { status: { token: string } }).status.token; // A TokenRequest.
}

const callPlan = async (token: string, actions: readonly object[], key: string): Promise<void> => {
  const authority = await world.kubernetes.client.get(`/api/v1/namespaces/${controllerNamespace}/secrets/nkudo-ca`);
  const trustBundlePem = Buffer.from((authority['data'] as Record<string, string>)['root.crt'] ?? '', 'base64').toString(); // Shape of every Secret.
  const answer = await ask(
    { address: world.endpoints().api, trustBundlePem, token },
    { method: 'POST', path: `/v1/namespaces/${world.namespace}/plans`, headers: { 'content-type': 'application/json' }, body: JSON.stringify({ site: siteName, idempotencyKey: key, actions }) },
  );
  if (answer.status !== 200) throw new Error(`ApplyPlan: ${answer.status} ${answer.text}`);
};

/** `verb group/resource/subresource (own)`. */
const written = (right: { verb: string; group: string; resource: string; subresource?: string | undefined; isOwn: boolean }): string =>
  `${right.verb} ${right.group === '' ? 'core' : right.group}/${right.resource}${right.subresource === undefined ? '' : `/${right.subresource}`}${right.isOwn ? ' in its own namespace' : ''}`;

describe('the controller’s rights', () => {
  it('[R1] are exactly those that a life of an installation uses, under the role that the chart gives', async () => {
    const mark = 0;
    await world.createSite();
    const host = await world.addHost('edge-1');
    // A class, a microVM of it, a set, a rollout of the agent, a key, and a token that nobody uses.
    await apply('microvmclasses', 'MicroVMClass', 'small', { cpu: { count: 1 }, memory: { size: '64Mi' } });
    const { cpu: _cpu, memory: _memory, ...classless } = microVMSpec(world.guest) as { cpu: unknown; memory: unknown };
    await apply('microvms', 'MicroVM', 'of-class', { ...classless, className: 'small' });
    await world.waitForCondition('microvms', 'of-class', { type: 'Running', status: 'True' });
    const { siteRef, ...template } = microVMSpec(world.guest) as { siteRef: object };
    await apply('microvmsets', 'MicroVMSet', 'tills', { replicas: 1, siteRef, template: { spec: template } });
    await world.waitForCondition('microvms', 'tills-0', { type: 'Running', status: 'True' });
    await apply('agentrollouts', 'AgentRollout', 'agents', { version: '9.9.9', rings: [{ name: 'nobody' }] });
    await until(async () => {
      const rollout = await world.kubernetes.client.find(`${group}/namespaces/${world.namespace}/agentrollouts/agents`);
      return rollout !== null && statusOf(rollout)['phase'] === 'Waiting';
    }, 'the rollout to say that it waits');
    await apply('apikeys', 'APIKey', 'deploy', { role: 'operate' });
    await waitReady('apikeys', 'deploy');
    await world.createToken('unused');
    await world.deleteObject('enrollmenttokens', 'unused');
    await world.waitUntilGone('enrollmenttokens', 'unused');
    const token = await createTenantProgram();
    // A tenant's plans make and delete a microVM.
    const object = { apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name: 'planned' }, spec: microVMSpec(world.guest) };
    await callPlan(token, [{ kind: 'KIND_CREATE', name: 'planned', objectJson: JSON.stringify(object) }], 'make');
    const planned = await world.waitForCondition('microvms', 'planned', { type: 'Running', status: 'True' });
    await callPlan(token, [{ kind: 'KIND_STOP', name: 'planned', uid: planned.metadata.uid }], 'stop');
    await world.waitForCondition('microvms', 'planned', { type: 'Running', status: 'False' });
    await callPlan(token, [{ kind: 'KIND_DELETE', name: 'planned', uid: planned.metadata.uid }], 'delete');
    await world.waitUntilGone('microvms', 'planned');
    // Another term: each writes how far the database has come.
    await world.stopController();
    await world.startController();
    // The operator's command, with the same identity.
    const programs = await fileScope().shared('programs');
    const kubeconfig = await createControllerIdentity(world.kubernetes);
    for (const args of [['ca', 'rotate'], ['remaining']]) {
      const run = await fileScope().start({ name: args.join('-'), command: programs.node, args: [programs.controller, ...args], environment: { KUBECONFIG: kubeconfig } });
      expect((await run.exited).code, run.lines().join('\n')).toBe(0);
    }
    // And the end of it all.
    for (const name of ['of-class']) await world.deleteObject('microvms', name);
    await world.kubernetes.client.request('DELETE', `${group}/namespaces/${world.namespace}/microvmsets/tills`);
    await world.deleteObject('microvms', 'tills-0');
    await Promise.all(['of-class', 'tills-0'].map((name) => world.waitUntilGone('microvms', name)));
    await world.kubernetes.client.request('DELETE', `${group}/namespaces/${world.namespace}/agentrollouts/agents`);
    await world.kubernetes.client.request('DELETE', `${group}/namespaces/${world.namespace}/apikeys/deploy`);
    await host.stopAgent();
    // A Site that goes by force takes its hosts along.
    const { metadata } = await world.get('sites', siteName);
    await world.kubernetes.client.request('PATCH', world.path('sites', siteName), { metadata: { annotations: { 'nkudo.dev/force-delete': metadata.uid } } }, 'application/merge-patch+json');
    await world.deleteObject('sites', siteName);
    await world.waitUntilGone('hosts', 'edge-1');
    await world.waitUntilGone('sites', siteName);
    await world.stopController();

    const events = world.kubernetes.audit.since(mark).filter(({ user }) => user.username === controllerUser);
    expect(events.length).toBeGreaterThan(100);
    expect(events.filter(({ annotations }) => annotations?.['authorization.k8s.io/decision'] === 'forbid').map(({ verb, requestURI }) => `${verb} ${requestURI}`)).toEqual([]);
    const granted = neededRights.flatMap(({ group: apiGroup, resource, subresource, verbs, isOwnNamespace }) => verbs.map((verb) => ({ verb, group: apiGroup, resource, subresource, isOwn: isOwnNamespace === true })));
    const isUsed = ({ verb, group: apiGroup, resource, subresource, isOwn }: (typeof granted)[number]): boolean =>
      events.some(({ verb: used, objectRef }) => used === verb && (objectRef?.apiGroup ?? '') === apiGroup && objectRef?.resource === resource && objectRef.subresource === subresource && (!isOwn || objectRef.namespace === controllerNamespace));
    // Only a write that meets another one reads the object again (runtime/status-patch.ts), and no scenario makes that happen for sure.
    const hasStatus = ({ group: apiGroup, resource }: (typeof granted)[number]): boolean => granted.some((right) => right.group === apiGroup && right.resource === resource && right.subresource === 'status');
    const isAfterConflict = (right: (typeof granted)[number]): boolean => right.verb === 'get' && right.subresource === undefined && hasStatus(right);
    expect(granted.filter((right) => !isUsed(right) && !isAfterConflict(right)).map(written)).toEqual([]);
  });
});
