/**
 * What an AgentRollout does next, from its spec, the hosts and what was stored of them: whom it tells to update, which ring
 * is over, where it failed and who is given back the version before. Pure; the rows that it asks for and the time of the next
 * look are all that has an effect.
 *
 * Invariants: no host of a ring is told before the ring before it is over; after a failure nobody is told anything but to
 * go back; deciding again from the rows that were just asked for asks for none.
 */
import { advanceHost } from './advance-host.ts';
import type { HostCount, RingPhase, RingSpec, RingState, RolloutDecision, RolloutHost, RolloutReason, RolloutRow, RolloutSituation, RolloutSpec } from './model.ts';

/** One host of a ring, with its row as it is to be. */
interface Member {
  readonly host: RolloutHost;
  readonly ringIndex: number;
  /** Of this try; null: it was not told yet. */
  row: RolloutRow | null;
}

export function decideRollout(spec: RolloutSpec, situation: RolloutSituation): RolloutDecision {
  const looks: number[] = [];
  const manifestUrl = situation.manifestUrlOf(spec.version);
  const { members, skipped } = assignRings(spec, situation.hosts);
  for (const member of members) {
    const stored = member.host.row;
    if (stored === null || !isThisTry(spec, stored)) continue;
    const { ageMs: _, ...row } = stored;
    member.row = row;
    if (row.isReturned) continue;
    const { row: advanced, nextLookMs } = advanceHost(spec, member.host, stored);
    // One that could not be fetched yet is fetched where the manifest is said to be now.
    member.row = advanced.state === 'Ordered' && manifestUrl !== null ? { ...advanced, order: { version: spec.version, manifestUrl } } : advanced;
    if (nextLookMs !== null) looks.push(nextLookMs);
  }
  const rings = spec.rings.map((ring, index) => judgeRing(spec, ring, members.filter(({ ringIndex }) => ringIndex === index)));
  for (const { isPassed, members: own } of rings) if (isPassed) for (const member of own) if (member.row?.state === 'Passed' && !member.row.isReturned) member.row = { ...member.row, state: 'Settled' };
  const failedAt = rings.findIndex(({ isFailed }) => isFailed);
  const currentAt = failedAt >= 0 ? failedAt : rings.findIndex(({ isPassed }) => !isPassed);
  giveBack(spec, situation, members, failedAt);
  const mayTell = failedAt < 0 && !spec.isPaused && !spec.isRollBackAsked && situation.isWindowOpen;
  if (mayTell && manifestUrl !== null) {
    const open = currentAt < 0 ? rings : rings.slice(0, currentAt + 1);
    for (const ring of open) for (const member of nextToTell(ring)) {
      member.row = firstRow(spec, ring.spec.name, member.host, manifestUrl);
      looks.push(spec.deadlineMs);
    }
  }
  const current = rings[currentAt];
  const waitsFor = current === undefined ? [] : waiting(current);
  return {
    writes: members.flatMap(({ host, row }) => (row === null || isStored(host, row) ? [] : [{ ...row, hostId: host.hostId, name: host.name }])),
    rings: rings.map((ring, index) => describeRing(ring, skipped.get(index) ?? 0, phaseOf(ring, index, { currentAt, failedAt }))),
    reason: reasonOf(spec, { failedAt, current, situation, isReleaseKnown: manifestUrl !== null }),
    ring: current?.spec.name ?? null,
    failures: byName(members.filter(({ row }) => row?.state === 'Failed')).map(({ host, row }) => ({ host: host.name, message: row?.problem || 'the version failed there' })),
    returning: byName(members.filter(isReturning)).map(({ host }) => ({ host: host.name, problem: host.healthProblem || problemOfReturn(host) })),
    waitsFor,
    nextLookMs: looks.length === 0 ? null : Math.min(...looks),
  };
}

function isThisTry(spec: RolloutSpec, row: RolloutRow): boolean {
  return row.rolloutId === spec.rolloutId && row.targetVersion === spec.version && row.nonce === spec.nonce;
}

function assignRings(spec: RolloutSpec, hosts: readonly RolloutHost[]): { readonly members: readonly Member[]; readonly skipped: ReadonlyMap<number, number> } {
  const members: Member[] = [];
  const skipped = new Map<number, number>();
  for (const host of [...hosts].sort((left, right) => (left.name < right.name ? -1 : 1))) {
    const ringIndex = ringOf(spec, host);
    if (ringIndex < 0) continue;
    // What was begun here is finished here; then the newer rollout has the host.
    const isBegun = host.skipped === 'NewerRollout' && host.row !== null && isThisTry(spec, host.row) && isInFlight(host);
    if (host.skipped === null || isBegun) members.push({ host, ringIndex, row: null });
    else skipped.set(ringIndex, (skipped.get(ringIndex) ?? 0) + 1);
  }
  return { members, skipped };
}

