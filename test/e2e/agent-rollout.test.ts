/**
 * [R6] An AgentRollout on real agents, each started by the launcher: versions that are bad in different ways stop in the first
 * ring and are taken back, the next ring is never touched, and no microVM notices. Then a good one reaches everybody.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { observeVmms } from './vmm-observer.ts';
import { publishAgentVersions, type AgentVersion } from './agent-versions.ts';
import { conditionOf, createWorld, statusOf, type TestHost, type World } from './world.ts';

const heartbeatMs = 1_000;
const packaged: AgentVersion = { version: '0.2.0' };
const good: AgentVersion = { version: '0.3.0' };
/** The launcher gives it up by itself. */
const endsAtOnce: AgentVersion = { version: '0.4.0', preamble: "if (process.argv.includes('run')) process.exit(1);" };
/** It gets ready, takes orders and looks after its microVMs, but no beat of it comes: only the rollout can find that. */
const doesNotBeat: AgentVersion = { version: '0.5.0', preamble: `{ const set = setTimeout; globalThis.setTimeout = (call, ms, ...rest) => set(call, ms === ${heartbeatMs} ? 2 ** 30 : ms, ...rest); }` };
const names = ['edge-1', 'edge-2', 'edge-3'] as const;

let world: World;
const hosts = new Map<string, TestHost>();

beforeAll(async () => {
  const versions = await publishAgentVersions(packaged, [good, endsAtOnce, doesNotBeat]);
  world = await createWorld({
    controllerEnvironment: { NKUDO_AGENT_RELEASES: versions.releases, NKUDO_HEARTBEAT_INTERVAL_MS: String(heartbeatMs) },
    agent: (machine) => versions.forMachine(machine),
  });
  await world.startController();
  await world.createSite();
  const tiers = { 'edge-1': 'first', 'edge-2': 'second', 'edge-3': 'last' } as const;
  await Promise.all(names.map(async (name) => {
    hosts.set(name, await world.addHost(name));
    await patch('hosts', name, { metadata: { labels: { tier: tiers[name] } } });
    await world.applyMicroVM(`on-${name}`, { placement: { hostName: name } });
    await world.waitForCondition('microvms', `on-${name}`, { type: 'Running', status: 'True' });
  }));
});

async function patch(plural: 'hosts' | 'agentrollouts', name: string, body: object): Promise<void> {
  const answer = await world.kubernetes.client.request('PATCH', world.path(plural, name), body, 'application/merge-patch+json');
  expect(answer.status).toBe(200);
}

async function rollOut(name: string, version: AgentVersion, tiers: readonly string[], health: object): Promise<void> {
  const spec = { version: version.version, health, rings: tiers.map((tier) => ({ name: tier, hostSelector: { matchLabels: { tier } } })) };
  await world.kubernetes.client.apply(world.path('agentrollouts', name), { apiVersion: 'nkudo.dev/v1alpha1', kind: 'AgentRollout', metadata: { name, namespace: world.namespace }, spec });
}

const isIn = (name: string, phase: string) => world.waitUntil('agentrollouts', name, phase, (object) => statusOf(object)['phase'] === phase);
const ringsOf = (object: Parameters<typeof statusOf>[0]): readonly string[] => (statusOf(object)['rings'] as readonly { name: string; phase: string; failed: number; returned: number }[]).map(({ name, phase, failed, returned }) => `${name} ${phase} failed ${failed} returned ${returned}`); // The status that the CRD describes.
/** The Hosts show it a moment after the rollout has seen it. */
const allRun = ({ version }: AgentVersion) => Promise.all(names.map((name) => world.waitUntil('hosts', name, `to run ${version}`, (object) => statusOf(object)['agentVersion'] === version)));
const vmms = (): readonly string[] => names.flatMap((name) => hosts.get(name) ?? []).flatMap((host) => host.vmms().map(({ pid, startTime }) => `${pid}/${startTime}`)).toSorted();
const restarts = async (): Promise<readonly unknown[]> => Promise.all(names.map(async (name) => statusOf(await world.get('microvms', `on-${name}`))['restarts'] ?? 0));

describe('[R6] a rollout of the agent', () => {
  it('[R6] stops a bad version in ring 1 and takes it back, whether it ends at once or runs and is not heard; ring 2 is never touched and no microVM restarts', async () => {
    const before = { vmms: vmms(), restarts: await restarts() };
    expect(before.vmms).toHaveLength(names.length);
    const observers = [...hosts.values()].map((host) => observeVmms(host.stateDirectory, world.hypervisor));
    // Two at once: each has a first ring of its own, and the same second one.
    await rollOut('ends', endsAtOnce, ['first', 'last'], { soak: '1h', deadline: '1h' });
    await rollOut('mute', doesNotBeat, ['second', 'last'], { soak: '1h', deadline: '10s' });

    const ends = await isIn('ends', 'RolledBack');
    expect(conditionOf(ends, 'Failed')).toMatchObject({ status: 'True', reason: 'HostsFailed', message: `0.4.0 failed on edge-1 (0.4.0 ended 3 times before it was ready)` });
    expect(ringsOf(ends)).toEqual(['first Failed failed 1 returned 1', 'last Pending failed 0 returned 0']);
    const mute = await isIn('mute', 'RolledBack');
    expect(conditionOf(mute, 'Failed')).toMatchObject({ status: 'True', reason: 'HostsFailed', message: expect.stringMatching(/^0\.5\.0 failed on edge-2 \(it (was not healthy in time|ceased to be healthy 3 times)/) });
    expect(ringsOf(mute)).toEqual(['second Failed failed 1 returned 1', 'last Pending failed 0 returned 0']);

    for (const name of ['edge-1', 'edge-2']) await world.waitForCondition('hosts', name, { type: 'AgentUpToDate', status: 'True', reason: 'VersionRuns' });
    for (const name of names) await world.waitForCondition('hosts', name, { type: 'Ready', status: 'True' });
    await allRun(packaged);
    const rows = await world.database.query(`select h.name, h.agent_revision::int as revision, r.id is not null as told from nkudo.hosts h left join nkudo.agent_rollout_hosts r on r.id = h.id order by 1`);
    expect(rows[2]).toEqual({ name: 'edge-3', revision: 0, told: false });
    expect(hosts.get('edge-3')?.agent().lines().filter((line) => line.includes('another version of the agent was ordered'))).toEqual([]);

    for (const observer of observers) observer.stop();
    expect(observers.map((observer) => [...observer.history().seen.values()].map((seen) => seen.length))).toEqual(names.map(() => [1]));
    expect({ vmms: vmms(), restarts: await restarts() }).toEqual(before);
  });

  it('[R6] brings a good version to every ring, and takes it back when that is asked for; no microVM restarts', async () => {
    const before = { vmms: vmms(), restarts: await restarts() };
    await rollOut('good', good, ['first', 'second', 'last'], { soak: '1s' });
    const done = await world.waitUntil('agentrollouts', 'good', 'Ready=True', (object) => conditionOf(object, 'Ready')?.status === 'True');
    expect(ringsOf(done)).toEqual(['first', 'second', 'last'].map((tier) => `${tier} Passed failed 0 returned 0`));
    await allRun(good);
    await patch('agentrollouts', 'good', { spec: { rollBack: true } });
    await isIn('good', 'RolledBack');
    await allRun(packaged);
    expect({ vmms: vmms(), restarts: await restarts() }).toEqual(before);
  });
});
