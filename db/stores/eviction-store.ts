/**
 * Takes microVMs off their host so that they can go on elsewhere. The counters' row orders it with all publishers of the
 * microVM; the room is free only with the release, after the confirmed teardown.
 */
import { AppError } from '#api/model/error-codes.ts';
import { hostId, microVMId, type MicroVMId, type TenantId } from '#api/model/ids.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { EvictionStore } from '#controller/ports/eviction-store.ts';
import type { IdSource } from '#controller/ports/ids.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import { supersedePending } from '../operation-status.ts';
import type { LeaderTx, Transactions, Tx } from '../tx.ts';
import { currentBinding, lockCounters, readBinding, releaseBinding, saveCounters } from './microvm-binding.ts';
import { releaseNetworks } from './microvm-networks.ts';
import { loadMicroVM } from './microvm-record.ts';
import { insertPlan, readState } from './microvm-store.ts';

type EvictInput = Parameters<EvictionStore['evict']>[0];
type RestartInput = Parameters<EvictionStore['requestRestart']>[0];

export function createEvictionStore(deps: { readonly transactions: Transactions; readonly ids: IdSource }): EvictionStore {
  const { transactions, ids } = deps;
  return {
    listBindings: (tenantId, of) =>
      transactions.tenant(tenantId, async (tx) => {
        const [statement, id] = 'siteId' in of ? [bindingsOfSite, of.siteId] : [bindingsOfHost, of.hostId];
        const { rows } = await tx.query<{ microvm_id: string; host_id: string; cpu_count: number; memory_bytes: number; is_leaving: boolean }>(statement, [tenantId, id]);
        return rows.map((row) => ({
          microvmId: microVMId(row.microvm_id), hostId: hostId(row.host_id), cpus: row.cpu_count, memoryBytes: row.memory_bytes, isLeaving: row.is_leaving,
        }));
      }),
    evict: (input, epoch, actor) => transactions.leader<MicroVMRecord | null>(input.tenantId, epoch, { work: (tx) => evict(tx, ids, input, actor) }),
    completeEviction: (tenantId, microvmId, epoch, actor) =>
      transactions.leader<MicroVMRecord | null>(tenantId, epoch, { work: (tx) => complete(tx, tenantId, microvmId, actor) }),
    requestRestart: (input, epoch, actor) => transactions.leader<MicroVMRecord | null>(input.tenantId, epoch, { work: (tx) => requestRestart(tx, input, actor) }),
  };
}

const bindingColumns = `b.microvm_id, b.host_id, b.cpu_count, b.memory_bytes, b.leaving_reason is not null or m.is_deleting as is_leaving
  from nkudo.bindings b join nkudo.microvms m on m.tenant_id = b.tenant_id and m.id = b.microvm_id`;
const bindingsOfSite = { name: 'list-bindings-of-site', text: `select ${bindingColumns} where b.tenant_id = $1 and m.site_id = $2 and b.released_at is null` };
const bindingsOfHost = { name: 'list-bindings-of-host', text: `select ${bindingColumns} where b.tenant_id = $1 and b.host_id = $2 and b.released_at is null` };

async function evict(tx: LeaderTx, ids: IdSource, input: EvictInput, actor: Actor): Promise<MicroVMRecord | null> {
  const { tenantId, microvmId, reason, tryNumber } = input;
  const counters = await lockCounters(tx, tenantId, microvmId);
  const state = await readState(tx, tenantId, microvmId);
  const found = await readBinding(tx, tenantId, microvmId);
  if (state === undefined || found === null || state.is_deleting) return loadMicroVM(tx, tenantId, microvmId);
  const { binding, entries } = await currentBinding(tx, { tenantId, microvmId, counters, found });
  const key = `cr/${microvmId}/${state.generation}/${binding.epoch}/leave-${tryNumber}`;
  if (await isOrdered(tx, tenantId, key)) return loadMicroVM(tx, tenantId, microvmId);
  const revision = counters.revision + 1;
  await saveCounters(tx, tenantId, microvmId, { epoch: Math.max(counters.epoch, binding.epoch), revision });
  await tx.query(
    {
      name: 'mark-leaving',
      text: 'update nkudo.bindings set leaving_reason = coalesce(leaving_reason, $3) where tenant_id = $1 and microvm_id = $2 and released_at is null',
    },
    [tenantId, microvmId, reason],
  );
  const written: AuditEntry[] = [...entries, { action: 'evicted', subject: 'binding', id: microvmId, before: { leavingReason: null }, after: { leavingReason: reason, hostId: binding.hostId } }];
  written.push(...(await supersedePending(tx, tenantId, microvmId)));
  written.push(
    ...(await insertPlan(tx, ids, {
      tenantId, siteId: state.site_id, microvmId, key, kind: 'Delete', binding, revision, generation: state.generation, tryNumber, desired: null, asked: null, specHash: null,
    })),
  );
  await appendAudit(tx, tenantId, actor, written);
  return loadMicroVM(tx, tenantId, microvmId);
}

async function isOrdered(tx: Tx, tenantId: TenantId, key: string): Promise<boolean> {
  const { rowCount } = await tx.query({ name: 'find-leaving-plan', text: 'select from nkudo.plans where tenant_id = $1 and idempotency_key = $2' }, [tenantId, key]);
  return rowCount === 1;
}

async function complete(tx: LeaderTx, tenantId: TenantId, microvmId: MicroVMId, actor: Actor): Promise<MicroVMRecord | null> {
  await lockCounters(tx, tenantId, microvmId);
  const record = await loadMicroVM(tx, tenantId, microvmId);
  if (record?.binding?.leaving == null || record.isDeleting) return record;
  const newest = record.newestOperation;
  if (newest?.kind !== 'Delete' || newest.status !== 'Succeeded') throw new AppError('CONFLICT', 'the host did not confirm the teardown of the microvm yet');
  const found = await readBinding(tx, tenantId, microvmId);
  if (found === null) return record;
  const entries = [await releaseBinding(tx, tenantId, microvmId, found), ...(await releaseNetworks(tx, tenantId, microvmId))];
  await appendAudit(tx, tenantId, actor, entries);
  return loadMicroVM(tx, tenantId, microvmId);
}

async function requestRestart(tx: LeaderTx, { tenantId, microvmId, seen }: RestartInput, actor: Actor): Promise<MicroVMRecord | null> {
  await lockCounters(tx, tenantId, microvmId);
  const { rowCount } = await tx.query(
    { name: 'request-restart', text: 'update nkudo.microvms set update_restarts = $3::bigint + 1 where tenant_id = $1 and id = $2 and update_restarts = $3 and not is_deleting' },
    [tenantId, microvmId, seen],
  );
  if (rowCount === 1) await appendAudit(tx, tenantId, actor, [{ action: 'updateRestartRequested', subject: 'microvm', id: microvmId, before: { restarts: seen }, after: { restarts: seen + 1 } }]);
  return loadMicroVM(tx, tenantId, microvmId);
}
