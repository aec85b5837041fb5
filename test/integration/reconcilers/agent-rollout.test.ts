/**
 * AgentRollouts on a real API server and Postgres, with hosts that are played: what each of them is ordered, ring after ring,
 * what happens when a version fails, and that a controller that is killed around any write goes on. Real agents are in
 * test/e2e/agent-rollout.test.ts.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import type { AgentPhase } from '#api/model/release.ts';
import { rolloutSteps, type ProcessFaultPoints } from '#controller/fault-points.ts';
import { until } from '#test/harness/until.ts';
import { describeConditions, messageOf, siteName, startLeader, statusOf, type Leader } from './leader.ts';
import { enrollMachine, type Machine } from './machine.ts';

const [before, good, bad] = ['0.4.0', '0.5.0', '0.6.0'];
const releases = 'https://releases.example/{version}/manifest.json';

let leader: Leader;
let dieAt: string | null = null;
const machines = new Map<string, Machine>();

beforeAll(async () => {
  const faults: ProcessFaultPoints = {
    ...inertFaultPoints(),
    reach: async (point) => {
      if (point !== dieAt) return;
      dieAt = null;
      throw new Error(`killed at ${point}`);
    },
  };
  leader = await startLeader({ faults, settings: { agentReleases: releases } });
  await leader.apply('sites', siteName, {});
  await leader.waitForCondition('sites', siteName, 'Accepted=True');
  for (const [name, tier] of [['edge-1', 'canary'], ['edge-2', 'canary'], ['edge-3', 'rest']] as const) {
    const machine = await enrollMachine(leader, name, { agentVersion: before });
    await machine.connect();
    await leader.waitForCondition('hosts', name, 'Ready=True');
    await patch('hosts', name, { metadata: { labels: { tier } } });
    machines.set(name, machine);
  }
});

const patch = (plural: 'hosts' | 'agentrollouts', name: string, body: object) => leader.kubernetes.client.request('PATCH', leader.path(plural, name), body, 'application/merge-patch+json');
const machine = (name: string): Machine => {
  const found = machines.get(name);
  if (found === undefined) throw new Error(`no machine ${name}`);
  return found;
};

interface Ordered {
  readonly version: string | null;
  readonly url: string | null;
  readonly revision: number;
}

async function orderOf(name: string): Promise<Ordered> {
  const [row] = await leader.rows.query('select agent_version as version, agent_manifest_url as url, agent_revision::int as revision from nkudo.hosts where name = $1', [name]);
  return row as unknown as Ordered; // The columns of the statement.
}

/** Waits until the host is ordered that version, and gives the revision. */
async function ordered(name: string, version: string | null): Promise<number> {
  let revision = 0;
  await until(async () => {
    const order = await orderOf(name);
    revision = order.revision;
    return order.version === version;
  }, `${name} to be ordered ${version ?? 'nothing'}`, { timeoutMs: 30_000 });
  return revision;
}

/** The agent does what it was ordered, and says so. */
async function runs(name: string, version: string): Promise<void> {
  const revision = await ordered(name, version);
  await machine(name).connect({ agentVersion: version });
  await machine(name).reportAgent({ phase: 'Current', runningVersion: version, previousVersion: before, orderRevision: revision, errorCode: '', problem: '' });
}

async function failsOn(name: string, version: string, phase: AgentPhase, problem: string): Promise<void> {
  const revision = await ordered(name, version);
  await machine(name).reportAgent({ phase, runningVersion: before, previousVersion: '', orderRevision: revision, errorCode: 'UPDATE_FAILED', problem });
}

const spec = (version: string, changes: object = {}): object => ({
  version, health: { soak: '0s', deadline: '30m' }, ...changes,
  rings: [{ name: 'canary', hostSelector: { matchLabels: { tier: 'canary' } }, maxParallel: 2 }, { name: 'rest', hostSelector: {} }],
});
const phaseIs = (name: string, phase: string) => leader.waitFor('agentrollouts', name, phase, (object) => statusOf(object)['phase'] === phase && statusOf(object)['observedGeneration'] === object.metadata.generation);
const ringsOf = (object: Parameters<typeof statusOf>[0]): readonly string[] => (statusOf(object)['rings'] as readonly { name: string; phase: string; updated: number; hosts: number; failed: number; returned: number }[]).map((ring) => `${ring.name} ${ring.phase} ${ring.updated}/${ring.hosts} failed ${ring.failed} returned ${ring.returned}`); // The status that the CRD describes.
const remove = async (name: string): Promise<void> => {
  await leader.remove('agentrollouts', name);
  await leader.waitUntilGone('agentrollouts', name);
};

