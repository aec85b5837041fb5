/**
 * Sizes from a MicroVMClass, and when a change of them takes effect: with updateStrategy, a maintenance window and hold,
 * on a real API server and a real Postgres. The machine says of every change of size that it needs a restart.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { messageOf, siteName, startPlacementSite, statusOf, type PlacementSite } from './site.ts';
import type { Machine } from '../reconcilers/machine.ts';

let site: PlacementSite;
let machine: Machine;

beforeAll(async () => {
  site = await startPlacementSite();
  machine = await site.addMachine('edge-1', { isObedient: false });
  let working: Promise<void> = Promise.resolve();
  const work = async (): Promise<void> => {
    for (const operation of await machine.claim()) {
      const state = operation.kind === 'Delete' ? 'absent' : 'running';
      await machine.report(operation, { state, isRestartRequired: operation.kind === 'Update' });
    }
  };
  site.onHint((hint) => {
    if (hint.kind === 'operations' && hint.hostId === machine.hostId) working = working.then(work);
  });
  await makeClass('small', 1);
});

const classPath = (name: string): string => `/apis/nkudo.dev/v1alpha1/namespaces/${site.namespace}/microvmclasses/${name}`;
const makeClass = (name: string, count: number) =>
  site.kubernetes.client.apply(classPath(name), { apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVMClass', metadata: { name, namespace: site.namespace }, spec: { cpu: { count }, memory: { size: '64Mi' } } });
const make = (name: string, spec: object) =>
  site.kubernetes.client.apply(site.path('microvms', name), {
    apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name, namespace: site.namespace },
    spec: { siteRef: { name: siteName }, className: 'small', boot: { kernel: { path: '/images/guest.elf' } }, ...spec },
  });
async function operationsOf(name: string): Promise<readonly unknown[]> {
  const { metadata } = await site.kubernetes.client.get(site.path('microvms', name));
  const rows = await site.rows.query(`select kind, (desired->>'cpuCount')::int as cpus, (desired->>'restartNonce')::int as nonce from nkudo.operations where microvm_id = $1 order by revision`, [metadata.uid]);
  return rows.map(({ kind, cpus, nonce }) => `${String(kind)} ${String(cpus)} ${String(nonce)}`);
}
const restarted = (name: string) => site.waitFor('microvms', name, 'to run with the change', (object) => messageOf(object, 'RestartRequired') === 'no restart is needed for the newest spec' && statusOf(object)['printableStatus'] === 'Running');

describe('a MicroVMClass', () => {
  it('gives the sizes that a microVM leaves out, and no class of that name is said', async () => {
    await make('sized', {});
    await site.waitForCondition('microvms', 'sized', 'Running=True');
    expect(await operationsOf('sized')).toEqual(['Create 1 0']);
    await make('lost', { className: 'huge' });
    expect(messageOf(await site.waitForCondition('microvms', 'lost', 'Accepted=False/ClassNotFound'), 'Accepted')).toContain('there is no MicroVMClass huge in this namespace');
    await makeClass('huge', 2);
    await site.waitForCondition('microvms', 'lost', 'Running=True');
    expect(await operationsOf('lost')).toEqual(['Create 2 0']);
  });

  it('reaches its microVMs when it changes; OnRestart waits for a restart and says so', async () => {
    await makeClass('small', 2);
    await site.waitForCondition('microvms', 'sized', 'RestartRequired=True/SpecChanged');
    expect(await operationsOf('sized')).toEqual(['Create 1 0', 'Update 2 0']);
  });

  it('leaves a microVM its size when it is deleted', async () => {
    await site.kubernetes.client.request('DELETE', classPath('huge'));
    await site.patch('microvms', 'lost', { spec: { restartNonce: 1 } });
    await site.waitFor('microvms', 'lost', 'generation 2 on the host', (object) => statusOf(object)['hostObservedGeneration'] === 2);
    expect(await operationsOf('lost')).toEqual(['Create 2 0', 'Restart 2 1']);
  });
});

describe('what a Site says is in use', () => {
  it('counts sizes of a class, also when they change', async () => {
    const usedAt = (object: Parameters<typeof statusOf>[0]): number => (statusOf(object)['usedQuota'] as { vcpus?: number } | undefined)?.vcpus ?? 0; // The status that the CRD describes.
    const used = (vcpus: number) => site.waitFor('sites', siteName, `${vcpus} vCPUs in use`, (object) => usedAt(object) === vcpus);
    // `sized` has two; what class `huge` said of `lost` is gone.
    await makeClass('medium', 1);
    await make('counted', { className: 'medium', runPolicy: 'Halted' });
    await used(3);
    await makeClass('medium', 3);
    await used(5);
  });
});

describe('a Site whose time zone nobody knows', () => {
  it('says so, and that it is known again', async () => {
    await site.patch('sites', siteName, { spec: { timeZone: 'Europe/Berln' } });
    const lost = await site.waitForCondition('sites', siteName, 'TimeZoneKnown=False/TimeZoneUnknown');
    expect(messageOf(lost, 'TimeZoneKnown')).toContain('there is no time zone Europe/Berln');
    await site.patch('sites', siteName, { spec: { timeZone: 'Europe/Berlin' } });
    await site.waitForCondition('sites', siteName, 'TimeZoneKnown=True');
    await site.patch('sites', siteName, { spec: { timeZone: null } });
  });
});

describe('when a change takes effect', () => {
  it('is at once with Recreate, by one restart', async () => {
    await site.patch('microvms', 'sized', { spec: { updateStrategy: 'Recreate' } });
    await restarted('sized');
    const operations = await operationsOf('sized');
    expect(operations.at(-1)).toBe('Restart 2 1');
    await makeClass('small', 3);
    await site.waitFor('microvms', 'sized', 'the next size', () => true);
    await restarted('sized');
  });

  it('is after a hold of the Site', async () => {
    await site.patch('sites', siteName, { spec: { hold: true } });
    await site.waitFor('sites', siteName, 'the hold taken over', (object) => statusOf(object)['observedGeneration'] === object.metadata.generation);
    await makeClass('small', 4);
    expect(messageOf(await site.waitForCondition('microvms', 'sized', 'UpdateHeld=True/SiteHold'), 'UpdateHeld')).toContain('hold of the Site shop-1 is true');
    await site.waitForCondition('microvms', 'sized', 'RestartRequired=True');
    await site.patch('sites', siteName, { spec: { hold: false } });
    await site.waitForCondition('microvms', 'sized', 'UpdateHeld=False/NotHeld');
    await restarted('sized');
    expect((await operationsOf('sized')).at(-1)).toMatch(/^Restart 4 /);
  });

  it('is in a window of the Site, and the microVM says which', async () => {
    const clock = (offsetMinutes: number): string => new Date(Date.now() + offsetMinutes * 60_000).toISOString().slice(11, 16);
    await site.patch('sites', siteName, { spec: { timeZone: 'UTC', maintenanceWindows: [{ name: 'later', start: clock(360), duration: '1h' }] } });
    await site.waitFor('sites', siteName, 'the windows taken over', (object) => statusOf(object)['observedGeneration'] === object.metadata.generation);
    await site.patch('microvms', 'sized', { spec: { updateStrategy: 'Window' } });
    await makeClass('small', 5);
    expect(messageOf(await site.waitForCondition('microvms', 'sized', 'UpdateHeld=True/OutsideWindow'), 'UpdateHeld')).toMatch(/in window later, which opens at \d{4}-/);
    await site.patch('sites', siteName, { spec: { maintenanceWindows: [{ name: 'now', start: clock(-60), duration: '3h' }] } });
    await site.waitForCondition('microvms', 'sized', 'UpdateHeld=False/NotHeld');
    await restarted('sized');
    expect((await operationsOf('sized')).at(-1)).toMatch(/^Restart 5 /);
  });
});