/** A host that was told stays in the ring in which it was. -1: in none. */
function ringOf({ rings, ...spec }: RolloutSpec, { row, ringName, siteName, labels }: RolloutHost): number {
  const named = (name: string): number => rings.findIndex((ring) => ring.name === name);
  const told = row !== null && isThisTry({ rings, ...spec }, row) ? named(row.ring) : -1;
  if (told >= 0) return told;
  if (ringName !== null && named(ringName) >= 0) return named(ringName);
  return rings.findIndex((ring) => (ring.sites !== null || ring.labels !== null) && (ring.sites === null || ring.sites.includes(siteName)) && Object.entries(ring.labels ?? {}).every(([key, value]) => labels[key] === value));
}

interface Ring {
  readonly spec: RingSpec;
  readonly members: readonly Member[];
  readonly isPassed: boolean;
  readonly isFailed: boolean;
}

function judgeRing(spec: RolloutSpec, ring: RingSpec, members: readonly Member[]): Ring {
  const inState = (...states: readonly RolloutRow['state'][]): number => members.filter(({ row }) => row !== null && !row.isReturned && states.includes(row.state)).length;
  const failed = members.filter(({ row }) => row?.state === 'Failed').length;
  // A ring that was over stays over: who joins it later, and fails, is given back alone.
  const isSettled = inState('Settled') > 0;
  const needed = countOf(spec.required, members.length - failed);
  const isEnough = needed > 0 && inState('Passed') >= needed && inState('Ordered', 'Soaking') === 0;
  const isFailed = !isSettled && failed > spec.maxFailures;
  return { spec: ring, members, isPassed: isSettled || (isEnough && !isFailed), isFailed };
}

/** At least one of some, never more than there are. */
function countOf(count: HostCount, of: number): number {
  if (of <= 0) return 0;
  return Math.min(of, Math.max(1, count.kind === 'number' ? count.value : Math.ceil((of * count.value) / 100)));
}

function giveBack(spec: RolloutSpec, situation: RolloutSituation, members: readonly Member[], failedAt: number): void {
  const isAsked = ({ row, ringIndex }: Member): boolean => {
    if (spec.isRollBackAsked || row?.state === 'Failed') return true;
    if (failedAt < 0 || spec.onFailure === 'RollBackFailed') return false;
    return spec.onFailure === 'RollBackAll' || ringIndex === failedAt;
  };
  for (const member of members) {
    const { row } = member;
    if (row === null || row.isReturned || !isAsked(member)) continue;
    const isKnown = row.fromVersion !== '' && row.fromVersion !== row.targetVersion;
    // Where nobody knows that manifest the host still has the version, and needs none.
    const manifestUrl = situation.manifestUrlOf(row.fromVersion) ?? row.order?.manifestUrl;
    member.row = { ...row, isReturned: true, order: isKnown && manifestUrl !== undefined ? { version: row.fromVersion, manifestUrl } : null };
  }
}

const isInFlight = ({ row }: { readonly row: RolloutRow | null }): boolean => row !== null && !row.isReturned && (row.state === 'Ordered' || row.state === 'Soaking');

function nextToTell({ spec, members }: Ring): readonly Member[] {
  const room = countOf(spec.maxParallel, members.length) - members.filter(isInFlight).length;
  return members.filter(mayBeTold).slice(0, Math.max(0, room));
}

function mayBeTold({ host, row }: Member): boolean {
  return row === null && host.health === 'able' && host.heldBack === null && !isTakenElsewhere(host) && isCopied(host);
}

/** Another rollout is not done with the host. An earlier try of this one makes room. */
function isTakenElsewhere(host: RolloutHost): boolean {
  return host.isFollowedElsewhere && isInFlight(host);
}

/**
 * What was told before has reached the host's own row. A host would take a version that failed there, told again without
 * another in between, for the order that it had.
 */
function isCopied({ row, order }: RolloutHost): boolean {
  return row === null || (order?.version ?? null) === (row.order?.version ?? null);
}

