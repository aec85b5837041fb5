import { pino } from 'pino';
import { expect, test } from 'vitest';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import { createManualTime, settle, type ManualTime } from '#test/fakes/manual-time.ts';
import { createMemoryJournal } from '#test/fakes/memory-journal.ts';
import type { MeshLook, MeshStatus } from '../domain/mesh.ts';
import { meshFact } from '../domain/mesh-record.ts';
import type { AgentMessage, ControlSession } from '../ports/control-plane.ts';
import type { Journal } from '../ports/journal.ts';
import type { Mesh, MeshOutcome } from '../ports/mesh.ts';
import { createMeshKeeper, type MeshKeeper } from './mesh-membership.ts';

const hostId = '33333333-0000-4000-8000-000000000003';
const joinOrder: MeshOrder = { join: true, managementUrl: 'https://mesh.example', hostName: 'edge-1', revision: 1 };
const leaveOrder: MeshOrder = { join: false, managementUrl: '', hostName: '', revision: 2 };
const canary = 'CANARY-KEY-9F';
const pollMs = 30_000;

/** NetBird on one host, as far as the agent can tell. */
interface FakeMesh extends Mesh {
  look: () => Promise<MeshLook>;
  state: MeshLook;
  outcome: MeshOutcome;
  /** Whether a join that worked connects. */
  obeys: boolean;
  readonly calls: string[];
  looks: number;
}

function seen(rawState: string): MeshLook {
  const isUp = rawState === 'Connected';
  const status: MeshStatus = { rawState, managementError: '', isManagementConnected: isUp, isSignalConnected: isUp, peerId: '', publicKey: 'k', address: isUp ? '100.64.0.7' : '', fqdn: '', peersRelayed: 0, peersDirect: 0 };
  return { kind: 'seen', status, daemonMemoryBytes: 0 };
}

function createFakeMesh(): FakeMesh {
  const fake: FakeMesh = {
    state: seen('NeedsLogin'),
    outcome: { kind: 'done' },
    obeys: true,
    calls: [],
    looks: 0,
    look: async () => {
      fake.looks += 1;
      return fake.state;
    },
    join: async (order, revealKey) => {
      fake.calls.push(`up ${order.hostName} ${revealKey?.() ?? '-'}`);
      if (fake.outcome.kind === 'done' && fake.obeys) fake.state = seen('Connected');
      return fake.outcome;
    },
    leave: async () => {
      fake.calls.push('leave');
      if (fake.outcome.kind === 'done') fake.state = seen('NeedsLogin');
      return fake.outcome;
    },
  };
  return fake;
}

interface Scene {
  readonly mesh: FakeMesh;
  readonly time: ManualTime;
  readonly journal: Journal;
  readonly keeper: MeshKeeper;
  readonly told: MeshReport[];
  readonly log: string[];
  readonly fatal: unknown[];
  readonly session: ControlSession;
  writes(): number;
  questions(): number;
}

function scene(options: { readonly journal?: Journal; readonly mesh?: FakeMesh } = {}): Scene {
  const mesh = options.mesh ?? createFakeMesh();
  const time = createManualTime({ random: 0.999 });
  const journal = options.journal ?? createMemoryJournal();
  const told: MeshReport[] = [];
  const log: string[] = [];
  const fatal: unknown[] = [];
  let writes = 0;
  const keeper = createMeshKeeper({
    mesh,
    journal: {
      loadFact: (name) => journal.loadFact(name),
      saveFact: (name, value) => {
        writes += 1;
        journal.saveFact(name, value);
      },
    },
    hostId: () => hostId,
    pollMs,
    clock: { now: () => ({ wallMs: time.nowMs(), bootMs: time.nowMs(), bootId: 'boot' }), after: time.schedule },
    entropy: { random: () => 0.999, uuid: () => hostId },
    faults: inertFaultPoints(),
    logger: pino({ level: 'trace' }, { write: (line: string) => void log.push(line) }),
    onFatal: (error) => void fatal.push(error),
  });
  const send = async (message: AgentMessage): Promise<void> => {
    if (message.kind === 'mesh') told.push(message.report);
  };
  const session = { endpoint: 'x', send } as unknown as ControlSession; // Only this much of it is used.
  return { mesh, time, journal, keeper, told, log, fatal, session, writes: () => writes, questions: () => told.filter(({ wantsKey }) => wantsKey).length };
}

