/** Finds mesh orders that hosts of this replica do not have yet: one read for all that are asked about, never a write. */
import type { GatewayDeps } from './deps.ts';
import type { HostSession } from './host-session.ts';

export interface MeshPush {
  /** Offers these sessions the orders of their hosts. Never throws. */
  refresh(sessions: readonly HostSession[]): Promise<void>;
}

export function createMeshPush(deps: Pick<GatewayDeps, 'mesh' | 'log'>): MeshPush {
  return {
    async refresh(all) {
      // A host that waits for its approval is told nothing, and gets no key.
      const sessions = all.filter(({ isHeld }) => !isHeld);
      if (deps.mesh === undefined || sessions.length === 0) return;
      try {
        const orders = await deps.mesh.loadOrders(sessions.map(({ caller }) => ({ tenantId: caller.identity.tenantId, hostId: caller.identity.hostId })));
        for (const session of sessions) {
          const order = orders.get(session.caller.identity.hostId);
          if (order !== undefined) session.mesh.offer(order);
        }
      } catch (error) {
        deps.log.warn({ err: error }, 'mesh orders could not be read; the next safety read tries again');
      }
    },
  };
}
