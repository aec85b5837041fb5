/**
 * One random schedule over three hosts, two replicas, a leader and a database, in virtual time and from one seed. What
 * is decided is decided by the product's own functions; what lies between them (links, commits, leaderships that stop) is
 * modelled with delays and losses. The verdict is the witness's: when each VMM of each microVM lived.
 */
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { hostId, microVMId, sessionId, siteId, tenantId, type HostId, type MicroVMId, type SessionId } from '#api/model/ids.ts';
import { decideReplacement } from '#controller/domain/leases/decide-replacement.ts';
import { createLeaseWatch, type LeaseWatch } from '#controller/domain/leases/lease-watch.ts';
import { decideMassDisconnect } from '#controller/domain/leases/mass-disconnect.ts';
import { shortestLostAfterMs } from '#controller/domain/leases/replace-policy.ts';
import { createTermsMemory, type TermsMemory } from '#controller/domain/leases/terms-memory.ts';
import type { Beats } from '#edge-agent/supervisor/beats.ts';
import { createRandom } from '../seed.ts';
import { SimDatabase } from './sim-database.ts';
import { SimHost } from './sim-host.ts';
import { Timeline } from './timeline.ts';

/** What a seeded defect takes away; the verdict has to notice each. */
export type Defect =
  /** Nothing ends a VMM whose lease ran out while its agent is away. */
  | 'noGuard'
  /** A replica that can't commit says that the lease was extended. */
  | 'uncommittedGrants'
  /** The leader replaces as if its counting had begun earlier. */
  | 'countsTooFast'
  /** A host gets a lease before it has removed what was replaced elsewhere. */
  | 'grantsWhileDisplaced'
  /** The leader counts on a wall clock. */
  | 'wallClock'
  /** A database that lost commits is taken for what it was. */
  | 'noRecovery';

export const allDisturbances = [
  'cut', 'agentKilledBehindCut', 'agentKilled', 'guardKilled', 'suspend', 'standStill', 'wallClock', 'databaseClock', 'replicaWithoutDatabase', 'failover',
  'leaderStopped', 'reboot',
] as const;
export type Disturbance = (typeof allDisturbances)[number];

export interface Verdict {
  /** Two VMMs of one microVM at once, as sentences. */
  readonly overlaps: readonly string[];
  readonly replacements: number;
  readonly grants: number;
  readonly vmms: number;
  /** Hosts on which the microVM with the default ran. */
  readonly plainHosts: number;
  /** Every microVM runs once everything is healed. */
  readonly isServing: boolean;
  readonly log: readonly string[];
}

const heartbeatMs = 1_000;
const silenceLimitMs = 4 * heartbeatMs;
const stopOnHostAfterMs = 9_000;
const policy = { kind: 'on', stopOnHostAfterMs, lostAfterMs: shortestLostAfterMs(stopOnHostAfterMs) } as const;
const hostCount = 3;
const disturbedForMs = 90_000;
const healedForMs = 120_000;
/** Longest time that a host's kernel leaves the guard waiting. */
const guardLateMaxMs = 2_800;

const uuid = (kind: number, n: number): string => `0000000${kind}-0000-4000-8000-${String(n).padStart(12, '0')}`;

function desired(name: string, isFenced: boolean): DesiredMicroVM {
  return {
    name, namespace: 'shop', runPolicy: 'Always', paused: false, restartNonce: 0, restart: { initialBackoffMs: 100, maxBackoffMs: 1_000, maxRetries: 50, windowMs: 60_000 },
    cpuCount: 1, memoryBytes: 2 ** 26, boot: { kind: 'firmware', path: '/f' }, disks: [], serialLog: true, terminationGracePeriodMs: 1_000, ...(isFenced ? { lease: { stopOnHostAfterMs } } : {}),
  };
}

interface Session {
  readonly id: SessionId;
  readonly host: SimHost;
  readonly replica: number;
  isOpen: boolean;
  beats: Beats | null;
  /** Waits behind a cut, in order. */
  readonly held: (() => void)[];
  /** Latest delivery in each direction: a stream keeps its order. */
  lastMs: { up: number; down: number };
  heard: { readonly atMs: number } | null;
  /** It hands out no work before; never, until its hello was answered. */
  slowUntilMs: number;
  isFirstClaim: boolean;
}

