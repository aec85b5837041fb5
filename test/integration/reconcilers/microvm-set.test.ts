/** MicroVMSets on a real API server and Postgres: numbers by kubectl scale, one for each host, changes one after the other, deletion. */
import { beforeAll, describe, expect, it } from 'vitest';
import { until } from '#test/harness/until.ts';
import { messageOf, microvmSpec, siteName, startLeader, statusOf, type Leader } from './leader.ts';
import { enrollMachine } from './machine.ts';

let leader: Leader;

beforeAll(async () => {
  leader = await startLeader();
  await leader.apply('sites', siteName, {});
  await leader.waitForCondition('sites', siteName, 'Accepted=True');
  for (const name of ['edge-1', 'edge-2']) await addHost(name);
});

async function addHost(name: string): Promise<void> {
  const machine = await enrollMachine(leader, name);
  // Before it is Ready: a set with one for each host has an operation for it at that moment.
  machine.obey();
  await machine.connect();
  await leader.waitForCondition('hosts', name, 'Ready=True');
}

const { siteRef: _, ...template } = microvmSpec() as { siteRef: unknown } & Record<string, unknown>;
const setSpec = (changes: object = {}): object => ({ mode: 'Replicas', replicas: 2, siteRef: { name: siteName }, template: { spec: template }, ...changes });

interface Listed {
  readonly metadata: { readonly name: string; readonly uid: string; readonly creationTimestamp: string };
  readonly spec: Readonly<Record<string, unknown>>;
}

async function members(set: string): Promise<readonly Listed[]> {
  const answer = await leader.kubernetes.client.request('GET', `${leader.path('microvms')}?labelSelector=nkudo.dev/microvmset=${set}`);
  return (answer.body as { items: Listed[] }).items.toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1)); // A list of the API server.
}

const names = async (set: string): Promise<readonly string[]> => (await members(set)).map(({ metadata }) => metadata.name);
const patch = (plural: 'microvms' | 'microvmsets', name: string, body: object) => leader.kubernetes.client.request('PATCH', leader.path(plural, name), body, 'application/merge-patch+json');
const settled = (name: string, count: number) =>
  leader.waitFor('microvmsets', name, `${count} to be Ready`, (set) => {
    const status = statusOf(set);
    const conditions = status['conditions'] as readonly { reason: string; observedGeneration: number }[] | undefined; // The status that the CRD describes.
    return conditions?.[0]?.reason === 'AllReady' && status['readyReplicas'] === count && status['replicas'] === count && status['observedGeneration'] === set.metadata.generation;
  });

