/**
 * Chooses the host for a microVM that has none. Every host that does not fit is counted under the first
 * predicate that excluded it, so that a person reads why.
 *
 * Invariants: pure over the index; the order in which hosts became known does not matter; a chosen host passes every
 * predicate. The binding transaction checks the room again, because others place at the same time.
 */
import type { HostId } from '#api/model/ids.ts';
import { isTolerated, matches, placeOf, type AffinityTerm, type Placement, type PlacementRequest } from './model.ts';
import { findRoom } from './preemption.ts';
import { needOf, type HostEntry, type SiteIndex } from './site-index.ts';

/** What one decision knows beside the hosts; made once for each decision. */
interface Question {
  readonly request: PlacementRequest;
  readonly index: SiteIndex;
  readonly isOnline: (hostId: HostId) => boolean;
  readonly need: { readonly cpus: number; readonly memoryBytes: number };
  /** Some room is kept for somebody. */
  readonly isNominated: boolean;
  /** One for each required term: places where such microVMs are, null when the term holds for the first of its kind. */
  readonly together: readonly { readonly topologyKey: string; readonly places: ReadonlySet<string> | null }[];
  /** Places that it must keep away from, by topology key. */
  readonly apart: readonly { readonly topologyKey: string; readonly places: ReadonlySet<string> }[];
  readonly spread: readonly { readonly topologyKey: string; readonly highest: number; readonly counts: ReadonlyMap<string, number> }[];
}

interface Predicate {
  readonly singular: string;
  readonly plural: string;
  /** Room can be made. These come last, so that a host that one of them excludes passes all others. */
  readonly isRoom?: boolean;
  /** Says no more than that the host is not open. */
  readonly isOpenness?: boolean;
  readonly excludes: (entry: HostEntry, question: Question) => boolean;
}

/** In this order: the first that excludes a host is the one that is counted. */
const predicates: readonly Predicate[] = [
  { singular: 'has another name', plural: 'have another name', excludes: ({ host }, { request }) => request.hostName !== null && host.name !== request.hostName },
  { singular: 'lacks the labels of hostSelector', plural: 'lack the labels of hostSelector', excludes: ({ host }, { request }) => !matches(host.labels, request.matchLabels) },
  { singular: 'is ruled out', plural: 'are ruled out', excludes: ({ host }, { request }) => request.excludedHosts?.has(host.hostId) === true },
  { singular: 'is revoked', plural: 'are revoked', isOpenness: true, excludes: ({ host }) => host.isRevoked },
  { singular: 'is being deleted', plural: 'are being deleted', isOpenness: true, excludes: ({ host }) => host.isDeleting },
  { singular: 'is quarantined', plural: 'are quarantined', isOpenness: true, excludes: ({ host }) => host.isQuarantined },
  { singular: 'awaits approval', plural: 'await approval', isOpenness: true, excludes: ({ host }) => !host.isApproved },
  { singular: 'is draining', plural: 'are draining', isOpenness: true, excludes: ({ host }) => host.isDraining },
  { singular: 'is unschedulable', plural: 'are unschedulable', isOpenness: true, excludes: ({ host }) => host.isUnschedulable },
  { singular: 'is silent', plural: 'are silent', excludes: ({ host }, { isOnline }) => !isOnline(host.hostId) },
  { singular: 'has no usable hypervisor', plural: 'have no usable hypervisor', isOpenness: true, excludes: ({ host }) => !host.hasHypervisor },
  { singular: 'lacks a feature of the VMM', plural: 'lack a feature of the VMM', excludes: ({ host }, { request }) => request.features.some((feature) => !host.features.has(feature)) },
  { singular: 'has a taint that is not tolerated', plural: 'have a taint that is not tolerated', excludes: ({ host }, { request }) => host.taints.some((taint) => !isTolerated(taint, request.tolerations)) },
  { singular: 'is not together with the microVMs of affinity.together', plural: 'are not together with the microVMs of affinity.together', excludes: isNotTogether },
  { singular: 'has microVMs that must be apart', plural: 'have microVMs that must be apart', excludes: isNotApart },
  { singular: 'would break topologySpread', plural: 'would break topologySpread', excludes: breaksSpread },
  { singular: 'lacks memory', plural: 'lack memory', isRoom: true, excludes: (entry, question) => entry.freeMemoryBytes - (question.isNominated ? keptOn(entry, question).memoryBytes : 0) < question.need.memoryBytes },
  { singular: 'lacks CPUs', plural: 'lack CPUs', isRoom: true, excludes: (entry, question) => entry.freeCpus - (question.isNominated ? keptOn(entry, question).cpus : 0) < question.need.cpus },
];

