/**
 * Follows the status of a tenant: the whole list, then what differs from it at each wake-up. Sends only
 * differences, so a spurious wake-up sends nothing and a lost one is made good by the next look.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { WatchStatusResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import type { TenantId } from '#api/model/ids.ts';
import type { Outgoing } from '#controller/grpc/calls.ts';
import type { Clock } from '#controller/ports/clock.ts';
import type { FleetStore } from '#controller/ports/fleet-store.ts';
import { encodeHost, encodeMicroVM, encodePlan, encodeSite } from './fleet-codec.ts';
import type { WakeUps } from './wake-ups.ts';

/** Longest time between two looks, milliseconds: beats and other replicas wake nobody. */
const lookIntervalMs = 5_000;
/** Shortest time between two looks, so that a busy tenant costs a bounded number of reads. */
const lookPauseMs = 250;
/** How often a long call asks again whether it may go on. */
export const recheckIntervalMs = 60_000;
const pageSize = 1000;

type Change = Exclude<WatchStatusResponse['change'], undefined>;

export interface WatchDeps {
  readonly clock: Clock;
  readonly fleet: FleetStore;
  readonly wakeUps: WakeUps;
  readonly silenceMs: number;
}

/** Apart from the UIDs of objects; a plan is never reported as removed. */
const planKey = (id: string): string => `plan/${id}`;
const isPlanKey = (key: string): boolean => key.startsWith('plan/');

async function readAll(deps: WatchDeps, { tenantId, siteName, sinceMs }: { readonly tenantId: TenantId; readonly siteName: string | null; readonly sinceMs: number }): Promise<ReadonlyMap<string, Change>> {
  const silentBeforeMs = deps.clock.nowMs() - deps.silenceMs;
  const seen = new Map<string, Change>();
  for (const site of await deps.fleet.listSites(tenantId, siteName, silentBeforeMs)) seen.set(site.id, { $case: 'site', value: encodeSite(site) });
  for (const host of await deps.fleet.listHosts(tenantId, siteName, silentBeforeMs)) seen.set(host.id, { $case: 'host', value: encodeHost(host) });
  let cursor: string | null = null;
  do {
    const page: Awaited<ReturnType<FleetStore['listMicroVMs']>> = await deps.fleet.listMicroVMs(tenantId, siteName, { size: pageSize, cursor });
    for (const microvm of page.rows) seen.set(microvm.id, { $case: 'microvm', value: encodeMicroVM(microvm) });
    cursor = page.nextCursor;
  } while (cursor !== null);
  for (const plan of await deps.fleet.listPlans(tenantId, siteName, sinceMs)) seen.set(planKey(plan.id), { $case: 'plan', value: encodePlan(plan) });
  return seen;
}

/** A beat alone is no change: it comes every few seconds from every host. */
function fingerprint(change: Change): string {
  return JSON.stringify(change.$case === 'host' ? { ...change.value, lastBeatAt: undefined } : change.value);
}

/** Runs until the caller goes or may no longer watch. @throws PERMISSION_DENIED, UNAUTHENTICATED, DATABASE_UNAVAILABLE */
export async function watchStatus(
  deps: WatchDeps,
  out: Outgoing<WatchStatusResponse>,
  watch: { readonly tenantId: TenantId; readonly siteName: string | null; readonly recheck: () => Promise<void> },
): Promise<void> {
  const changes = deps.wakeUps.subscribe(`tenant/${watch.tenantId}`, out.signal);
  const sent = new Map<string, string>();
  const sinceMs = deps.clock.nowMs();
  let checkedAtMs = deps.clock.monotonicMs();
  for (let isFirst = true; !out.signal.aborted; isFirst = false) {
    const seen = await readAll(deps, { tenantId: watch.tenantId, siteName: watch.siteName, sinceMs });
    for (const [uid, change] of seen) {
      const print = fingerprint(change);
      if (sent.get(uid) === print) continue;
      await out.send({ change });
      sent.set(uid, print);
    }
    for (const uid of [...sent.keys()].filter((known) => !seen.has(known))) {
      if (!isPlanKey(uid)) await out.send({ change: { $case: 'removedUid', value: uid } });
      sent.delete(uid);
    }
    if (isFirst) await out.send({ change: { $case: 'isSynced', value: true } });
    await changes.next(lookIntervalMs);
    await delay(lookPauseMs);
    if (deps.clock.monotonicMs() - checkedAtMs < recheckIntervalMs) continue;
    checkedAtMs = deps.clock.monotonicMs();
    await watch.recheck();
  }
}
