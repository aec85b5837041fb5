/**
 * What a MicroVMSet has to do now: which of its microVMs to make, to change and to delete. Pure; objects in, names and
 * bodies out. Names are a function of the set and what each microVM stands for, so that a set whose view is old makes
 * none twice: the second has the name of the first.
 */
import { canonicalJson } from '#api/model/canonical-json.ts';
import type { Labels, Taint, Toleration } from '../placement/model.ts';
import { isTolerated, matches } from '../placement/model.ts';

/** A JSON object. */
export type Json = Readonly<Record<string, unknown>>;

export interface SetSpec {
  readonly name: string;
  readonly mode: 'Replicas' | 'PerHost' | 'PerSite';
  readonly replicas: number;
  readonly siteName: string;
  readonly siteLabels: Labels;
  readonly template: Json;
  readonly overrides: ReadonlyMap<string, Json>;
  readonly updates: 'RollingUpdate' | 'OnDelete';
  readonly maxUnavailable: number;
}

export interface SetSite {
  readonly name: string;
  readonly labels: Labels;
  readonly isDeleting: boolean;
  /** Nothing there is stopped unasked. */
  readonly isHeld: boolean;
}

export interface SetHost {
  readonly name: string;
  readonly siteName: string;
  readonly labels: Labels;
  readonly taints: readonly Taint[];
  readonly isDeleting: boolean;
}

/** A microVM that the set owns. */
export interface SetMember {
  readonly name: string;
  readonly siteName: string;
  /** That it is for, with mode PerHost. */
  readonly hostName: string;
  /** Digest of what it was made or changed from; empty when nobody noted it. */
  readonly digest: string;
  readonly isReady: boolean;
  readonly isDeleting: boolean;
}

/** One microVM that there should be. */
export interface Slot {
  readonly name: string;
  readonly spec: Json;
  readonly digest: string;
}

export interface SetPlan {
  readonly slots: readonly Slot[];
  readonly create: readonly Slot[];
  readonly update: readonly Slot[];
  readonly remove: readonly string[];
  /** Slots whose microVM is as the template says. */
  readonly updated: number;
}

const nameMax = 63;
/** Hexadecimal digits that keep names apart whose ends were cut off. */
const cutDigits = 8;

export function planSet(
  set: SetSpec,
  seen: SetView,
  digestOf: (text: string) => string,
): SetPlan {
  const slots = slotsOf(set, seen, digestOf);
  const wanted = new Map(slots.map((slot) => [slot.name, slot]));
  const members = new Map(seen.members.map((member) => [member.name, member]));
  const isAvailable = ({ name }: Slot): boolean => {
    const member = members.get(name);
    return member !== undefined && member.isReady && !member.isDeleting;
  };
  const outdated = slots.filter(({ name, digest }) => {
    const member = members.get(name);
    return member !== undefined && !member.isDeleting && member.digest !== digest;
  });
  const unavailable = slots.filter((slot) => !isAvailable(slot)).length;
  const mayStop = Math.max(0, set.maxUnavailable - unavailable);
  const update = set.updates === 'OnDelete' ? [] : [...outdated.filter((slot) => !isAvailable(slot)), ...outdated.filter(isAvailable).slice(0, mayStop)];
  return {
    slots,
    create: slots.filter(({ name }) => !members.has(name)),
    update,
    // The highest number goes first; with the other modes the order says nothing.
    remove: seen.members.filter((member) => !wanted.has(member.name) && !member.isDeleting && mayRemove(set, member, seen)).map(({ name }) => name).toSorted((a, b) => byNumber(b, a)),
    updated: slots.filter(({ name, digest }) => members.get(name)?.digest === digest).length,
  };
}

/**
 * With mode Replicas a person wrote a smaller number. With the others it follows from what a host or site says; one that is
 * not seen any more says nothing: a list may be empty for other reasons than a deletion.
 */
function mayRemove(set: SetSpec, member: SetMember, { sites, hosts }: Pick<SetView, 'sites' | 'hosts'>): boolean {
  if (set.mode === 'Replicas') return true;
  const site = sites.find(({ name }) => name === member.siteName);
  if (site === undefined || (site.isHeld && !site.isDeleting)) return false;
  return set.mode === 'PerSite' || hosts.some(({ name }) => name === member.hostName);
}

export interface SetView {
  readonly sites: readonly SetSite[];
  readonly hosts: readonly SetHost[];
  readonly members: readonly SetMember[];
}