/**
 * `isOnline` is asked only about hosts that pass what stands before it. The index is not changed, apart from its
 * figures.
 */
export function placeMicroVM(request: PlacementRequest, index: SiteIndex, isOnline: (hostId: HostId) => boolean): Placement {
  index.figures.decisions += 1;
  const question = ask(request, index, isOnline);
  if (request.hostName !== null) return placeOnNamed(request.hostName, question);
  const exclusions = new Map<Predicate, number>();
  const full: HostEntry[] = [];
  const isScored = hasWishes(request);
  let chosen: { readonly entry: HostEntry; readonly score: number } | null = null;
  for (const entry of index.ordered()) {
    const excluding = excludingPredicate(entry, question);
    if (excluding !== undefined) {
      exclusions.set(excluding, (exclusions.get(excluding) ?? 0) + 1);
      if (excluding.isRoom === true) full.push(entry);
      continue;
    }
    // The order of hosts is the order of preference, so that without wishes the first that fits is the best.
    if (!isScored) return placed(entry);
    const score = scoreOf(entry, question);
    if (chosen === null || score > chosen.score) chosen = { entry, score };
  }
  if (chosen !== null) return placed(chosen.entry);
  return makeRoom(question, full, explain(index.size(), exclusions));
}

function placeOnNamed(name: string, question: Question): Placement {
  const entry = question.index.byName(name);
  if (entry === undefined) return { outcome: 'unplaced', code: 'HOST_NOT_FOUND', message: `the site has no enrolled host ${name}` };
  const excluding = excludingPredicate(entry, question);
  if (excluding === undefined) return placed(entry);
  const others = question.index.size() - 1;
  const exclusions = new Map([[excluding, 1]]);
  const [byName] = predicates;
  if (others > 0 && byName !== undefined) exclusions.set(byName, others);
  return makeRoom(question, excluding.isRoom === true ? [entry] : [], explain(others + 1, exclusions));
}

function placed({ host }: HostEntry): Placement {
  return { outcome: 'placed', hostId: host.hostId, hostName: host.name };
}

/** Most hosts are open: what would only find that out again is left out. */
const predicatesOfOpen = predicates.filter(({ isOpenness }) => isOpenness !== true);

function excludingPredicate(entry: HostEntry, question: Question): Predicate | undefined {
  question.index.figures.hostsVisited += 1;
  for (const predicate of entry.isOpen ? predicatesOfOpen : predicates) if (predicate.excludes(entry, question)) return predicate;
  return undefined;
}

/** Looks for room that microVMs of lower priority can give, on hosts that lack nothing else; without any it is unplaced. */
function makeRoom(question: Question, full: readonly HostEntry[], message: string): Placement {
  const { request, index } = question;
  const room = findRoom(request, full, (hostId) => index.nominatedOn(hostId, request));
  if (room === null) return { outcome: 'unplaced', code: 'NO_HOST_FITS', message };
  const { name, hostId } = room.entry.host;
  const what = room.victims.length === 0 ? 'waits for microVMs that leave' : `moves ${room.victims.length} of lower priority away`;
  return { outcome: 'preempting', hostId, hostName: name, victims: room.victims.map(({ microvmId }) => microvmId), message: `${message}; it ${what} on ${name}` };
}

function keptOn(entry: HostEntry, { index, request }: Question): { readonly cpus: number; readonly memoryBytes: number } {
  return index.nominatedOn(entry.host.hostId, request);
}

function ask(request: PlacementRequest, index: SiteIndex, isOnline: (hostId: HostId) => boolean): Question {
  const apart = request.apart.filter(({ isRequired }) => isRequired).map((term) => ({ topologyKey: term.topologyKey, places: placesOf(term, request, index) }));
  for (const [topologyKey, places] of index.forbiddenPlaces(request.labels)) apart.push({ topologyKey, places });
  return {
    request,
    index,
    isOnline,
    need: needOf(request),
    isNominated: index.hasNominations(),
    together: request.together.filter(({ isRequired }) => isRequired).map((term) => {
      const places = placesOf(term, request, index);
      // The first of its kind would wait for itself for ever.
      return { topologyKey: term.topologyKey, places: places.size === 0 && matches(request.labels, term.matchLabels) ? null : places };
    }),
    apart,
    spread: request.spread.filter(({ isRequired }) => isRequired).map((rule) => {
      const counts = countPlaces(rule, request, index);
      const lowest = [...counts.values()].reduce((least, count) => Math.min(least, count), Infinity);
      return { topologyKey: rule.topologyKey, counts, highest: lowest + rule.maxSkew - (matches(request.labels, rule.matchLabels) ? 1 : 0) };
    }),
  };
}