async function joined(): Promise<Scene> {
  const made = scene();
  made.keeper.use(made.session);
  made.keeper.ordered(joinOrder, null);
  await settle();
  made.keeper.ordered(joinOrder, () => canary);
  await settle();
  return made;
}

test('joins with the key that it asked for, keeps the order without the key, and is silent and writes nothing afterwards', async () => {
  const { mesh, told, journal, log, writes, time } = await joined();
  expect(mesh.calls).toEqual([`up edge-1 ${canary}`]);
  expect(told.map(({ state, wantsKey }) => [state, wantsKey])).toEqual([['NeedsLogin', true], ['Connected', false]]);
  expect(told.at(-1)).toMatchObject({ address: '100.64.0.7', orderRevision: 1, problem: '' });
  expect(`${journal.loadFact(meshFact)}${log.join('')}`).not.toContain(canary);
  const before = [told.length, writes(), mesh.looks];
  await time.advance(10 * pollMs);
  expect([told.length, writes(), mesh.looks]).toEqual([before[0], before[1], (before[2] ?? 0) + 10]);
});

test('without an order it neither looks nor speaks', async () => {
  const { keeper, session, mesh, told, time } = scene();
  keeper.start();
  keeper.use(session);
  await time.advance(10 * pollMs);
  expect([mesh.looks, told.length, time.pending()]).toEqual([0, 0, 0]);
});

test('an order not to join is answered once, and then there is nothing to look for', async () => {
  const { keeper, session, mesh, told, time } = scene();
  keeper.use(session);
  keeper.ordered(leaveOrder, null);
  await time.advance(pollMs);
  expect(told).toMatchObject([{ state: 'NotConfigured', orderRevision: 2 }]);
  expect([mesh.looks, mesh.calls, time.pending()]).toEqual([0, [], 0]);
});

test('asks again with a growing delay as long as no key comes, and at once over a new session', async () => {
  const { keeper, session, time, questions, told } = scene();
  keeper.use(session);
  keeper.ordered(joinOrder, null);
  await settle();
  expect(questions()).toBe(1);
  await time.advance(600_000);
  const inTenMinutes = questions();
  expect(inTenMinutes).toBeGreaterThan(4);
  await time.advance(3_600_000);
  expect(questions() - inTenMinutes).toBeLessThanOrEqual(13);
  const before = questions();
  keeper.use(undefined);
  keeper.use(session);
  await settle();
  expect(questions()).toBe(before + 1);
  expect(told.every(({ wantsKey }) => wantsKey)).toBe(true);
});

test('rejoins when it was logged out', async () => {
  const { mesh, keeper, time, questions } = await joined();
  for (const state of ['SessionExpired', 'LoginFailed', 'NeedsLogin']) {
    const before = questions();
    mesh.state = seen(state);
    await time.advance(pollMs);
    expect(questions(), state).toBe(before + 1);
    keeper.ordered(joinOrder, () => `${canary}-2`);
    await settle();
    expect(mesh.calls.at(-1)).toBe(`up edge-1 ${canary}-2`);
  }
});

test('a refused key is told as a problem without the key, and no new one is asked for before a delay', async () => {
  const { keeper, session, mesh, time, told, questions } = scene();
  mesh.outcome = { kind: 'failed', problem: 'netbird up ended with 1: setup key is invalid' };
  keeper.use(session);
  keeper.ordered(joinOrder, null);
  await settle();
  for (let round = 1; round <= 8; round += 1) {
    keeper.ordered(joinOrder, () => canary);
    await settle();
    expect(mesh.calls).toHaveLength(round);
    expect(told.at(-1)).toMatchObject({ state: 'Failed', wantsKey: false, problem: expect.stringContaining('setup key is invalid') as string });
    // Keys that come unasked in the meantime do not hurry it.
    const before = questions();
    await time.advance(300_000);
    expect(questions()).toBeGreaterThan(before);
    expect(mesh.calls).toHaveLength(round);
  }
});