function firstRow(spec: RolloutSpec, ring: string, { row, runningVersion }: RolloutHost, manifestUrl: string): RolloutRow {
  // What it runs was not proven: what it ran before that is what it can go back to.
  const isUnproven = row !== null && row.targetVersion === runningVersion && row.state !== 'Passed' && row.state !== 'Settled';
  return {
    rolloutId: spec.rolloutId, ring, targetVersion: spec.version, nonce: spec.nonce, fromVersion: isUnproven ? row.fromVersion : runningVersion,
    order: { version: spec.version, manifestUrl }, state: 'Ordered', isReturned: false, problem: '', breaks: 0,
  };
}

function isStored({ row }: RolloutHost, wanted: RolloutRow): boolean {
  if (row === null) return false;
  const { ageMs: _, order, ...rest } = row;
  const isOrderEqual = order?.version === wanted.order?.version && order?.manifestUrl === wanted.order?.manifestUrl;
  return isOrderEqual && Object.entries(rest).every(([field, value]) => wanted[field as keyof typeof rest] === value); // Keys of the row.
}

function isReturning({ host, row }: Member): boolean {
  return row !== null && row.isReturned && row.order !== null && host.runningVersion !== row.order.version;
}

function problemOfReturn({ order, report, runningVersion }: RolloutHost): string {
  const isAnswer = order !== null && report !== null && report.orderRevision >= order.revision && report.problem !== '';
  return isAnswer ? report.problem : `it runs ${runningVersion}`;
}

function waiting({ members }: Ring): RolloutDecision['waitsFor'] {
  return byName(members.filter(({ row }) => row === null)).flatMap(({ host }) => {
    if (host.health !== 'able') return [{ host: host.name, problem: host.healthProblem }];
    if (host.heldBack !== null) return [{ host: host.name, problem: host.heldBack === 'SiteHold' ? 'its Site is on hold' : 'no maintenance window of its Site is open' }];
    return isTakenElsewhere(host) ? [{ host: host.name, problem: 'another rollout is not done with it' }] : [];
  });
}

function describeRing({ spec, members }: Ring, skipped: number, phase: RingPhase): RingState {
  const count = (is: (row: RolloutRow | null) => boolean): number => members.filter(({ row }) => is(row)).length;
  const isIn = (row: RolloutRow | null, ...states: readonly RolloutRow['state'][]): boolean => row !== null && !row.isReturned && states.includes(row.state);
  return {
    name: spec.name, phase, hosts: members.length, skipped,
    waiting: count((row) => row === null),
    updating: count((row) => isIn(row, 'Ordered')),
    soaking: count((row) => isIn(row, 'Soaking')),
    updated: count((row) => isIn(row, 'Passed', 'Settled')),
    failed: count((row) => row?.state === 'Failed'),
    returned: count((row) => row?.isReturned === true),
  };
}

function phaseOf({ isPassed, isFailed }: Ring, index: number, { currentAt, failedAt }: { readonly currentAt: number; readonly failedAt: number }): RingPhase {
  if (isFailed) return 'Failed';
  if (isPassed) return 'Passed';
  return failedAt < 0 && index === currentAt ? 'Progressing' : 'Pending';
}

interface ReasonFacts {
  readonly failedAt: number;
  readonly current: Ring | undefined;
  readonly situation: RolloutSituation;
  readonly isReleaseKnown: boolean;
}

function reasonOf(spec: RolloutSpec, { failedAt, current, situation, isReleaseKnown }: ReasonFacts): RolloutReason {
  if (spec.isRollBackAsked) return 'RollBackAsked';
  if (failedAt >= 0) return 'Stopped';
  if (current === undefined) return 'AllRingsPassed';
  if (current.members.length === 0) return 'RingEmpty';
  if (current.members.some(isInFlight)) return 'RingUnderWay';
  const untold = current.members.filter(({ row }) => row === null);
  if (untold.length === 0) return 'HostsReturned';
  if (spec.isPaused) return 'Paused';
  if (!isReleaseKnown) return 'ReleaseUnknown';
  if (!situation.isWindowOpen) return 'OutsideWindow';
  const able = untold.filter(({ host }) => host.health === 'able');
  if (able.length === 0) return 'HostsUnavailable';
  const free = able.filter(({ host }) => host.heldBack === null);
  if (free.length === 0) return able.some(({ host }) => host.heldBack === 'OutsideWindow') ? 'OutsideWindow' : 'SiteHold';
  return 'RingUnderWay';
}

function byName(members: readonly Member[]): readonly Member[] {
  return [...members].sort((left, right) => (left.host.name < right.host.name ? -1 : 1));
}
