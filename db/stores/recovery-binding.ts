/**
 * Bindings that follow what hosts have: a microVM of which this database knows less than its host, because it was
 * restored, is bound where it is. Nothing is asked of the room there; it has it already.
 */
import type { HostId, MicroVMId, SiteId, TenantId } from '#api/model/ids.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { Actor } from '#controller/ports/audit.ts';
import { appendAudit } from '../audit.ts';
import type { LeaderTx, Tx } from '../tx.ts';
import { insertBinding, lockCounters, nextEpoch, readBinding, saveCounters, type Counters, type LiveBinding } from './microvm-binding.ts';
import { forgetSighting, readSightings } from './sightings.ts';

/** The host that has it under a higher epoch than the binding here; null: none does. No read when nothing was ever issued. */
export async function findSightedHost(tx: Tx, input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId }, known: { readonly counters: Counters; readonly found: LiveBinding | null }): Promise<HostId | null> {
  const { counters, found } = known;
  if (counters.epoch === 0 || (found !== null && found.epoch >= counters.epoch)) return null;
  const [first] = await readSightings(tx, input.tenantId, input.microvmId);
  // Below the highest number that any host reported, it is what has left that host since.
  if (first === undefined || first.epoch < counters.epoch) return null;
  return found !== null && first.epoch <= found.epoch ? null : first.hostId;
}

export interface AdoptInput {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly microvmId: MicroVMId;
  readonly name: string;
  readonly generation: number;
}

/** Makes the row of a microVM that is being deleted and that only a host knows, so that the host can be told. False when no host has it. */
export async function adoptForDeletion(tx: LeaderTx, input: AdoptInput, actor: Actor): Promise<boolean> {
  const { tenantId, microvmId } = input;
  const counters = await lockCounters(tx, tenantId, microvmId);
  if ((await readBinding(tx, tenantId, microvmId)) !== null) return true;
  const [sighting] = await readSightings(tx, tenantId, microvmId);
  if (sighting === undefined) return false;
  const binding: LiveBinding = { hostId: sighting.hostId, epoch: nextEpoch(tx.incarnation, Math.max(counters.epoch, sighting.epoch)), cpuCount: 0, memoryBytes: 0, leaseMs: null };
  await saveCounters(tx, tenantId, microvmId, { epoch: binding.epoch, revision: Math.max(counters.revision, sighting.revision) });
  const { rowCount } = await tx.query(
    {
      name: 'adopt-for-deletion',
      text: `insert into nkudo.microvms (tenant_id, id, site_id, name, generation, desired, is_deleting) values ($1, $2, $3, $4, $5, null, true)
        on conflict (tenant_id, id) do nothing`,
    },
    [tenantId, microvmId, input.siteId, input.name, input.generation],
  );
  if (rowCount === 0) throw new AppError('CONFLICT', 'the microvm has a row already');
  const entries = [
    { action: 'adopted', subject: 'microvm' as const, id: microvmId, before: null, after: { isDeleting: true, generation: input.generation, hostId: sighting.hostId } },
    await insertBinding(tx, { tenantId, microvmId, binding }),
  ];
  await forgetSighting(tx, tenantId, microvmId);
  await appendAudit(tx, tenantId, actor, entries);
  return true;
}
