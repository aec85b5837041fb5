/**
 * The agent is killed with SIGKILL at the points that an order of the site reaches, its writes and its effects: what was
 * durable is carried out once, what was not is as if it had never been typed, and every order is told upward.
 */
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, operationId, planId, type MicroVMId } from '#api/model/ids.ts';
import type { Operation } from '#api/model/plan.ts';
import type { SiteOrderKind } from '#api/model/site-orders.ts';
import { createControlClient } from '#edge-agent/adapters/control-socket/control-client.ts';
import { siteFaultPoints } from '#edge-agent/fault-points.ts';
import { createRandom, isFullRun, sample, testSeed } from '#test/chaos/seed.ts';
import { fakeHostId, startFakeControlPlane, type FakeControlPlane } from '#test/fakes/control-plane.ts';
import { useFaultServer, type FaultServer } from '#test/harness/fault-server.ts';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from '../edge-agent/agent-fixture.ts';

/** Kills for each order in `npm test`, beside those at the writes of its own, which the first and the last have; `npm run test:long` takes all. */
const killsForEach = 2;
const waitMs = 30_000;

let fixture: AgentFixture;
let plane: FakeControlPlane;
let faults: FaultServer;
let agent: RunningAgent;
let id: MicroVMId;

const start = (): Promise<RunningAgent> => fixture.start({ NKUDO_FAULT_SOCKET: faults.socketPath });

beforeAll(async () => {
  faults = await useFaultServer();
  fixture = await createAgentFixture();
  plane = await startFakeControlPlane();
  const tokenFile = join(fixture.stateDirectory, '..', 'token');
  writeFileSync(tokenFile, plane.token());
  await fixture.run('enroll', '--state-dir', fixture.stateDirectory, '--token-file', tokenFile);
  id = newMicroVM();
  fixture.seed(id, fixture.desired({ serialInteractive: true }));
  agent = await start();
  await fixture.until('the guest to run', runs);
});

afterAll(async () => {
  await fixture.close();
  plane.stop();
});

const runs = (): boolean => fixture.record(id).run.phase === 'started' && fixture.record(id).run.stop === undefined && fixture.vmmPids(id).length === 1;
const isDown = (): boolean => fixture.record(id).run.phase === 'idle' && fixture.vmmPids(id).length === 0 && !fixture.isDirectoryInUse(id);
const client = () => createControlClient(fixture.stateDirectory);
const give = (kind: SiteOrderKind) => client().order(id, { kind, by: { user: 'alice', uid: 1001 } });
const numberOf = (): number => fixture.record(id).site?.newest ?? 0;
const toldNumbers = (): readonly number[] => [...new Set(plane.observations.flatMap(({ siteOrders = [] }) => siteOrders.map(({ number }) => number)))];

interface Scene {
  readonly kind: SiteOrderKind;
  /** What has to be ordered before, so that there is something to do. */
  readonly before: SiteOrderKind;
  readonly isUpBefore: boolean;
  readonly isUpAfter: boolean;
  /** Boots that the order may cost. */
  readonly boots: number;
}

const scenes: readonly Scene[] = [
  { kind: 'Stop', before: 'Start', isUpBefore: true, isUpAfter: false, boots: 0 },
  { kind: 'Start', before: 'Stop', isUpBefore: false, isUpAfter: true, boots: 1 },
  { kind: 'Restart', before: 'Start', isUpBefore: true, isUpAfter: true, boots: 1 },
  { kind: 'Hold', before: 'Start', isUpBefore: true, isUpAfter: false, boots: 0 },
  { kind: 'Release', before: 'Hold', isUpBefore: false, isUpAfter: true, boots: 1 },
];

async function prepare({ before, isUpBefore }: Scene): Promise<void> {
  if (fixture.record(id).site?.override?.kind === 'Held' && before !== 'Hold') await give('Release');
  await give(before);
  await settled(isUpBefore);
  // What is in the journal shows before the agent has come past the point behind it.
  const reached = (point: string): number => faults.hits().filter((hit) => hit.pid === agent.pid && hit.point === point).length;
  await fixture.until('the write that forgets told orders to end', () => reached('journal.siteTold:before') === reached('journal.siteTold:after'));
  faults.reset();
}

/** Also that it was told: what follows belongs to the next order. */
async function settled(isUp: boolean, newest = numberOf()): Promise<void> {
  await fixture.until(isUp ? 'the guest to run' : 'the guest to be down', () => (isUp ? runs() : isDown()));
  await fixture.until('the order to be told and forgotten', () => (newest === 0 || toldNumbers().includes(newest)) && (fixture.record(id).site?.untold ?? []).length === 0);
  expect((await client().situation(id, waitMs)).progress).toBe('settled');
}

/** What the order reaches when nothing goes wrong, each with how often it was reached before. */
async function record(scene: Scene): Promise<readonly { readonly point: string; readonly count: number }[]> {
  await prepare(scene);
  await give(scene.kind);
  await settled(scene.isUpAfter);
  return faults.hits().filter(({ process }) => process === 'edge').map(({ point, count }) => ({ point, count }));
}

