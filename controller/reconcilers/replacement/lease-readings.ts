/**
 * The leader's view of leases: one reading of all hosts in each heartbeat interval, kept on this process's clock, and
 * which sites are held because too many hosts fell silent together. Reads only; decides nothing about one microVM.
 */
import type { HostId, SiteId } from '#api/model/ids.ts';
import type { Site } from '#crds/gen/site.ts';
import { createLeaseWatch, type HostWatch } from '#controller/domain/leases/lease-watch.ts';
import { decideMassDisconnect, type MassDisconnect } from '#controller/domain/leases/mass-disconnect.ts';
import { missedBeatsMax } from '#controller/domain/silence.ts';
import type { LeaseStore } from '#controller/ports/lease-store.ts';
import { errorFields, type Log } from '#controller/runtime/log.ts';
import { pause, type Time } from '#controller/runtime/time.ts';

/** Its value is a time: silences of hosts of the Site that began up to then hold no replacement. */
export const releaseAnnotation = 'nkudo.dev/release-replacements';

export interface LeaseReadings {
  of(hostId: HostId): HostWatch | null;
  mass(siteId: SiteId): MassDisconnect | null;
  /** What an operator wrote, when that is why the site is not held. */
  releaseOf(siteId: SiteId): string | null;
  /** Reads once. Never throws. */
  read(): Promise<void>;
  /** Reads until the signal. */
  run(signal: AbortSignal): Promise<void>;
}

export interface LeaseReadingsDeps {
  readonly store: Pick<LeaseStore, 'list'>;
  readonly time: Time;
  readonly log: Log;
  readonly heartbeatIntervalMs: number;
  readonly siteByUid: (uid: string) => Site | undefined;
  /** Called for each site whose brake is another than before. */
  readonly onMassChanged: (siteId: SiteId) => void;
}

export function createLeaseReadings(deps: LeaseReadingsDeps): LeaseReadings {
  const { store, time, log, heartbeatIntervalMs } = deps;
  const watch = createLeaseWatch(() => time.monotonicMs());
  const silenceLimitMs = missedBeatsMax * heartbeatIntervalMs;
  let shown = new Set<SiteId>();
  const annotationOf = (siteId: SiteId): string | null => deps.siteByUid(siteId)?.metadata.annotations?.[releaseAnnotation] ?? null;
  const releasedUntilMs = (siteId: SiteId): number => {
    const atMs = Date.parse(annotationOf(siteId) ?? '');
    return Number.isNaN(atMs) ? -Infinity : atMs;
  };
  const massesUnder = (released: (siteId: SiteId) => number): ReadonlyMap<SiteId, MassDisconnect> =>
    decideMassDisconnect(watch.all().map((host) => ({ siteId: host.siteId, lastBeatAtMs: host.lastBeatAtMs, isSilent: host.silentMs >= silenceLimitMs })), released);
  const masses = (): ReadonlyMap<SiteId, MassDisconnect> => massesUnder(releasedUntilMs);

  async function read(): Promise<void> {
    try {
      const { hosts, lineage } = await store.list();
      watch.observe(hosts, lineage);
      const held = new Set(masses().keys());
      const changed = [...held, ...shown].filter((siteId) => held.has(siteId) !== shown.has(siteId));
      shown = held;
      for (const siteId of changed) deps.onMassChanged(siteId);
    } catch (error) {
      // What was seen last stays; the transaction of a replacement would find that it is out of date.
      log.warn(errorFields(error), 'leases of hosts could not be read');
    }
  }

  return {
    of: (hostId) => watch.of(hostId),
    // From the newest annotation, so that a release takes effect with the event that brought it.
    mass: (siteId) => masses().get(siteId) ?? null,
    releaseOf: (siteId) => (massesUnder(() => -Infinity).has(siteId) && !masses().has(siteId) ? annotationOf(siteId) : null),
    read,
    run: async (signal) => {
      while (!signal.aborted) {
        await pause(time, heartbeatIntervalMs, signal);
        if (!signal.aborted) await read();
      }
    },
  };
}
