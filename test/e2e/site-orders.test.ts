/**
 * Orders of a person at the site against a whole control plane: given while it is away, they outlive the agent and a
 * power cut, are reported and audited when it is back, and end as the pages say. Nothing restarts on the way.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { killProcessesOf } from '#hack/stack/run-directory.ts';
import { until } from '#test/harness/until.ts';
import { conditionOf, createWorld, statusOf, type TestHost, type World } from './world.ts';

let world: World;
let host: TestHost;
const names = ['stopped', 'held', 'other'];
const uids = new Map<string, string>();

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
  for (const name of names) uids.set(name, String((await world.applyMicroVM(name)).metadata.uid));
  for (const name of names) await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
});

const live = (name: string) => host.vmms().filter(({ directory }) => directory.includes(uids.get(name) ?? 'unknown'));
const order = async (...words: string[]): Promise<void> => {
  const { code, output } = await host.command(['vm', ...words]);
  expect(output).not.toContain('nkudo-edge:');
  expect(code).toBe(0);
};
const untilConverged = (): Promise<void> =>
  until(() => host.agent().lines().filter((line) => line.includes('"msg":"converged"')).length >= names.length, 'the agent to have looked at every microVM');
const audited = (name: string): Promise<readonly Record<string, unknown>[]> =>
  world.database.query(`SELECT actor_kind, actor_name, action FROM nkudo.audit_events WHERE subject_id = $1 AND (actor_kind = 'siteOperator' OR action LIKE 'siteOrder%') ORDER BY id`, [uids.get(name)]);

describe('a person at the site', () => {
  it('[E4] stops one and holds one while the control plane is away: they stay down over kill -9 and power loss, and are reported without any restart', async () => {
    await world.crashController();
    await order('stop', 'stopped');
    await order('hold', 'held');
    expect([live('stopped'), live('held')]).toEqual([[], []]);
    await host.crashAgent();
    await host.startAgent();
    await untilConverged();
    expect([live('stopped').length, live('held').length, live('other').length]).toEqual([0, 0, 1]);
    await host.crashAgent();
    await killProcessesOf(host.stateDirectory);
    await host.startAgent();
    await until(() => live('other').length === 1, 'the one that nobody stopped to run again');
    await untilConverged();
    expect([live('stopped'), live('held')]).toEqual([[], []]);
    const before = live('other').map(({ pid }) => pid);

    // A change that was made during the cut starts nothing under the hands of whoever stands there.
    await world.patchMicroVM('stopped', { restartNonce: 1 });
    await world.patchMicroVM('held', { restartNonce: 1 });
    await world.startController();
    const stopped = await world.waitForCondition('microvms', 'stopped', { type: 'SiteOverride', status: 'True', reason: 'StoppedAtSite' });
    const held = await world.waitForCondition('microvms', 'held', { type: 'SiteOverride', status: 'True', reason: 'HeldAtSite' });
    expect(conditionOf(held, 'SiteOverride')?.message).toMatch(/^held down by \S+ \(uid \d+\) on host edge-1 at 20.*nkudo-edge vm release.*nkudo.dev\/override-hold=\d+$/);
    for (const [object, reason] of [[stopped, 'StoppedAtSite'], [held, 'HeldAtSite']] as const) {
      expect(conditionOf(object, 'Running')).toMatchObject({ status: 'False', reason });
      expect(statusOf(object)['printableStatus']).toBe('Stopped');
    }
    // The plan that asked for a restart meanwhile says why there was none.
    for (const [name, code] of [['stopped', 'STOPPED_AT_SITE'], ['held', 'HELD_AT_SITE']] as const) {
      await until(async () => (await world.database.query(`SELECT FROM nkudo.operations WHERE microvm_id = $1 AND kind = 'Restart' AND status = 'Failed' AND error_code = $2`, [uids.get(name), code])).length === 1, `the restart of ${name} to end with ${code}`);
    }
    expect([live('stopped'), live('held')]).toEqual([[], []]);
    expect(live('other').map(({ pid }) => pid)).toEqual(before);
    await until(async () => (await audited('held')).length === 1, 'the audit row of the hold');
    expect(await audited('held')).toEqual([{ actor_kind: 'siteOperator', actor_name: expect.stringMatching(/\(uid \d+\)$/), action: 'heldAtSite' }]);
    expect(await audited('stopped')).toEqual([expect.objectContaining({ action: 'stoppedAtSite' })]);
  });

  it('[E10] a stop ends with a new restartNonce, and with nothing else of the spec', async () => {
    await world.patchMicroVM('stopped', { terminationGracePeriod: '3s' });
    await world.waitUntil('microvms', 'stopped', 'taken over by the host', (object) => statusOf(object)['hostObservedGeneration'] === object.metadata.generation);
    expect(live('stopped')).toEqual([]);
    await world.patchMicroVM('stopped', { restartNonce: 2 });
    await world.waitForCondition('microvms', 'stopped', { type: 'Running', status: 'True' });
    await world.waitForCondition('microvms', 'stopped', { type: 'SiteOverride', status: 'False', reason: 'NoOverride' });
    expect((await audited('stopped')).map(({ action }) => action)).toEqual(['stoppedAtSite', 'siteOrderEnded']);
  });

  it('[E10] a hold stands against the spec and ends by the annotation that names its number, which is audited; a later hold stands again', async () => {
    await world.patchMicroVM('held', { restartNonce: 2 });
    await world.waitUntil('microvms', 'held', 'taken over by the host', (object) => statusOf(object)['hostObservedGeneration'] === object.metadata.generation);
    const object = await world.get('microvms', 'held');
    expect(conditionOf(object, 'SiteOverride')).toMatchObject({ status: 'True', reason: 'HeldAtSite' });
    const number = /override-hold=(\d+)$/.exec(conditionOf(object, 'SiteOverride')?.message ?? '')?.[1] ?? '';
    const annotated = await world.kubernetes.client.request('PATCH', world.path('microvms', 'held'), { metadata: { annotations: { 'nkudo.dev/override-hold': number } } }, 'application/merge-patch+json');
    expect(annotated.status).toBe(200);
    await world.waitForCondition('microvms', 'held', { type: 'Running', status: 'True' });
    await until(() => live('held').length === 1, 'the guest that was held to run');
    await order('hold', 'held');
    await world.waitForCondition('microvms', 'held', { type: 'SiteOverride', status: 'True', reason: 'HeldAtSite' });
    await order('release', 'held');
    await world.waitForCondition('microvms', 'held', { type: 'SiteOverride', status: 'False' });
    await until(async () => (await audited('held')).length === 4, 'every order to be audited');
    expect((await audited('held')).map(({ action }) => action)).toEqual(['heldAtSite', 'siteOrderOverruled', 'heldAtSite', 'releasedAtSite']);
  });

  it('[E10] a hold does not stand in the way of a deletion', async () => {
    await order('hold', 'other');
    await world.deleteObject('microvms', 'other');
    await world.waitUntilGone('microvms', 'other');
    expect(live('other')).toEqual([]);
  });
});
