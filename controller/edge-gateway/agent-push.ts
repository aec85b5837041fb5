/** Finds orders for agents that hosts of this replica do not have yet. */
import type { GatewayDeps } from './deps.ts';
import type { HostSession } from './host-session.ts';

export interface AgentPush {
  /** Offers these sessions the orders of their hosts: one read for all, never a write. Never throws. */
  refresh(sessions: readonly HostSession[]): Promise<void>;
}

export function createAgentPush({ agents, log }: Pick<GatewayDeps, 'agents' | 'log'>): AgentPush {
  return {
    async refresh(all) {
      // A host that waits for its approval is told nothing.
      const sessions = all.filter(({ isHeld }) => !isHeld);
      if (agents === undefined || sessions.length === 0) return;
      try {
        const orders = await agents.loadOrders(sessions.map(({ caller: { identity } }) => ({ tenantId: identity.tenantId, hostId: identity.hostId })));
        for (const session of sessions) {
          const order = orders.get(session.caller.identity.hostId);
          if (order !== undefined) session.agent.offer(order);
        }
      } catch (error) {
        log.warn({ err: error }, 'orders for agents could not be read; the next safety read tries again');
      }
    },
  };
}
