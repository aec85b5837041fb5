/**
 * What the gateway of one replica asks about the mesh for the hosts whose streams it holds: orders, one-off keys, and a
 * place for reports. The value of a key exists in memory only, between the management server and the stream of the one
 * host; no row, log line, event or error ever holds it. Nothing here may delay or fail the work on microVMs.
 */
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import type { HostId, SessionId, TenantId } from '#api/model/ids.ts';

export interface MeshHost {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
}

export interface IssuedMeshKey {
  /** The order that the key was made for: the gateway sends both together. */
  readonly order: MeshOrder;
  /** A function, so that no logger or encoder prints the secret by accident. */
  readonly revealKey: () => string;
}

export interface MeshOrders {
  /**
   * The orders of these hosts, one read for all of them. A host is left out when its site never had a mesh; one whose
   * site no longer has a mesh gets `join: false`. `revision` rises whenever another field changes, and never falls.
   */
  loadOrders(hosts: readonly MeshHost[]): Promise<ReadonlyMap<HostId, MeshOrder>>;
  /**
   * Makes a one-off key for a host whose agent asked for one; keys that were made for it before stop being valid.
   * Serialised per host over all replicas. Null when none can be had now (no order to join, token refused, management
   * server away or limiting): the agent asks again later, with a growing delay.
   */
  issueKey(host: MeshHost, signal: AbortSignal): Promise<IssuedMeshKey | null>;
}

export interface MeshReports {
  /**
   * Stores what a host says of itself; writes nothing when equal to what is stored. Ignored unless the session is the
   * current one of the host. True when something changed.
   */
  recordReport(host: MeshHost & { readonly sessionId: SessionId }, report: MeshReport): Promise<boolean>;
}