/** @returns false when this time the order was carried out without coming to the point, as batches of reports fall differently */
async function runKilled(scene: Scene, where: { readonly point: string; readonly count: number }): Promise<boolean> {
  await prepare(scene);
  const earlier = numberOf();
  const { incarnation } = fixture.record(id).run;
  let isKilled = false as boolean; // Set by a callback.
  const killed = faults.killAt({ process: 'edge', ...where }).then(() => (isKilled = true));
  // Whoever typed it may get no answer.
  const answer = give(scene.kind).catch((error: unknown) => String(error));
  const carriedOut = answer.then(() => settled(scene.isUpAfter)).then(
    () => null,
    (error: unknown) => error,
  );
  // Killed on the way, it can't settle.
  const failure = await Promise.race([killed.then(() => null), carriedOut.then((error) => (error === null || isKilled ? null : error))]);
  if (failure !== null && !isKilled) throw failure;
  if (!isKilled) {
    // It may have come to the point just now; after this it can't any more.
    faults.reset();
    await new Promise((resolve) => setImmediate(resolve));
  }
  if (!isKilled) return false;
  await agent.exited;
  await answer;
  const isDurable = numberOf() > earlier;
  // At other points it may have died before it got the order: some are reached at any time, such as for reports.
  if (where.point.startsWith('journal.site')) expect(isDurable).toBe(where.point !== 'journal.siteOrder:before');
  agent = await start();
  if (!isDurable) {
    expect((await give(scene.kind)).result).toBe('taken');
  }
  await settled(scene.isUpAfter);
  expect(fixture.record(id).run.incarnation - incarnation, 'boots').toBe(scene.boots);
  expect(fixture.record(id).run.restarts, 'restarts of the policy').toBe(0);
  expect(fixture.vmmPids(id)).toHaveLength(scene.isUpAfter ? 1 : 0);
  return true;
}

describe('the agent, killed', () => {
  test.each(scenes)('[E10] at the points that $kind reaches, carries it out once and tells it', async (scene) => {
    const points = await record(scene);
    const all = points.filter(({ point, count }) => point.startsWith('journal.site') && count === 1);
    expect(new Set(all.map(({ point }) => point))).toEqual(new Set(siteFaultPoints));
    const own = isFullRun || scene === scenes.at(0) || scene === scenes.at(-1) ? all : [];
    const others = points.filter((candidate) => !own.includes(candidate));
    const seed = testSeed();
    const chosen = isFullRun ? others : sample(others, killsForEach, createRandom(seed));
    const killedAt: string[] = [];
    for (const where of [...own, ...chosen]) if (await runKilled(scene, where)) killedAt.push(`${where.point} ${where.count}`);
    console.log(`[E10] ${scene.kind}: killed at ${killedAt.length} of ${points.length} points, seed ${seed}: ${killedAt.join(', ')}`);
    expect(killedAt.filter((point) => own.some(({ point: name, count }) => point === `${name} ${count}`))).toHaveLength(own.length);
  }, 600_000);

  test.each(['journal.siteOrder:before', 'journal.siteOrder:after'] as const)('[E10] at %s, lets nobody at the console unseen, and the guest goes on', async (point) => {
    const earlier = numberOf();
    const { incarnation } = fixture.record(id).run;
    const pids = fixture.vmmPids(id);
    expect(pids).toHaveLength(1);
    faults.reset();
    const killed = faults.killAt({ process: 'edge', point, count: 1 });
    const seen: string[] = [];
    const note = (bytes: Uint8Array): void => void seen.push(Buffer.from(bytes).toString());
    const answer = client().console(id, { types: true, takesOver: false, by: { user: 'alice', uid: 1001 }, historyBytes: 100 }, { history: note, output: note }).then(() => 'let in', () => 'kept out');
    await killed;
    await agent.exited;
    expect([await answer, ...seen]).toEqual(['kept out']);
    agent = await start();
    const isDurable = point === 'journal.siteOrder:after';
    expect(numberOf() > earlier).toBe(isDurable);
    await settled(true);
    const told = plane.observations.flatMap(({ siteOrders = [] }) => siteOrders).filter(({ number }) => number > earlier);
    expect([...new Set(told.map(({ kind, by }) => `${kind} ${by.user}`))]).toEqual(isDurable ? ['OpenConsole alice'] : []);
    expect(fixture.vmmPids(id)).toEqual(pids);
    expect(fixture.record(id).run.incarnation).toBe(incarnation);
  });

  test('[E10] an order that holds no longer is lifted by the number that the control plane names, and a later one stands', async () => {
    await give('Hold');
    await settled(false);
    const held = numberOf();
    const push = (overruledSiteOrder: number, revision: number): string => {
      const sent: Operation = { id: operationId(randomUUID()), planId: planId(randomUUID()), microvmId: id, hostId: hostId(fakeHostId), kind: 'Update', epoch: makeEpoch(1, 1), revision, generation: revision, desired: fixture.desired({ serialInteractive: true, overruledSiteOrder }) };
      plane.push(sent);
      return sent.id;
    };
    const concluded = push(held - 1, 101);
    await fixture.until('the operation to say why the guest does not run', () => plane.reports.some(({ operationId, isFinal, error }) => operationId === concluded && isFinal && error?.code === 'HELD_AT_SITE'));
    expect(isDown()).toBe(true);
    const lifted = push(held, 102);
    await fixture.until('the operation to succeed', () => plane.reports.some(({ operationId, isFinal, status }) => operationId === lifted && isFinal && status === 'Succeeded'));
    expect(runs()).toBe(true);
  });
});