function placesOf(term: Pick<AffinityTerm, 'matchLabels' | 'topologyKey'>, request: PlacementRequest, index: SiteIndex): ReadonlySet<string> {
  const places = new Set<string>();
  for (const microvm of index.findBound(term.matchLabels)) {
    if (microvm.microvmId === request.microvmId) continue;
    const host = index.byId(microvm.hostId)?.host;
    const place = host === undefined ? undefined : placeOf(host, term.topologyKey);
    if (place !== undefined) places.add(place);
  }
  return places;
}

/** How many such microVMs are at each place that it could be at, those without any included. */
function countPlaces(rule: Pick<AffinityTerm, 'matchLabels' | 'topologyKey'>, request: PlacementRequest, index: SiteIndex): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const { host } of index.ordered()) {
    if (host.isRevoked || host.isDeleting || request.excludedHosts?.has(host.hostId) === true || !matches(host.labels, request.matchLabels)) continue;
    const place = placeOf(host, rule.topologyKey);
    if (place !== undefined) counts.set(place, 0);
  }
  for (const microvm of index.findBound(rule.matchLabels)) {
    if (microvm.microvmId === request.microvmId) continue;
    const host = index.byId(microvm.hostId)?.host;
    const place = host === undefined ? undefined : placeOf(host, rule.topologyKey);
    const count = place === undefined ? undefined : counts.get(place);
    if (place !== undefined && count !== undefined) counts.set(place, count + 1);
  }
  return counts;
}

function isNotTogether({ host }: HostEntry, { together }: Question): boolean {
  return together.some(({ topologyKey, places }) => {
    const place = placeOf(host, topologyKey);
    return place === undefined || (places !== null && !places.has(place));
  });
}

function isNotApart({ host }: HostEntry, { apart }: Question): boolean {
  return apart.some(({ topologyKey, places }) => {
    const place = placeOf(host, topologyKey);
    return place !== undefined && places.has(place);
  });
}

function breaksSpread({ host }: HostEntry, { spread }: Question): boolean {
  return spread.some(({ topologyKey, counts, highest }) => {
    const place = placeOf(host, topologyKey);
    return place === undefined || (counts.get(place) ?? 0) > highest;
  });
}

function hasWishes({ together, apart, spread }: PlacementRequest): boolean {
  return [...together, ...apart, ...spread].some(({ isRequired }) => !isRequired);
}

/** Wishes that a host fulfils; an uneven spread weighs by how uneven it is. */
function scoreOf({ host }: HostEntry, question: Question): number {
  const { together, apart, spread } = wishesOf(question);
  const at = (topologyKey: string): string => placeOf(host, topologyKey) ?? '';
  const near = together.filter(({ topologyKey, places }) => places.has(at(topologyKey))).length;
  const away = apart.filter(({ topologyKey, places }) => !places.has(at(topologyKey))).length;
  const crowd = spread.reduce((total, { topologyKey, counts }) => total + (counts.get(at(topologyKey)) ?? 0), 0);
  return (near + away) * wishWeight - crowd;
}

/** Above any count of microVMs at one place. */
const wishWeight = 1_000_000;

interface Wishes {
  readonly together: readonly { readonly topologyKey: string; readonly places: ReadonlySet<string> }[];
  readonly apart: readonly { readonly topologyKey: string; readonly places: ReadonlySet<string> }[];
  readonly spread: readonly { readonly topologyKey: string; readonly counts: ReadonlyMap<string, number> }[];
}

const wishes = new WeakMap<Question, Wishes>();

function wishesOf(question: Question): Wishes {
  const known = wishes.get(question);
  if (known !== undefined) return known;
  const { request, index } = question;
  const terms = (list: readonly AffinityTerm[]) => list.filter(({ isRequired }) => !isRequired).map((term) => ({ topologyKey: term.topologyKey, places: placesOf(term, request, index) }));
  const made: Wishes = {
    together: terms(request.together),
    apart: terms(request.apart),
    spread: request.spread.filter(({ isRequired }) => !isRequired).map((rule) => ({ topologyKey: rule.topologyKey, counts: countPlaces(rule, request, index) })),
  };
  wishes.set(question, made);
  return made;
}

function explain(total: number, exclusions: ReadonlyMap<Predicate, number>): string {
  if (total === 0) return '0 of 0 hosts fit: no machine is enrolled at the site';
  const counts = predicates.flatMap((predicate) => {
    const count = exclusions.get(predicate);
    return count === undefined ? [] : [`${count} ${count === 1 ? predicate.singular : predicate.plural}`];
  });
  return `0 of ${total} ${total === 1 ? 'host fits' : 'hosts fit'}: ${counts.join(', ')}`;
}
