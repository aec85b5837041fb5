/** Open streams of this replica by host. Owns the rule that the newer session of a host wins. */
import type { GatewayMetrics } from '#controller/telemetry/metrics.ts';
import type { HostSession } from './host-session.ts';

export interface SessionRegistry {
  /** Dismisses the session that the host had before. */
  add(session: HostSession): void;
  /** Does nothing when a newer session took the place. */
  remove(session: HostSession): void;
  get(hostId: string): HostSession | undefined;
  all(): readonly HostSession[];
}

export function createSessionRegistry(metrics: GatewayMetrics): SessionRegistry {
  const sessions = new Map<string, HostSession>();
  return {
    add: (session) => {
      sessions.get(session.hostId)?.dismiss('REPLACED');
      sessions.set(session.hostId, session);
      metrics.setSessions(sessions.size);
    },
    remove: (session) => {
      if (sessions.get(session.hostId) !== session) return;
      sessions.delete(session.hostId);
      metrics.setSessions(sessions.size);
    },
    get: (hostId) => sessions.get(hostId),
    all: () => [...sessions.values()],
  };
}