describe('a set of replicas', () => {
  it('makes them, follows kubectl scale up and down from the highest number, and says how many there are', async () => {
    await leader.apply('microvmsets', 'tills', setSpec());
    await settled('tills', 2);
    expect(await names('tills')).toEqual(['tills-0', 'tills-1']);
    const [first] = await members('tills');
    await leader.kubernetes.kubectl(['scale', 'microvmset/tills', '--replicas=4'], { namespace: leader.namespace });
    await settled('tills', 4);
    await leader.kubernetes.kubectl(['scale', 'microvmset/tills', '--replicas=1'], { namespace: leader.namespace });
    await settled('tills', 1);
    expect((await members('tills')).map(({ metadata }) => metadata.uid)).toEqual([first?.metadata.uid]);
  });

  it('makes one again that somebody deleted, and takes none that is not its own', async () => {
    await leader.apply('microvms', 'kiosk-1', microvmSpec());
    await leader.apply('microvmsets', 'kiosk', setSpec());
    const blocked = await leader.waitForCondition('microvmsets', 'kiosk', 'Ready=False/NameTaken');
    expect(messageOf(blocked, 'Ready')).toContain('MicroVM kiosk-1 exists and is not of this set');
    await leader.remove('microvms', 'kiosk-1');
    await settled('kiosk', 2);
    const [first] = await members('kiosk');
    await leader.remove('microvms', 'kiosk-0');
    await until(async () => (await members('kiosk'))[0]?.metadata.uid !== first?.metadata.uid && (await names('kiosk')).length === 2, 'kiosk-0 to be made anew', { timeoutMs: 30_000 });
    await settled('kiosk', 2);
    await leader.remove('microvmsets', 'kiosk');
    await leader.waitUntilGone('microvmsets', 'kiosk');
    expect(await names('kiosk')).toEqual([]);
  });

  it('says what the API server says of a template that is refused, and goes on once it is mended', async () => {
    await leader.apply('microvmsets', 'wrong', setSpec({ replicas: 1, template: { spec: { ...template, cpu: { count: 0 } } } }));
    const refused = await leader.waitForCondition('microvmsets', 'wrong', 'Ready=False/TemplateRefused');
    expect(messageOf(refused, 'Ready')).toMatch(/^MicroVM wrong-0 can not be made: .*spec\.cpu\.count/);
    await leader.apply('microvmsets', 'wrong', setSpec({ replicas: 1 }));
    await settled('wrong', 1);
    await leader.remove('microvmsets', 'wrong');
    await leader.waitUntilGone('microvmsets', 'wrong');
  });

  it('changes one after the other, keeps a restart that was asked for, and differs where an override says so', async () => {
    await leader.apply('microvmsets', 'roll', setSpec({ replicas: 3, overrides: [{ name: '2', spec: { memory: { size: '128Mi' } } }] }));
    await settled('roll', 3);
    await patch('microvms', 'roll-0', { spec: { restartNonce: 7 } });
    const before = await members('roll');
    await leader.apply('microvmsets', 'roll', setSpec({ replicas: 3, template: { spec: { ...template, terminationGracePeriod: '7s' } }, overrides: [{ name: '2', spec: { memory: { size: '128Mi' } } }] }));
    await leader.waitFor('microvmsets', 'roll', 'all to be changed', (set) => statusOf(set)['updatedReplicas'] === 3 && statusOf(set)['observedGeneration'] === set.metadata.generation);
    await settled('roll', 3);
    const after = await members('roll');
    expect(after.map(({ metadata }) => metadata.uid)).toEqual(before.map(({ metadata }) => metadata.uid));
    expect(after.map(({ spec }) => spec['terminationGracePeriod'])).toEqual(['7s', '7s', '7s']);
    expect(after[0]?.spec['restartNonce']).toBe(7);
    expect(after.map(({ spec }) => spec['memory'])).toEqual([{ size: '64Mi' }, { size: '64Mi' }, { size: '128Mi' }]);
  });

  it('lets them go with --cascade=orphan, and a set of the same name takes them back', async () => {
    const before = await members('roll');
    const set = await leader.kubernetes.client.find(leader.path('microvmsets', 'roll'));
    // What the garbage collector, which is not part of this API server, does with that flag.
    await patch('microvmsets', 'roll', { metadata: { finalizers: [...(set?.metadata.finalizers ?? []), 'orphan'] } });
    await leader.remove('microvmsets', 'roll');
    for (const { metadata } of before) await patch('microvms', metadata.name, { metadata: { ownerReferences: null } });
    await leader.waitFor('microvmsets', 'roll', 'the set to be let go', (object) => object.metadata.finalizers?.join() === 'orphan');
    await patch('microvmsets', 'roll', { metadata: { finalizers: [] } });
    await leader.waitUntilGone('microvmsets', 'roll');
    await leader.apply('microvmsets', 'roll', setSpec({ replicas: 3, template: { spec: { ...template, terminationGracePeriod: '7s' } }, overrides: [{ name: '2', spec: { memory: { size: '128Mi' } } }] }));
    await settled('roll', 3);
    expect((await members('roll')).map(({ metadata }) => metadata.uid)).toEqual(before.map(({ metadata }) => metadata.uid));
  });
});

describe('a set with one for each host', () => {
  it('has one on each, also on a host that comes later, and none where a taint keeps it away', async () => {
    await leader.apply('microvmsets', 'probe', { mode: 'PerHost', siteRef: { name: siteName }, template: { spec: template } });
    await settled('probe', 2);
    expect((await members('probe')).map(({ metadata, spec }) => [metadata.name, spec['placement']])).toEqual([['probe-edge-1', { hostName: 'edge-1' }], ['probe-edge-2', { hostName: 'edge-2' }]]);
    await addHost('edge-3');
    await settled('probe', 3);
    await leader.kubernetes.client.request('PATCH', leader.path('hosts', 'edge-3'), { spec: { taints: [{ key: 'gpu', value: 'yes', effect: 'NoExecute' }] } }, 'application/merge-patch+json');
    await settled('probe', 2);
    expect(await names('probe')).toEqual(['probe-edge-1', 'probe-edge-2']);
  });
});
