/**
 * Hints that something was committed. In the same process they arrive at once; other replicas only learn
 * that there is something to read again (one NOTIFY for everything since the last, at most one in
 * `notifyIntervalMs`, never in the transaction that wrote). A lost hint costs one resync interval.
 */
import type { ChangeHint } from './dispatch-store.ts';
import type { HostId, MicroVMId, TenantId } from '#api/model/ids.ts';

export interface HintBus {
  /** Call after the commit. Never throws, never blocks. */
  publish(hint: ChangeHint): void;
  /** Listener for hints of this process. */
  onHint(listener: (hint: ChangeHint) => void): void;
  /** Another replica committed something, or the listening connection was lost and made again: read again. */
  onRemoteChange(listener: () => void): void;
  close(): Promise<void>;
}

export interface ChangedSince {
  readonly microvms: readonly { readonly tenantId: TenantId; readonly microvmId: MicroVMId }[];
  readonly hosts: readonly { readonly tenantId: TenantId; readonly hostId: HostId }[];
  /** Pass this to the next call. */
  readonly cursorMs: number;
}

export interface ChangeReader {
  /** What changed since the cursor, over all tenants, with an overlap for late commits: items may repeat. Reads only. */
  changedSince(cursorMs: number): Promise<ChangedSince>;
}
