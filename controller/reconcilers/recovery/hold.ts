/**
 * The steps of a MicroVM while the database may know less of it than a host does, because it was restored. One that may
 * run somewhere is neither placed nor let go before the hosts of its site have said what they have; then it is bound to the
 * host that has it. A microVM that never had our finalizer was never bound, and nothing of this concerns it.
 */
import { siteId } from '#api/model/ids.ts';
import { forgottenCode } from '#api/model/microvm.ts';
import type { Sighting } from '#controller/ports/recovery.ts';
import { waiting, type Outcome } from '#controller/runtime/outcome.ts';
import { isForced } from '../kinds.ts';
import { hasFinalizer, type MicroVMDeps, type MicroVMScope, type MicroVMStep } from '../microvm/scope.ts';

/** On a Host: its value is the incarnation that the message names; an operator's word that nothing of before runs there. */
export const confirmAnnotation = 'nkudo.dev/confirm-recovered';
/** Hosts that a message names. */
const namedMax = 5;
/** A report wakes it; this covers one that nobody told. */
const heldRetryMs = 60_000;

export function describeAwaited(names: readonly string[], incarnation: number): string {
  const shown = names.slice(0, namedMax).join(', ');
  const more = names.length > namedMax ? ` and ${names.length - namedMax} more` : '';
  const hosts = `${names.length === 1 ? 'host' : 'hosts'} ${shown}${more}`;
  return `the database was restored: waiting for ${hosts} to report; for one that never will, annotate it with ${confirmAnnotation}=${incarnation}`;
}

export const awaitReports: MicroVMStep = async (scope, deps) => {
  if (!hasFinalizer(scope.object)) return null;
  const { record, id } = scope;
  const isSighted = deps.recoveryBoard.isSighted(id);
  if (record?.binding != null && !isSighted && !isForgotten(scope)) return null;
  const reason = await findHold(scope, deps);
  if (reason !== null) return held(scope, reason);
  const sighting = isSighted ? await newestSighting(scope, deps) : null;
  if (sighting === null) return null;
  if (record?.binding == null) scope.chosenHost = { hostId: sighting.hostId, hostName: sighting.hostName };
  else if (sighting.hostId !== record.binding.hostId && sighting.epoch > record.binding.epoch) bindAgain(scope);
  return null;
};

export const findBeforeDeletion: MicroVMStep = async (scope, deps) => {
  const { record, object, tenantId, id } = scope;
  if (isForced(object) || record?.isTornDown === true) return null;
  const isSighted = deps.recoveryBoard.isSighted(id);
  if (record?.binding != null && !isSighted && !isForgotten(scope)) return null;
  const reason = await findHold(scope, deps);
  if (reason !== null) return held(scope, reason);
  if (record !== null || scope.site === null || !isSighted) return null;
  const { name, generation, uid } = { ...object.metadata, uid: scope.site.metadata.uid };
  const isAdopted = await deps.stores.recovery.adoptForDeletion({ tenantId, siteId: siteId(uid), microvmId: id, name, generation }, deps.epoch, deps.actor);
  if (isAdopted) scope.record = await deps.stores.microvms.load(tenantId, id);
  return null;
};

function held(scope: MicroVMScope, message: string): Outcome {
  scope.obstacle = { condition: 'Scheduled', reason: 'RecoveryUnderWay', message };
  return waiting('RecoveryUnderWay', message, heldRetryMs);
}

/** What has to be known first; null: everything is. */
async function findHold(scope: MicroVMScope, deps: MicroVMDeps): Promise<string | null> {
  const board = deps.recoveryBoard;
  const names = board.awaitedAt(scope.record?.siteId ?? scope.site?.metadata.uid ?? '');
  if (names.length > 0) return describeAwaited(names, board.incarnation());
  const shown = scope.object.status?.binding?.hostName;
  if (scope.record !== null || shown === undefined || board.isSighted(scope.id)) return null;
  // The status is a copy; of a host that enrolled after the backup it is the only trace.
  const { namespace } = scope.object.metadata;
  const host = deps.caches.hosts.get({ namespace, name: shown });
  if (host === undefined || host.metadata.annotations?.[confirmAnnotation] === String(board.incarnation())) return null;
  if ((await deps.stores.hosts.loadByName(scope.tenantId, shown)) !== null) return null;
  return `it was bound to host ${shown}, which this database does not know: enroll that machine again, or annotate the Host with ${confirmAnnotation}=${board.incarnation()} when nothing runs there`;
}

function isForgotten({ record }: MicroVMScope): boolean {
  return record?.observation?.problem?.code === forgottenCode;
}

async function newestSighting(scope: MicroVMScope, deps: MicroVMDeps): Promise<Sighting | null> {
  return (await deps.stores.recovery.listSightings(scope.tenantId, scope.id))[0] ?? null;
}

/** The host that it is bound to is taken to have lost it, so that it is published again; the store binds it where it is. */
function bindAgain(scope: MicroVMScope): void {
  const { record } = scope;
  const newest = record?.newestOperation ?? null;
  if (record?.binding == null || newest === null) return;
  scope.record = {
    ...record,
    observation: {
      microvmId: record.microvmId, epoch: record.binding.epoch, revision: newest.revision, generation: newest.generation, sequence: 0, state: 'unknown',
      observedAtMs: 0, receivedAtMs: 0, restarts: 0, isCrashLooping: false, isRestartRequired: false,
      problem: { code: forgottenCode, message: 'another host has it under a higher epoch' },
    },
  };
}
