/**
 * What the gateway of one replica asks about the version of agents, for the hosts whose streams it holds: orders, and a
 * place for reports. An order names a release; whether it may be installed is decided by the host alone.
 */
import type { AgentOrder, AgentReport } from '#api/model/release.ts';
import type { HostId, SessionId, TenantId } from '#api/model/ids.ts';

export interface AgentOrderHost {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
}

export interface AgentOrders {
  /** The orders of these hosts, one read for all of them; a host that never had one is left out, and one whose order was withdrawn gets that. `revision` rises with every change. */
  loadOrders(hosts: readonly AgentOrderHost[]): Promise<ReadonlyMap<HostId, AgentOrder>>;
  /**
   * Stores what a host says of its order; writes nothing when equal to what is stored. Ignored unless the session is the
   * current one of the host. True when something changed.
   */
  recordReport(host: AgentOrderHost & { readonly sessionId: SessionId }, report: AgentReport): Promise<boolean>;
}
