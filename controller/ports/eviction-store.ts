/**
 * MicroVMs that leave their host and go on elsewhere. The order to leave is a teardown under the present binding; the
 * binding, and with it the room, is released only after the host confirmed it, so there are never two. Every call is one
 * transaction that checks the leadership epoch and is safe to repeat.
 */
import type { HostId, MicroVMId, SiteId, TenantId } from '#api/model/ids.ts';
import type { LeavingReason } from '#api/model/microvm.ts';
import type { Actor } from './audit.ts';
import type { MicroVMRecord } from './microvm-store.ts';

/** A live binding as placement needs it. */
export interface BindingRecord {
  readonly microvmId: MicroVMId;
  readonly hostId: HostId;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly isLeaving: boolean;
}

export interface EvictionStore {
  /** Live bindings of a whole site, or of one host. Reads only. */
  listBindings(tenantId: TenantId, of: { readonly siteId: SiteId } | { readonly hostId: HostId }): Promise<readonly BindingRecord[]>;
  /**
   * Orders the microVM off its host: marks the binding and publishes a `Delete` under its epoch. The desired state stays.
   * Does nothing to one that is being deleted or is not bound. `tryNumber`: from 1, above that of the last order of this binding.
   */
  evict(input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly reason: LeavingReason; readonly tryNumber: number }, epoch: number, actor: Actor): Promise<MicroVMRecord | null>;
  /** Releases the binding. Idempotent. @throws CONFLICT until the host confirmed the teardown */
  completeEviction(tenantId: TenantId, microvmId: MicroVMId, epoch: number, actor: Actor): Promise<MicroVMRecord | null>;
  /** Counts one more restart for an update; what it comes to is in the record and in the next published intent. */
  requestRestart(input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; /** As the record had it. */ readonly seen: number }, epoch: number, actor: Actor): Promise<MicroVMRecord | null>;
}
