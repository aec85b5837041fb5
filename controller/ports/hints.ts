/**
 * Hints that something was committed. In the same process they arrive at once; other replicas only learn
 * that there is something to read again (one NOTIFY for everything since the last, at most one in
 * `notifyIntervalMs`, never in the transaction that wrote). A lost hint costs one resync interval.
 */
import type { ChangeHint } from './dispatch-store.ts';
import type { HostId, MicroVMId, TenantId } from '#api/model/ids.ts';

/** Ends a subscription. May be called twice. */
export type Unsubscribe = () => void;

export interface HintBus {
  /** Call after the commit. Never throws, never blocks. */
  publish(hint: ChangeHint): void;
  /** Listener for hints of this process. Call the result to listen no longer. */
  onHint(listener: (hint: ChangeHint) => void): Unsubscribe;
  /** Another replica committed something, or the listening connection was lost and made again: read again. */
  onRemoteChange(listener: () => void): Unsubscribe;
  close(): Promise<void>;
}

export interface ChangedSince {
  readonly microvms: readonly { readonly tenantId: TenantId; readonly microvmId: MicroVMId }[];
  readonly hosts: readonly { readonly tenantId: TenantId; readonly hostId: HostId }[];
  /** Pass these two to the next call. */
  readonly cursorMs: number;
  /** Versions of the rows inside the overlap: what was told before is not told again. */
  readonly seen: ReadonlySet<string>;
}

export interface ChangeReader {
  /**
   * What changed since the cursor, over all tenants. Looks back a while for commits that came late, and leaves out what
   * `seen` of the last call holds: each version of a row is told once. Reads only.
   */
  changedSince(cursorMs: number, seen?: ReadonlySet<string>): Promise<ChangedSince>;
}
