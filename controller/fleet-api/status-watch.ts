/**
 * Follows the status of a tenant: the whole list, then what differs from it at each wake-up. Sends only
 * differences, so a spurious wake-up sends nothing and a lost one is made good by the next look. Watchers of one tenant
 * who look at once share one read, so that what a tenant costs does not grow with their number.
 */
import { hash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { WatchStatusResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import type { TenantId } from '#api/model/ids.ts';
import type { Outgoing } from '#controller/grpc/calls.ts';
import { coalesced } from '#controller/domain/coalesced.ts';
import type { Clock } from '#controller/ports/clock.ts';
import type { FleetStore } from '#controller/ports/fleet-store.ts';
import { encodeHost, encodeMicroVM, encodePlan, encodeSite } from './fleet-codec.ts';
import type { WakeUps } from './wake-ups.ts';

/** Longest time between two looks, milliseconds: beats and other replicas wake nobody. */
const lookIntervalMs = 5_000;
/** Shortest time between two looks, so that a busy tenant costs a bounded number of reads. */
const lookPauseMs = 250;
const pageSize = 1000;

type Change = Exclude<WatchStatusResponse['change'], undefined>;

export interface WatchDeps {
  readonly clock: Clock;
  readonly fleet: FleetStore;
  readonly wakeUps: WakeUps;
  readonly statuses: SharedStatuses;
}

type Seen = ReadonlyMap<string, { readonly change: Change; readonly print: string }>;

/** Sites, hosts and microVMs, read once for all who look at them at a time: for each tenant and site at most one read runs. */
export interface SharedStatuses {
  /** A read that begins after the call. `close` when no more is wanted. */
  open(tenantId: TenantId, siteName: string | null): { readonly read: () => Promise<Seen>; readonly close: () => void };
}

export function createSharedStatuses(deps: ReadDeps): SharedStatuses {
  const shared = new Map<string, { readonly read: () => Promise<Seen>; readers: number }>();
  return {
    open: (tenantId, siteName) => {
      const key = JSON.stringify([tenantId, siteName]);
      const entry = shared.get(key) ?? { read: coalesced(() => readStatus(deps, tenantId, siteName)), readers: 0 };
      shared.set(key, entry);
      entry.readers += 1;
      return {
        read: entry.read,
        close: () => {
          entry.readers -= 1;
          if (entry.readers === 0) shared.delete(key);
        },
      };
    },
  };
}

interface ReadDeps {
  readonly clock: Clock;
  readonly fleet: FleetStore;
  /** A host whose last beat is older counts as offline, milliseconds. */
  readonly silenceMs: number;
}

/** Apart from the UIDs of objects; a plan is never reported as removed. */
const planKey = (id: string): string => `plan/${id}`;
const isPlanKey = (key: string): boolean => key.startsWith('plan/');

async function readStatus(deps: ReadDeps, tenantId: TenantId, siteName: string | null): Promise<Seen> {
  const silentBeforeMs = deps.clock.nowMs() - deps.silenceMs;
  const seen = new Map<string, { readonly change: Change; readonly print: string }>();
  const add = (key: string, change: Change): unknown => seen.set(key, { change, print: fingerprint(change) });
  for (const site of await deps.fleet.listSites(tenantId, siteName, silentBeforeMs)) add(site.id, { $case: 'site', value: encodeSite(site) });
  for (const host of await deps.fleet.listHosts(tenantId, siteName, silentBeforeMs)) add(host.id, { $case: 'host', value: encodeHost(host) });
  let cursor: string | null = null;
  do {
    const page: Awaited<ReturnType<FleetStore['listMicroVMs']>> = await deps.fleet.listMicroVMs(tenantId, siteName, { size: pageSize, cursor });
    for (const microvm of page.rows) add(microvm.id, { $case: 'microvm', value: encodeMicroVM(microvm) });
    cursor = page.nextCursor;
  } while (cursor !== null);
  return seen;
}

/** Each watcher's own: which plans it is told of depends on when it began. */
async function readPlans(deps: WatchDeps, { tenantId, siteName, sinceMs }: { readonly tenantId: TenantId; readonly siteName: string | null; readonly sinceMs: number }): Promise<Seen> {
  const plans = await deps.fleet.listPlans(tenantId, siteName, sinceMs);
  return new Map(plans.map((plan) => {
    const change = { $case: 'plan', value: encodePlan(plan) } as const;
    return [planKey(plan.id), { change, print: fingerprint(change) }];
  }));
}

/** A beat alone is no change: it comes every few seconds from every host. */
function fingerprint(change: Change): string {
  const text = JSON.stringify(change.$case === 'host' ? { ...change.value, lastBeatAt: undefined } : change.value);
  return hash('sha256', text, 'base64').slice(0, printLength);
}

/** Removals that a watcher who comes back can be told of; with more it begins anew. */
const goneMax = 10_000;
/** Characters of a digest that are kept for each object: enough that no two states of one object are taken for the same. */
const printLength = 24;

/**
 * What one watcher was sent. Kept by whoever lets a watcher come back: each change has a sequence, and going back to one
 * makes everything after it due again.
 */
export interface StatusMemory {
  /** Sequence of the last change that was sent, from 1. */
  readonly sequence: () => number;
  /** False when that object was sent as it is. */
  isDue(key: string, print: string): boolean;
  /** Call before the change is sent. */
  note(key: string, print: string): void;
  /** Objects that were sent and are not in `seen`, in order. */
  missing(seen: ReadonlyMap<string, unknown>): readonly string[];
  noteGone(key: string): void;
  /** A sign that is no change, such as the end of the first list. */
  step(): void;
  /** Makes everything after that sequence due again; false when it is not known any more. */
  goBackTo(sequence: number): boolean;
  /** Plans that ended before are of no interest, epoch milliseconds. */
  sinceMs: number | null;
}

export function createStatusMemory(): StatusMemory {
  const sent = new Map<string, { readonly print: string; readonly sequence: number }>();
  const gone = new Map<string, number>();
  let sequence = 0;
  return {
    sinceMs: null,
    sequence: () => sequence,
    isDue: (key, print) => sent.get(key)?.print !== print,
    note: (key, print) => {
      sequence += 1;
      gone.delete(key);
      sent.set(key, { print, sequence });
    },
    missing: (seen) => [...sent.keys()].filter((key) => !seen.has(key)),
    noteGone: (key) => {
      sequence += 1;
      sent.delete(key);
      gone.set(key, sequence);
      const oldest = gone.size > goneMax ? gone.keys().next().value : undefined;
      if (oldest !== undefined) gone.delete(oldest);
    },
    step: () => {
      sequence += 1;
    },
    goBackTo: (to) => {
      const forgotten = gone.size < goneMax ? 0 : (gone.values().next().value ?? 0);
      if (to > sequence || to < forgotten) return false;
      for (const [key, value] of sent) if (value.sequence > to) sent.delete(key);
      for (const [key, at] of gone) if (at > to) sent.set(key, { print: '', sequence: 0 });
      return true;
    },
  };
}

/** Runs until the stream ends. @throws DATABASE_UNAVAILABLE */
export async function watchStatus(
  deps: WatchDeps,
  out: Outgoing<WatchStatusResponse>,
  watch: { readonly tenantId: TenantId; readonly siteName: string | null; readonly memory: StatusMemory },
): Promise<void> {
  const { memory } = watch;
  const changes = deps.wakeUps.subscribe(`tenant/${watch.tenantId}`, out.signal);
  const status = deps.statuses.open(watch.tenantId, watch.siteName);
  const sinceMs = (memory.sinceMs ??= deps.clock.nowMs());
  try {
    for (let isFirst = true; !out.signal.aborted; isFirst = false) {
      const seen = new Map([...(await status.read()), ...(await readPlans(deps, { ...watch, sinceMs }))]);
      for (const [key, { change, print }] of seen) {
        if (!memory.isDue(key, print)) continue;
        memory.note(key, print);
        await out.send({ change });
      }
      for (const key of memory.missing(seen)) {
        memory.noteGone(key);
        if (!isPlanKey(key)) await out.send({ change: { $case: 'removedUid', value: key } });
      }
      if (isFirst) {
        memory.step();
        await out.send({ change: { $case: 'isSynced', value: true } });
      }
      await changes.next(lookIntervalMs);
      // Its end is the end of the stream.
      await delay(lookPauseMs, undefined, { signal: out.signal }).catch(() => {});
    }
  } finally {
    status.close();
  }
}