test('another order begins anew: nothing of the delays that the last one earned', async () => {
  const { keeper, session, mesh, time, questions, told } = scene();
  mesh.outcome = { kind: 'failed', problem: 'setup key is invalid' };
  keeper.use(session);
  keeper.ordered(joinOrder, null);
  for (let round = 0; round < 6; round += 1) {
    await time.advance(300_000);
    keeper.ordered(joinOrder, () => canary);
    await settle();
  }
  const before = questions();
  keeper.ordered({ ...joinOrder, revision: 2 }, null);
  await settle();
  expect(questions()).toBe(before + 1);
  expect(told.at(-1)).toMatchObject({ state: 'NeedsLogin', problem: '', orderRevision: 2 });
});

test('connects without a key with a growing delay as long as that fails, and then asks for one', async () => {
  const { mesh, time, questions } = await joined();
  mesh.state = seen('Idle');
  mesh.outcome = { kind: 'failed', problem: 'no registration' };
  await time.advance(600_000);
  expect(mesh.calls.filter((call) => call === 'up edge-1 -')).toHaveLength(1);
  expect(questions()).toBeGreaterThan(2);
  expect(questions()).toBeLessThan(15);
});

test('a service that stays off, though connecting is said to have worked, is not asked in a loop', async () => {
  const { mesh, time } = await joined();
  mesh.state = seen('Idle');
  mesh.obeys = false;
  await time.advance(pollMs);
  expect(mesh.calls.slice(1)).toEqual(['up edge-1 -']);
});

test('a service that is connecting without end is asked to connect now and then', async () => {
  const { mesh, time } = await joined();
  mesh.state = seen('Connecting');
  mesh.obeys = false;
  await time.advance(3_600_000);
  const connects = mesh.calls.filter((call) => call === 'up edge-1 -').length;
  expect(connects).toBeGreaterThan(3);
  expect(connects).toBeLessThan(15);
});

test('a command that only says that it worked is not run in a loop', async () => {
  const { keeper, session, mesh, time } = scene();
  mesh.obeys = false;
  keeper.use(session);
  keeper.ordered(joinOrder, null);
  const feed = setIntervalOf(time, () => keeper.ordered(joinOrder, () => canary));
  await time.advance(600_000);
  feed.stop();
  expect(mesh.calls.length).toBeGreaterThan(1);
  expect(mesh.calls.length).toBeLessThan(20);
});

test('connects again without a key when somebody switched it off', async () => {
  const { mesh, time, questions } = await joined();
  mesh.state = seen('Idle');
  await time.advance(pollMs);
  expect(mesh.calls.at(-1)).toBe('up edge-1 -');
  expect(questions()).toBe(1);
});

test('leaves when it is ordered to, once, and forgets that it joined', async () => {
  const { mesh, keeper, told, time, journal } = await joined();
  keeper.ordered(leaveOrder, null);
  await settle();
  expect(mesh.calls.slice(1)).toEqual(['leave']);
  expect(told.at(-1)).toMatchObject({ state: 'NotConfigured', orderRevision: 2, address: '' });
  expect(journal.loadFact(meshFact)).toContain('"membership":null');
  const looks = mesh.looks;
  await time.advance(10 * pollMs);
  expect(mesh.looks).toBe(looks);
});

test('tries to leave until it worked', async () => {
  const { mesh, keeper, told, time } = await joined();
  mesh.outcome = { kind: 'failed', problem: 'no service' };
  keeper.ordered(leaveOrder, null);
  await settle();
  expect(told.at(-1)).toMatchObject({ state: 'Failed', problem: 'no service' });
  expect(mesh.calls.slice(1)).toEqual(['leave']);
  await time.advance(600_000);
  expect(mesh.calls.length).toBeGreaterThan(3);
  expect(mesh.calls.length).toBeLessThan(12);
  mesh.outcome = { kind: 'done' };
  await time.advance(300_000);
  expect(told.at(-1)).toMatchObject({ state: 'NotConfigured' });
});

