/** Orders for the version of agents, as columns of their hosts, and what the hosts report of them. */
import { hostId } from '#api/model/ids.ts';
import type { AgentOrders } from '#controller/ports/agent-orders.ts';
import type { Transactions } from '../tx.ts';

export function createAgentOrderStore(transactions: Transactions): AgentOrders {
  return {
    loadOrders: async (hosts) => {
      if (hosts.length === 0) return new Map();
      const { rows } = await transactions.systemQuery<OrderRow>(orders, [hosts.map((host) => host.tenantId), hosts.map((host) => host.hostId)]);
      return new Map(rows.map((row) => [hostId(row.id), { version: row.agent_version ?? '', manifestUrl: row.agent_manifest_url ?? '', revision: row.agent_revision }]));
    },
    recordReport: (host, report) =>
      transactions.tenant(host.tenantId, async (tx) => {
        const { rowCount } = await tx.query(
          {
            name: 'record-agent-report',
            // A host that knows a later order than the database does, as after a restore, would take no other.
            text: `update nkudo.hosts h set agent_report = $4::jsonb, changed_at = now(),
                agent_revision = case when h.agent_revision > 0 and h.agent_revision < $5::bigint then $5::bigint + 1 else h.agent_revision end
              where h.tenant_id = $1 and h.id = $2 and h.agent_report is distinct from $4::jsonb
                and exists (select from nkudo.host_liveness l where l.tenant_id = h.tenant_id and l.host_id = h.id and l.session_id = $3)`,
          },
          [host.tenantId, host.hostId, host.sessionId, JSON.stringify(report), report.orderRevision],
        );
        return rowCount === 1;
      }),
  };
}

interface OrderRow {
  readonly id: string;
  readonly agent_version: string | null;
  readonly agent_manifest_url: string | null;
  readonly agent_revision: number;
}

const orders = {
  name: 'load-agent-orders',
  isHot: true,
  text: `select h.id, h.agent_version, h.agent_manifest_url, h.agent_revision
    from unnest($1::uuid[], $2::uuid[]) as k (tenant_id, id) join nkudo.hosts h on h.tenant_id = k.tenant_id and h.id = k.id
    where h.agent_revision > 0`,
};
