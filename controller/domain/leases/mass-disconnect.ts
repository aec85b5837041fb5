/**
 * The brake: when many hosts fell silent at about the same time, the cause is more likely ours (an outage of the control
 * plane, a cut of a region) than theirs, and starting all their microVMs elsewhere would make it worse. Pure.
 */
import type { SiteId } from '#api/model/ids.ts';

/** Hosts whose last beats lie within this of each other fell silent in one event. */
export const massWindowMs = 600_000;
const partMax = 1 / 3;
/** One host is no mass, however small the site. */
const hostsMin = 2;

export interface SilentHost {
  readonly siteId: SiteId;
  readonly isSilent: boolean;
  /** By the clock of the database, only ever compared with others of it; null: never heard, so it did not fall silent. */
  readonly lastBeatAtMs: number | null;
}

export interface MassDisconnect {
  /** Hosts that fell silent together, and of how many. */
  readonly silent: number;
  readonly total: number;
  /** Last beat of the newest of them, by the clock of the database: a release names it. */
  readonly newestBeatAtMs: number;
}

/** By site what holds its replacements; a site without an entry is free. `releasedUntilMs`: silences that began up to then do not count. */
export function decideMassDisconnect(hosts: readonly SilentHost[], releasedUntilMs: (siteId: SiteId) => number): ReadonlyMap<SiteId, MassDisconnect> {
  const heard = hosts.filter((host) => host.lastBeatAtMs !== null);
  const bySite = Map.groupBy(heard, (host) => host.siteId);
  const held = new Map<SiteId, MassDisconnect>();
  for (const [siteId, own] of bySite) {
    const isCounted = (host: SilentHost): boolean => (host.lastBeatAtMs ?? 0) > releasedUntilMs(siteId);
    const found = findMass(own.filter(isCounted), own.length) ?? findMass(heard.filter(isCounted), heard.length);
    if (found !== null) held.set(siteId, found);
  }
  return held;
}

function findMass(hosts: readonly SilentHost[], total: number): MassDisconnect | null {
  const times = hosts.flatMap((host) => (host.isSilent && host.lastBeatAtMs !== null ? [host.lastBeatAtMs] : [])).sort((a, b) => a - b);
  let most: MassDisconnect | null = null;
  let first = 0;
  times.forEach((time, last) => {
    while (time - (times[first] ?? time) > massWindowMs) first += 1;
    const silent = last - first + 1;
    if (silent >= hostsMin && silent > total * partMax && silent > (most?.silent ?? 0)) most = { silent, total, newestBeatAtMs: time };
  });
  return most;
}