interface Leader {
  readonly watch: LeaseWatch;
  readonly terms: TermsMemory;
  readonly replica: number;
  epoch: number;
  isStopped: boolean;
  isOver: boolean;
}

export function simulate(seed: number, options: { readonly defect?: Defect; readonly kinds?: readonly Disturbance[] } = {}): Verdict {
  const { defect, kinds = allDisturbances } = options;
  const random = createRandom(seed);
  const timeline = new Timeline();
  const log: string[] = [];
  const note = (text: string): void => void log.push(`${(timeline.nowMs / 1000).toFixed(2)} ${text}`);
  const between = (low: number, high: number): number => low + random() * (high - low);
  const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(random() * items.length)] as Item; // None of the lists is empty.
  let serial = 0;
  let wallShiftMs = 0;
  let grants = 0;
  let replacements = 0;
  const wallMs = (): number => 1e12 + timeline.nowMs + wallShiftMs;
  const database = new SimDatabase({ siteId: siteId(uuid(1, 1)), tenantId: tenantId(uuid(1, 2)) }, wallMs);

  // The witness
  const live = new Map<MicroVMId, Set<string>>();
  const plainOn = new Set<string>();
  const overlaps: string[] = [];
  let vmms = 0;
  const plain = microVMId(uuid(3, 9));
  const witness = {
    started: (uid: MicroVMId, host: string, pid: number): void => {
      const set = live.get(uid) ?? new Set();
      live.set(uid, set.add(`${host}/${pid}`));
      vmms += 1;
      if (uid === plain) plainOn.add(host);
      note(`VMM of ${uid.at(-1)} lives on ${host}`);
      if (set.size > 1) {
        overlaps.push(`${(timeline.nowMs / 1000).toFixed(2)} s: ${uid} lives as ${[...set].join(' and ')}`);
        note('OVERLAP');
      }
    },
    ended: (uid: MicroVMId, host: string, pid: number): void => {
      live.get(uid)?.delete(`${host}/${pid}`);
      note(`VMM of ${uid.at(-1)} on ${host} is gone`);
    },
  };

  const hosts = Array.from({ length: hostCount }, (_, n) => new SimHost({ hostId: hostId(uuid(2, n + 1)), name: `edge-${n + 1}`, timeline, random, witness, drift: between(0.99, 1.01), hasGuard: defect !== 'noGuard' }));
  const cut = new Set<HostId>();
  const hasDatabase = [true, true];
  const sessions = new Map<HostId, Session>();

  // Links
  function send(session: Session, way: 'up' | 'down', deliver: () => void): void {
    const atMs = Math.max(session.lastMs[way], timeline.nowMs + between(2, 60));
    session.lastMs[way] = atMs;
    timeline.after(atMs - timeline.nowMs, () => arrive(session, way, deliver));
  }
  function arrive(session: Session, way: 'up' | 'down', deliver: () => void): void {
    if (!session.isOpen) return;
    if (cut.has(session.host.hostId)) return void session.held.push(() => arrive(session, way, deliver));
    if (way === 'up') deliver();
    else session.host.whenRunning(() => void (session.isOpen && deliver()));
  }
  function close(session: Session): void {
    if (!session.isOpen) return;
    session.isOpen = false;
    session.beats?.stop();
    timeline.after(between(100, 1_500), () => session.host.whenRunning(() => connect(session.host)));
  }
  function connect(host: SimHost): void {
    const old = sessions.get(host.hostId);
    if (host.agent === null || old?.isOpen === true) return;
    const again = (): void => void timeline.after(between(300, 1_200), () => host.whenRunning(() => connect(host)));
    const replica = Math.floor(random() * 2);
    if (cut.has(host.hostId) || hasDatabase[replica] !== true) return again();
    const session: Session = { id: sessionId(uuid(4, (serial += 1))), host, replica, isOpen: true, beats: null, held: [], lastMs: { up: 0, down: 0 }, heard: null, slowUntilMs: Infinity, isFirstClaim: true };
    sessions.set(host.hostId, session);
    const known = host.known();
    send(session, 'up', () => {
      if (hasDatabase[replica] !== true) return close(session);
      database.openSession(host.hostId, session.id, known);
      send(session, 'down', () => welcome(session));
      session.slowUntilMs = random() < 0.3 ? timeline.nowMs + between(0, 8_000) : 0;
      push(session);
    });
    // A hello without an answer is given up.
    timeline.after(15_000, () => void (session.beats === null && close(session)));
  }
  function welcome(session: Session): void {
    session.beats = session.host.beats((sequence, asking) => send(session, 'up', () => beat(session, sequence, asking)), () => close(session));
    session.beats?.start(heartbeatMs, undefined as never); // The model's own target is used.
    session.host.reportAll();
  }

  // The gateway
  function beat(session: Session, sequence: number, asking: { readonly holdsLease: boolean } | undefined): void {
    session.heard = { atMs: timeline.nowMs };
    send(session, 'down', () => session.beats?.acknowledged(sequence, undefined));
    if (asking === undefined) return;
    const answer = (leaseMs: number): void => send(session, 'down', () => session.beats?.acknowledged(sequence, leaseMs));
    timeline.after(between(2, 80), () => {
      if (hasDatabase[session.replica] !== true) {
        if (defect === 'uncommittedGrants') answer(stopOnHostAfterMs);
        return;
      }
      const leaseMs = defect === 'grantsWhileDisplaced' ? grantAnyway(session) : database.grant(session.host.hostId, session.id, asking.holdsLease || defect === 'noRecovery');
      if (leaseMs === null) return;
      grants += 1;
      // The answer may be lost with the replica's connection; then there is a grant that nobody uses.
      answer(leaseMs);
    });
  }
  function grantAnyway(session: Session): number | null {
    const row = database.rows.hosts.get(session.host.hostId);
    if (row === undefined) return null;
    const { holds } = row;
    row.holds = 0;
    const leaseMs = database.grant(session.host.hostId, session.id, true) ?? stopOnHostAfterMs;
    row.holds = holds;
    return leaseMs;
  }
  /** A replica may be slow to hand out work, while it answers beats. */
  function push(session: Session): void {
    if (!session.isOpen || hasDatabase[session.replica] !== true) return;
    if (session.slowUntilMs > timeline.nowMs) return;
    if (random() < 0.1) session.slowUntilMs = timeline.nowMs + between(0, 8_000);
    for (const operation of database.claim(session.host.hostId, session.id, session.isFirstClaim)) send(session, 'down', () => session.host.accept(operation));
    session.isFirstClaim = false;
  }
  function every(ms: number, run: () => void): void {
    timeline.after(ms, () => {
      run();
      every(ms, run);
    });
  }
  every(250, () => {
    for (const session of sessions.values()) {
      if (session.heard !== null && hasDatabase[session.replica] === true) {
        database.flushBeat(session.host.hostId, session.id, timeline.nowMs - session.heard.atMs);
        session.heard = null;
      }
      push(session);
    }
    database.copy(timeline.nowMs);
  });
  for (const host of hosts) {
    database.addHost(host.hostId);
    host.onReport = (known, isGone) => {
      const session = sessions.get(host.hostId);
      const report = { microvmId: known.microvmId, epoch: known.epoch, revision: known.revision };
      if (session?.isOpen === true) send(session, 'up', () => void (hasDatabase[session.replica] === true && database.report(host.hostId, report, isGone)));
    };
  }

  // Leaders
  const leaders: Leader[] = [];
  let incarnation = 1;
  function lead(replica: number): void {
    const drift = between(0.99, 1.01);
    const monotonicMs = (): number => (defect === 'wallClock' ? wallMs() : timeline.nowMs * drift);
    const leader: Leader = { watch: createLeaseWatch(monotonicMs), terms: createTermsMemory(monotonicMs), replica, epoch: database.acquire(), isStopped: false, isOver: false };
    reconnectAll();
    leaders.push(leader);
    note(`leadership ${leader.epoch}`);
    const step = (): void => {
      if (leader.isOver) return;
      if (!leader.isStopped && hasDatabase[replica] === true) look(leader);
      timeline.after(heartbeatMs / drift, step);
    };
    step();
  }
  /** After a recovery every host has to say anew what it knows. */
  function reconnectAll(): void {
    if (database.rows.incarnation === incarnation) return;
    incarnation = database.rows.incarnation;
    note(`the database is another: incarnation ${incarnation}`);
    for (const session of sessions.values()) close(session);
  }
  function look(leader: Leader): void {
    if (!database.isReviewed() || database.rows.leaderEpoch < leader.epoch) {
      // What the fence refuses makes it run for the leadership again, and that reviews the database.
      leader.epoch = database.acquire();
      reconnectAll();
    }
    const { hosts: readings, lineage } = database.list();
    leader.watch.observe(readings, lineage);
    if (defect !== 'noRecovery') database.settleSightings(leader.epoch);
    const all = leader.watch.all();
    const isSilent = (ms: number): boolean => ms >= silenceLimitMs;
    const mass = decideMassDisconnect(all.map((host) => ({ siteId: host.siteId, lastBeatAtMs: host.lastBeatAtMs, isSilent: isSilent(host.silentMs) })), () => -Infinity);
    for (const row of database.rows.microvms.values()) {
      if (row.desired.lease === undefined) continue;
      const watch = leader.watch.of(row.hostId);
      if (watch === null) continue;
      const isConfirmed = row.observed === null || row.observed.epoch !== row.epoch || row.observed.revision >= row.counters.revision;
      const termsKnownForMs = leader.terms.knownForMs(row.id, { epoch: row.epoch, stopOnHostAfterMs, isConfirmed });
      const seen = defect === 'countsTooFast' ? { ...watch, silentMs: watch.silentMs + 8_000, leaselessMs: watch.leaselessMs + 8_000 } : watch;
      const decision = decideReplacement({ policy, watch: seen, termsKnownForMs: defect === 'countsTooFast' ? Infinity : termsKnownForMs, isHeard: !isSilent(watch.silentMs), mass: mass.get(watch.siteId) ?? null, isRecovering: defect !== 'noRecovery' && database.isAwaited() });
      if (decision.action !== 'replace') continue;
      const others = all.filter((host) => host.hostId !== row.hostId && !isSilent(host.silentMs));
      if (others.length === 0) continue;
      const input = { microvmId: row.id, from: { hostId: row.hostId, epoch: row.epoch, lastBeatAtMs: watch.lastBeatAtMs, leaseEpoch: watch.leaseEpoch, lineage: watch.lineage }, placeOn: pick(others).hostId };
      const { epoch } = leader;
      // A leader can stop between its decision and its transaction.
      timeline.after(random() < 0.3 ? between(0, 4_000) : 5, () => {
        if (hasDatabase[leader.replica] !== true) return;
        const outcome = database.replace(input, epoch);
        if (outcome === 'replaced') replacements += 1;
        note(`replacement of ${row.id.at(-1)}: ${outcome}`);
      });
    }
  }

  // The fleet
  lead(0);
  const fenced = [microVMId(uuid(3, 1)), microVMId(uuid(3, 2))];
  fenced.forEach((id, n) => database.create(id, desired(`m${n}`, true), hosts[n % hostCount]?.hostId ?? hostId(uuid(2, 1))));
  database.create(plain, desired('plain', false), pick(hosts).hostId);
  for (const host of hosts) {
    host.startAgent();
    connect(host);
  }
  timeline.runUntil(6_000);

  // Disturbances
  const heal = (host: SimHost): void => {
    if (!cut.delete(host.hostId)) return;
    const session = sessions.get(host.hostId);
    if (session === undefined) return;
    const held = session.held.splice(0);
    if (random() < 0.5) for (const deliver of held) deliver();
    else close(session);
    note(`${host.name} is reached again`);
  };
  const kill = (host: SimHost): void => {
    const session = sessions.get(host.hostId);
    host.killAgent();
    if (session !== undefined) close(session);
  };
  const revive = (host: SimHost): void => {
    host.startAgent();
    host.whenRunning(() => connect(host));
  };
  const disturbances: Readonly<Record<Disturbance, () => void>> = {
    cut: () => {
      const host = pick(hosts);
      note(`${host.name} is cut`);
      cut.add(host.hostId);
      timeline.after(between(1_000, 45_000), () => heal(host));
    },
    agentKilledBehindCut: () => {
      const host = pick(hosts);
      note(`${host.name} is cut and its agent is killed while its VMMs live`);
      cut.add(host.hostId);
      kill(host);
      timeline.after(between(500, 30_000), () => revive(host));
      timeline.after(between(1_000, 45_000), () => heal(host));
    },
    agentKilled: () => {
      const host = pick(hosts);
      note(`the agent of ${host.name} is killed`);
      kill(host);
      timeline.after(between(200, 20_000), () => revive(host));
    },
    guardKilled: () => {
      const host = pick(hosts);
      note(`the guard of ${host.name} is killed`);
      host.killGuard();
    },
    suspend: () => {
      const host = pick(hosts);
      note(`${host.name} is suspended`);
      host.suspend();
      timeline.after(between(500, 40_000), () => {
        note(`${host.name} resumes`);
        host.resume();
      });
    },
    standStill: () => {
      const host = pick(hosts);
      note(`agent and guard of ${host.name} stand still`);
      host.standStill();
      timeline.after(between(100, guardLateMaxMs), () => host.goOn());
    },
    wallClock: () => {
      const host = pick(hosts);
      const shift = between(-1, 1) * 86_400_000;
      note(`the wall clock of ${host.name} jumps`);
      host.wallShiftMs += shift;
    },
    databaseClock: () => {
      note('the clock of the database jumps');
      wallShiftMs += between(-1, 1) * 3_600_000;
    },
    replicaWithoutDatabase: () => {
      const replica = Math.floor(random() * 2);
      note(`replica ${replica} is cut from the database, not from its agents`);
      hasDatabase[replica] = false;
      timeline.after(between(1_000, 40_000), () => {
        hasDatabase[replica] = true;
      });
    },
    failover: () => {
      const lag = between(0, 3_000);
      note(`the database fails over, ${Math.round(lag)} ms of commits are lost`);
      database.failOver(timeline.nowMs - lag);
      hasDatabase[0] = false;
      hasDatabase[1] = false;
      timeline.after(between(200, 3_000), () => {
        hasDatabase[0] = true;
        hasDatabase[1] = true;
      });
    },
    leaderStopped: () => {
      const old = leaders.at(-1);
      if (old === undefined || hasDatabase[1 - old.replica] !== true) return;
      old.isStopped = true;
      timeline.after(between(1_000, 20_000), () => {
        old.isStopped = false;
        // It finds out that it leads no more some time after it has gone on.
        timeline.after(between(0, 3_000), () => {
          old.isOver = true;
        });
      });
      lead(1 - old.replica);
    },
    reboot: () => {
      const host = pick(hosts);
      note(`${host.name} reboots`);
      kill(host);
      host.reboot();
      timeline.after(between(2_000, 25_000), () => revive(host));
    },
  };
  const count = 4 + Math.floor(random() * 12);
  for (let n = 0; n < count; n += 1) timeline.after(between(0, disturbedForMs), disturbances[pick(kinds)]);
  timeline.runUntil(6_000 + disturbedForMs + 45_000);
  for (const host of hosts) {
    host.resume();
    host.goOn();
    heal(host);
    revive(host);
  }
  hasDatabase[0] = true;
  hasDatabase[1] = true;
  timeline.runUntil(6_000 + disturbedForMs + 45_000 + healedForMs);
  const isServing = [...fenced, plain].every((id) => live.get(id)?.size === 1);
  return { overlaps, replacements, grants, vmms, plainHosts: plainOn.size, isServing, log };
}
