/**
 * The cluster is lost and its manifests are applied to a new one: the same agent and the same Postgres, another API server
 * in which every object has another UID. Nothing is started a second time, and after rebind and adoption the new objects
 * go on with the processes of before. The Secrets of the controller come from a backup, as the documents ask.
 */
import { beforeAll, expect, it } from 'vitest';
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { conditionOf, createWorld, microVMSpec, siteName, statusOf, type TestHost, type World } from './world.ts';

const controllerEnvironment: Record<string, string> = {};
const giveUpMs = 90_000;

let world: World;
let next: TestKubernetes;
let host: TestHost;
beforeAll(async () => {
  [world, next] = await Promise.all([createWorld({ controllerEnvironment }), useKubernetes({ exclusive: true })]);
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
  for (const name of ['web', 'forgotten']) {
    await world.applyMicroVM(name);
    await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
  }
});

const path = (plural: string, name?: string): string => `/apis/nkudo.dev/v1alpha1/namespaces/${world.namespace}/${plural}${name === undefined ? '' : `/${name}`}`;

async function applyAnew(plural: string, kind: string, name: string, spec: unknown, annotations: Readonly<Record<string, string>> = {}): Promise<void> {
  await next.client.apply(path(plural, name), { apiVersion: 'nkudo.dev/v1alpha1', kind, metadata: { name, namespace: world.namespace, annotations }, spec });
}

async function waitAnew(plural: string, name: string, what: string, matches: (object: KubernetesObject) => boolean): Promise<KubernetesObject> {
  const watching = next.client.watch(path(plural, name));
  try {
    return (await watching.waitFor((event) => event.type !== 'DELETED' && matches(event.object), { what: `${plural}/${name}: ${what}`, timeoutMs: giveUpMs })).object;
  } finally {
    watching.stop();
  }
}

const isTrue = (type: string) => (object: KubernetesObject): boolean => conditionOf(object, type)?.status === 'True';

/** The command, as an administrator runs it. */
async function rebind(): Promise<string> {
  const scope = fileScope();
  const programs = await scope.shared('programs');
  const run = await scope.start({
    name: 'rebind',
    command: programs.node,
    args: [programs.controller, 'tenant', 'rebind', world.namespace],
    environment: { KUBECONFIG: next.access.kubeconfig, NKUDO_DATABASE_URL: world.database.appUrl, NKUDO_DATABASE_SYSTEM_URL: world.database.systemUrl },
  });
  const end = await run.exited;
  expect(end.code, run.lines().join('\n')).toBe(0);
  return run.lines().join('\n');
}

it('goes on with what runs: nothing twice, the same processes, and what has no object is listed and left alone', async () => {
  const before = host.vmms();
  expect(before).toHaveLength(2);
  const oldUid = String((await world.get('microvms', 'web')).metadata.uid);
  const forgottenUid = String((await world.get('microvms', 'forgotten')).metadata.uid);
  const secrets = ((await world.kubernetes.client.list('/api/v1/namespaces/nkudo-system/secrets')) as readonly (KubernetesObject & { data?: unknown; type?: unknown })[]);
  await world.stopController();

  for (const name of [world.namespace, 'nkudo-system']) await next.client.apply(`/api/v1/namespaces/${name}`, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
  for (const { metadata: { name }, data, type } of secrets) {
    await next.client.apply(`/api/v1/namespaces/nkudo-system/secrets/${name}`, { apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace: 'nkudo-system' }, type, data });
  }
  controllerEnvironment['KUBECONFIG'] = next.access.kubeconfig;
  await world.startController();
  await applyAnew('sites', 'Site', siteName, {});
  await applyAnew('microvms', 'MicroVM', 'web', microVMSpec(world.guest));
  const refused = await waitAnew('microvms', 'web', 'AdoptionRequired', (object) => conditionOf(object, 'Accepted')?.reason === 'AdoptionRequired');
  expect(conditionOf(refused, 'Accepted')?.message).toContain(`nkudo-controller tenant rebind ${world.namespace}`);
  expect(refused.metadata.uid).not.toBe(oldUid);
  expect(host.vmms()).toEqual(before);

  const told = await rebind();
  expect(told).toContain(`annotate mvm web nkudo.dev/adopt=${oldUid}`);
  expect(await rebind()).toBe(told);
  // The host is made again by its enrollment, and shows what nobody has an object for.
  const listed = await waitAnew('hosts', 'edge-1', 'orphans', (object) => ((statusOf(object)['orphans'] as readonly unknown[] | undefined) ?? []).length === 2 && isTrue('Ready')(object));
  expect(statusOf(listed)['orphans']).toEqual([{ uid: forgottenUid }, { uid: oldUid }].toSorted((a, b) => (a.uid < b.uid ? -1 : 1)));
  await waitAnew('microvms', 'web', 'still AdoptionRequired', (object) => conditionOf(object, 'Accepted')?.message.includes('belongs to no object') === true);
  expect(host.vmms()).toEqual(before);

  await applyAnew('microvms', 'MicroVM', 'web', microVMSpec(world.guest), { 'nkudo.dev/adopt': oldUid });
  await waitAnew('microvms', 'web', 'Running', isTrue('Running'));
  expect(host.vmms()).toEqual(before);
  await waitAnew('hosts', 'edge-1', 'one orphan', (object) => JSON.stringify(statusOf(object)['orphans']) === JSON.stringify([{ uid: forgottenUid }]));

  // It is this object's now: its changes reach the process, and its deletion ends it and nothing else.
  const paused = await next.client.request('PATCH', path('microvms', 'web'), { spec: { paused: true } }, 'application/merge-patch+json');
  const { generation } = (paused.body as KubernetesObject).metadata;
  await waitAnew('microvms', 'web', 'paused', (object) => statusOf(object)['hostObservedGeneration'] === generation && conditionOf(object, 'Running')?.reason === 'Paused');
  expect(host.vmms()).toEqual(before);
  await world.stopController();
  await world.startController();
  const gone = next.client.watch(path('microvms', 'web'));
  await next.client.request('DELETE', path('microvms', 'web'));
  await gone.waitFor((event) => event.type === 'DELETED', { what: 'web: gone', timeoutMs: giveUpMs });
  gone.stop();
  expect(host.vmms()).toHaveLength(1);
  expect(before).toEqual(expect.arrayContaining([...host.vmms()]));
  const actions = (await world.database.query(`select distinct action from nkudo.audit_events where action in ('rebound', 'adopted') order by 1`)).map((row) => row['action']);
  expect(actions).toEqual(['adopted', 'rebound']);
});
