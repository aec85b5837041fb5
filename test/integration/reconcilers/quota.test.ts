/** The quota of a Site as its people see it: one clear sentence on the microVM, usage on the Site, room again by a change. */
import { beforeAll, describe, expect, it } from 'vitest';
import { messageOf, microvmSpec, siteName, startLeader, statusOf, type Leader } from './leader.ts';
import { enrollMachine } from './machine.ts';

let leader: Leader;

beforeAll(async () => {
  leader = await startLeader();
  await leader.apply('sites', siteName, { quota: { microvms: 1, vcpus: 2, memory: '1Gi' } });
  await leader.waitForCondition('sites', siteName, 'Accepted=True');
  const machine = await enrollMachine(leader, 'edge-1');
  await machine.connect();
  await leader.waitForCondition('hosts', 'edge-1', 'Ready=True');
  machine.obey();
});

const change = (name: string, spec: object) => leader.kubernetes.client.request('PATCH', leader.path('microvms', name), { spec }, 'application/merge-patch+json');

describe('a microVM above the quota of its Site', () => {
  it('is not bound, says why in one sentence, and is bound when the quota is raised', async () => {
    await leader.apply('microvms', 'first', microvmSpec());
    await leader.waitForCondition('microvms', 'first', 'Running=True');
    await leader.apply('microvms', 'second', microvmSpec());
    const denied = await leader.waitForCondition('microvms', 'second', 'QuotaDenied=True/QuotaExceeded');
    expect(messageOf(denied, 'QuotaDenied')).toBe(`the quota of Site ${siteName} is 1 microVM: the other microVMs have 1 microVM, and this one asks for 1 microVM`);
    expect(messageOf(denied, 'Ready')).toBe(messageOf(denied, 'QuotaDenied'));
    expect(statusOf(denied)).toMatchObject({ printableStatus: 'Unschedulable' });
    await leader.waitFor('sites', siteName, 'its usage', (site) => (statusOf(site)['usedQuota'] as { microvms?: number } | undefined)?.microvms === 2);
    await leader.apply('sites', siteName, { quota: { microvms: 2, vcpus: 2, memory: '2Gi' } });
    const bound = await leader.waitForCondition('microvms', 'second', 'Running=True');
    expect(messageOf(bound, 'QuotaDenied')).toBe('');
  });

  it('goes on with its old spec when it asks for more, can be stopped, and is bound when another one goes', async () => {
    await change('first', { cpu: { count: 2 } });
    const denied = await leader.waitForCondition('microvms', 'first', 'QuotaDenied=True/QuotaExceeded');
    expect(messageOf(denied, 'QuotaDenied')).toContain('is 2 vCPUs: the other microVMs have 1 vCPU, and this one asks for 2 vCPUs');
    expect(statusOf(denied)).toMatchObject({ printableStatus: 'Running', hostObservedGeneration: 1 });
    await leader.remove('microvms', 'second');
    await leader.waitUntilGone('microvms', 'second');
    const grown = await leader.waitFor('microvms', 'first', 'its new spec on the host', (object) => statusOf(object)['hostObservedGeneration'] === 2);
    expect(messageOf(grown, 'QuotaDenied')).toBe('');
    await leader.apply('sites', siteName, { quota: { microvms: 0, vcpus: 0 } });
    await change('first', { runPolicy: 'Halted' });
    await leader.waitForCondition('microvms', 'first', 'Running=False/Halted');
  });
});