test('never touches a membership that somebody else made', async () => {
  const mesh = createFakeMesh();
  mesh.state = seen('Connected');
  const { keeper, session, told, time } = scene({ mesh });
  keeper.use(session);
  keeper.ordered(joinOrder, null);
  await time.advance(10 * pollMs);
  keeper.ordered(leaveOrder, null);
  await time.advance(10 * pollMs);
  expect(mesh.calls).toEqual([]);
  expect(told).toMatchObject([{ state: 'Failed', wantsKey: false }, { state: 'NotConfigured' }]);
});

test('after a restart the order and the membership are known', async () => {
  const first = await joined();
  await first.keeper.stop();
  const again = scene({ journal: first.journal, mesh: first.mesh });
  again.keeper.start();
  await settle();
  again.keeper.use(again.session);
  await settle();
  expect(again.told).toMatchObject([{ state: 'Connected', orderRevision: 1, wantsKey: false }]);
  expect(again.writes()).toBe(0);
});

test('an agent that died between the note and the command needs no second key when the command had worked', async () => {
  const first = scene();
  first.mesh.join = () => new Promise(() => {});
  first.keeper.use(first.session);
  first.keeper.ordered(joinOrder, null);
  await settle();
  first.keeper.ordered(joinOrder, () => canary);
  await settle();
  const again = scene({ journal: first.journal });
  again.mesh.state = seen('Connected');
  again.keeper.use(again.session);
  await settle();
  expect([again.mesh.calls, again.told.at(-1)?.state]).toEqual([[], 'Connected']);
});

test('an older order of the same session changes nothing; a new session may begin anew', async () => {
  const { mesh, keeper, session } = await joined();
  keeper.ordered({ ...leaveOrder, revision: 5, join: true, managementUrl: joinOrder.managementUrl, hostName: 'edge-1' }, null);
  keeper.ordered(leaveOrder, null);
  await settle();
  expect(mesh.calls).toHaveLength(1);
  keeper.use(session);
  keeper.ordered(leaveOrder, null);
  await settle();
  expect(mesh.calls.at(-1)).toBe('leave');
});

test('an absent, silent or lying netbird is a problem in a report, told once', async () => {
  const { mesh, keeper, session, told, time } = scene();
  keeper.use(session);
  const looks: readonly MeshLook[] = [
    { kind: 'missing', problem: 'no executable', daemonMemoryBytes: 0 },
    { kind: 'stopped', problem: 'no service', daemonMemoryBytes: 0 },
    { kind: 'failed', problem: 'did not end within 15 s', daemonMemoryBytes: 0 },
    seen('Hibernating'),
  ];
  keeper.ordered(joinOrder, null);
  for (const look of looks) {
    mesh.state = look;
    await time.advance(5 * pollMs);
  }
  expect(told.slice(-4).map(({ state, rawState }) => [state, rawState])).toEqual([['Missing', ''], ['Stopped', ''], ['Failed', ''], ['Unknown', 'Hibernating']]);
  expect(mesh.calls).toEqual([]);
});

test('a fault of its own is logged and tried again; only a journal that can not be written ends the agent', async () => {
  const { mesh, keeper, session, told, time, fatal, journal, log } = scene();
  keeper.use(session);
  const look = mesh.look;
  mesh.look = () => Promise.reject(new TypeError('a mistake'));
  keeper.ordered(joinOrder, null);
  await settle();
  expect([fatal, told]).toEqual([[], []]);
  expect(log.join('')).toContain('a mistake');
  mesh.look = look;
  await time.advance(pollMs);
  expect(told.length).toBe(1);
  journal.saveFact = () => {
    throw new AppError('JOURNAL_FAILED');
  };
  keeper.ordered({ ...joinOrder, revision: 9 }, null);
  await settle();
  expect(fatal).toMatchObject([{ code: 'JOURNAL_FAILED' }]);
});

function setIntervalOf(time: ManualTime, run: () => void): { stop(): void } {
  let cancel = (): void => {};
  const next = (): void => {
    cancel = time.schedule(1_000, () => {
      run();
      next();
    });
  };
  next();
  return { stop: () => cancel() };
}