describe('an AgentRollout', () => {
  it('orders ring after ring, is complete, and writes nothing at rest', async () => {
    await leader.apply('agentrollouts', 'agents', spec(good));
    await runs('edge-1', good);
    await ordered('edge-2', good);
    expect((await orderOf('edge-1')).url).toBe(`https://releases.example/${good}/manifest.json`);
    expect((await orderOf('edge-3')).version).toBeNull();
    await runs('edge-2', good);
    await runs('edge-3', good);
    const done = await phaseIs('agents', 'Complete');
    expect(describeConditions(done)).toEqual(['Failed=False/NotFailed', 'Ready=True/AllRingsPassed']);
    expect(ringsOf(done)).toEqual(['canary Passed 2/2 failed 0 returned 0', 'rest Passed 1/1 failed 0 returned 0']);
    await leader.waitForCondition('hosts', 'edge-3', 'AgentUpToDate=True/VersionRuns');
    const mark = leader.kubernetes.audit.mark();
    const rows = await leader.rows.query('select id, xmin::text from nkudo.agent_rollout_hosts order by 1');
    await leader.restart();
    await leader.waitForCondition('agentrollouts', 'agents', 'Ready=True');
    expect(leader.kubernetes.audit.writesSince(mark).filter(({ requestURI }) => requestURI.includes('agentrollouts'))).toEqual([]);
    expect(await leader.rows.query('select id, xmin::text from nkudo.agent_rollout_hosts order by 1')).toEqual(rows);
    await remove('agents');
    await ordered('edge-1', null);
  });

  it('stops in the ring where the version failed, and gives back there what ran before', async () => {
    await leader.apply('agentrollouts', 'agents', spec(bad));
    await runs('edge-2', bad);
    await failsOn('edge-1', bad, 'RolledBack', `${bad} ended 3 times before it was ready`);
    await ordered('edge-1', good);
    await runs('edge-2', good);
    const stopped = await phaseIs('agents', 'RolledBack');
    expect(describeConditions(stopped)).toEqual(['Failed=True/HostsFailed', 'Ready=False/Stopped']);
    expect(messageOf(stopped, 'Failed')).toBe(`${bad} failed on edge-1 (${bad} ended 3 times before it was ready)`);
    expect(ringsOf(stopped)).toEqual(['canary Failed 0/2 failed 1 returned 2', 'rest Pending 0/1 failed 0 returned 0']);
    expect((await orderOf('edge-3')).version).toBeNull();
    // An event comes after the status that it is about.
    await until(async () => {
      const events = await leader.kubernetes.client.request('GET', `/apis/events.k8s.io/v1/namespaces/${leader.namespace}/events`);
      const reasons = (events.body as { items: { regarding: { kind: string }; reason: string }[] }).items.filter(({ regarding }) => regarding.kind === 'AgentRollout').map(({ reason }) => reason); // A list of Events.
      return ['RingPassed', 'AllRingsPassed', 'Stopped'].every((reason) => reasons.includes(reason));
    }, 'events of a ring, an end and a stop', { timeoutMs: 30_000 });
    // The same version again, once somebody says so; and an operator who has had enough.
    await patch('agentrollouts', 'agents', { spec: { retryNonce: 1 } });
    await runs('edge-1', bad);
    await patch('agentrollouts', 'agents', { spec: { rollBack: true } });
    await runs('edge-1', good);
    const back = await phaseIs('agents', 'RolledBack');
    expect(describeConditions(back)).toEqual(['Failed=False/NotFailed', 'Ready=False/RollBackAsked']);
    await remove('agents');
  });

  it('leaves pinned hosts and hosts with a version of their own alone, waits while it is paused, and says so', async () => {
    await patch('hosts', 'edge-1', { spec: { agent: { pinned: true } } });
    await patch('hosts', 'edge-2', { spec: { agent: { version: '0.4.9' } } });
    await patch('hosts', 'edge-3', { spec: { agent: { ring: 'canary' } } });
    await ordered('edge-2', '0.4.9');
    await leader.apply('agentrollouts', 'agents', spec(bad, { paused: true }));
    const paused = await leader.waitForCondition('agentrollouts', 'agents', 'Ready=False/Paused');
    expect((statusOf(paused)['rings'] as readonly { skipped: number; hosts: number }[]).map(({ hosts, skipped }) => [hosts, skipped])).toEqual([[1, 2], [0, 0]]); // The status that the CRD describes.
    await patch('agentrollouts', 'agents', { spec: { paused: false, windows: [{ name: 'never', days: [], start: '00:00', duration: '5m' }], timeZone: 'Europe/Atlantis' } });
    await leader.waitForCondition('agentrollouts', 'agents', 'Ready=False/OutsideWindow');
    expect((await orderOf('edge-3')).version).toBeNull();
    await patch('agentrollouts', 'agents', { spec: { windows: null, timeZone: null } });
    await runs('edge-3', bad);
    await leader.waitForCondition('agentrollouts', 'agents', 'Ready=False/RingEmpty');
    expect([(await orderOf('edge-1')).version, (await orderOf('edge-2')).version]).toEqual([null, '0.4.9']);
    await remove('agents');
    for (const name of machines.keys()) await patch('hosts', name, { spec: { agent: null } });
  });

  it.each(rolloutSteps.flatMap((step) => [`${step}:before`, `${step}:after`] as const))('goes on after a controller that was killed at %s', async (point) => {
    for (const name of machines.keys()) await machine(name).connect({ agentVersion: before });
    dieAt = point;
    await leader.apply('agentrollouts', 'killed', spec(good));
    if (point.startsWith('db.saveRollout')) {
      await until(() => dieAt === null, `${point} to be reached`, { timeoutMs: 30_000 });
      await leader.restart();
    }
    for (const name of machines.keys()) await runs(name, good);
    await phaseIs('killed', 'Complete');
    await leader.remove('agentrollouts', 'killed');
    if (point.startsWith('db.withdrawRollout')) {
      await until(() => dieAt === null, `${point} to be reached`, { timeoutMs: 30_000 });
      await leader.restart();
    }
    await leader.waitUntilGone('agentrollouts', 'killed');
    for (const name of machines.keys()) await ordered(name, null);
    const [rows] = await leader.rows.query('select count(*)::int as told from nkudo.agent_rollout_hosts where order_version is not null');
    expect(rows).toEqual({ told: 0 });
  });
});