function slotsOf(set: SetSpec, { sites, hosts, members }: SetView, digestOf: (text: string) => string): readonly Slot[] {
  const slot = (key: string, siteName: string, fixed: Json): Slot => {
    const spec = mergePatch(mergePatch(set.template, set.overrides.get(key) ?? {}), fixed);
    const whole = { ...spec, siteRef: { name: siteName } };
    return { name: memberName(set.name, key, digestOf), spec: whole, digest: digestOf(canonicalJson(whole)) };
  };
  switch (set.mode) {
    case 'Replicas':
      return Array.from({ length: set.replicas }, (_, index) => slot(String(index), set.siteName, {}));
    case 'PerSite':
      return sites.filter(({ labels, isDeleting }) => !isDeleting && matches(labels, set.siteLabels)).toSorted(byName).map(({ name }) => slot(name, name, {}));
    case 'PerHost':
      return hosts.filter((host) => isAllowed(set, host, members.some(({ hostName, isDeleting }) => hostName === host.name && !isDeleting))).toSorted(byName).map(({ name }) => slot(name, set.siteName, { placement: { hostName: name, hostSelector: null } }));
  }
}

/** As far as it is for ever: whether the host has room or is heard now is placement's. One that is there leaves for NoExecute only. */
function isAllowed(set: SetSpec, host: SetHost, hasOne: boolean): boolean {
  if (host.isDeleting || host.siteName !== set.siteName) return false;
  const placement = asObject(mergePatch(set.template, set.overrides.get(host.name) ?? {})['placement']);
  if (typeof placement['hostName'] === 'string' && placement['hostName'] !== host.name) return false;
  if (!matches(host.labels, labelsIn(asObject(placement['hostSelector'])['matchLabels']))) return false;
  const tolerations = Array.isArray(placement['tolerations']) ? placement['tolerations'].map(tolerationIn) : [];
  return host.taints.every((taint) => (hasOne && taint.effect === 'NoSchedule') || isTolerated(taint, tolerations));
}

function tolerationIn(value: unknown): Toleration {
  const { key, operator, value: wanted, effect } = asObject(value);
  return {
    operator: operator === 'Exists' ? 'Exists' : 'Equal',
    value: typeof wanted === 'string' ? wanted : '',
    ...(typeof key === 'string' ? { key } : {}),
    ...(effect === 'NoSchedule' || effect === 'NoExecute' ? { effect } : {}),
  };
}

function labelsIn(value: unknown): Labels {
  return Object.fromEntries(Object.entries(asObject(value)).filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
}

const byName = (left: { readonly name: string }, right: { readonly name: string }): number => (left.name < right.name ? -1 : 1);

const numberAtEnd = (name: string): number => Number(/-(\d+)$/.exec(name)?.[1] ?? -1);

function byNumber(left: string, right: string): number {
  return numberAtEnd(left) - numberAtEnd(right) || (left < right ? -1 : 1);
}

/** `<set>-<key>`; one that is too long for a name is cut and told apart by a digest. */
export function memberName(setName: string, key: string, digestOf: (text: string) => string): string {
  const name = `${setName}-${key}`;
  if (name.length <= nameMax) return name;
  return `${name.slice(0, nameMax - cutDigits - 1).replace(/-+$/, '')}-${digestOf(name).slice(0, cutDigits)}`;
}

export function asObject(value: unknown): Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : {}; // Checked just before.
}

/** Source: RFC 7386, JSON Merge Patch. */
export function mergePatch(target: Json, patch: Json): Json {
  const merged: Record<string, unknown> = { ...target };
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else if (typeof value === 'object' && !Array.isArray(value)) merged[key] = mergePatch(asObject(merged[key]), asObject(value));
    else merged[key] = value;
  }
  return merged;
}

/** The merge patch that makes `to` out of `from`. Source: RFC 7386. */
export function diffPatch(from: Json, to: Json): Json {
  const patch: Record<string, unknown> = {};
  for (const key of Object.keys(from)) if (!(key in to)) patch[key] = null;
  for (const [key, value] of Object.entries(to)) {
    const old = from[key];
    const areObjects = [old, value].every((side) => typeof side === 'object' && side !== null && !Array.isArray(side));
    if (areObjects) {
      const inner = diffPatch(asObject(old), asObject(value));
      if (Object.keys(inner).length > 0) patch[key] = inner;
    } else if (canonicalJson(old) !== canonicalJson(value)) patch[key] = value;
  }
  return patch;
}
