/**
 * The version of the agent on one host's stream: sends an order that the host does not have yet, and stores its reports.
 * Beside everything else: nothing on the stream waits for it, and what it holds is bounded to one order and one report.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { encodeAgentOrder } from '#api/codec/release-order-codec.ts';
import type { HeartbeatResponse } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { isAppError } from '#api/model/error-codes.ts';
import type { SessionId } from '#api/model/ids.ts';
import type { AgentOrder, AgentReport } from '#api/model/release.ts';
import type { Outgoing } from '#controller/grpc/calls.ts';
import type { AgentOrderHost } from '#controller/ports/agent-orders.ts';
import type { GatewayDeps } from './deps.ts';

const reportRetryMs = 1_000;

export type AgentChannelDeps = Pick<GatewayDeps, 'log' | 'hints' | 'faults' | 'agents'>;

export interface AgentChannel {
  /** Sends the order unless this stream had it or a newer one. Never throws, never blocks. */
  offer(order: AgentOrder): void;
  /** Takes a report; a newer one replaces one that waits. Never throws, never blocks. */
  report(report: AgentReport): void;
}

export function createAgentChannel(deps: AgentChannelDeps, host: AgentOrderHost & { readonly sessionId: SessionId }, stream: Outgoing<HeartbeatResponse>): AgentChannel {
  const { agents, log, faults } = deps;
  let sentRevision = 0;
  let latest: AgentReport | undefined;
  let isStoring = false;

  async function send(order: AgentOrder): Promise<void> {
    sentRevision = order.revision;
    await faults.reach('gateway.agentPush:before');
    await stream.send({ message: { $case: 'agent', value: encodeAgentOrder(order) } });
    await faults.reach('gateway.agentPush:after');
  }

  async function storeWhileThere(): Promise<void> {
    if (agents === undefined || isStoring) return;
    isStoring = true;
    try {
      for (let report = latest; report !== undefined && !stream.signal.aborted; report = latest) {
        latest = undefined;
        await store(agents, report);
      }
    } finally {
      isStoring = false; // In the same turn as the last look at latest, so that no report is left.
    }
  }

  async function store(target: NonNullable<typeof agents>, report: AgentReport): Promise<void> {
    try {
      await faults.reach('db.agentReport:before');
      const isChanged = await target.recordReport(host, report);
      await faults.reach('db.agentReport:after');
      if (isChanged) deps.hints.publish({ kind: 'host', tenantId: host.tenantId, hostId: host.hostId });
    } catch (error) {
      log.warn({ err: error, hostId: host.hostId }, 'a report on the version of an agent could not be stored');
      if (!isAppError(error) || error.retry !== 'backoff') return;
      await delay(reportRetryMs, undefined, { ref: false });
      latest ??= report; // It is sent on change only, so it would not come again.
    }
  }

  return {
    offer(order) {
      if (order.revision <= sentRevision) return;
      send(order).catch((error: unknown) => {
        if (!stream.signal.aborted) log.warn({ err: error, hostId: host.hostId }, 'an order for an agent could not be sent; the next stream gets it');
      });
    },
    report(report) {
      latest = report;
      void storeWhileThere();
    },
  };
}
