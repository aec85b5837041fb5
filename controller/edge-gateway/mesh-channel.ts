/**
 * The mesh on one host's stream: sends orders that the host does not have yet, stores its reports, and fetches a key
 * when the host asks for one. Beside everything else: nothing on the stream waits for it, and what it holds is bounded
 * to one report, one order and one key request.
 *
 * Invariant: the value of a key is revealed only while the one message to its host is written.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { encodeMeshOrder } from '#api/codec/mesh-codec.ts';
import type { HeartbeatResponse } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { withDeadline } from '#api/model/deadline.ts';
import { isAppError } from '#api/model/error-codes.ts';
import type { SessionId } from '#api/model/ids.ts';
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import type { Outgoing } from '#controller/grpc/calls.ts';
import type { MeshHost } from '#controller/ports/mesh-orders.ts';
import type { GatewayDeps } from './deps.ts';

/** A management server that does not answer is given up after this; the agent asks again by itself. */
const keyDeadlineMs = 30_000;
const reportRetryMs = 1_000;

export type MeshChannelDeps = Pick<GatewayDeps, 'log' | 'hints' | 'faults' | 'mesh'>;

export interface MeshChannel {
  /** Sends the order unless the host has it or a newer one. Never throws, never blocks. */
  offer(order: MeshOrder): void;
  /** Takes a report; a newer one replaces one that waits. Never throws, never blocks. */
  report(report: MeshReport): void;
}

export function createMeshChannel(deps: MeshChannelDeps, host: MeshHost & { readonly sessionId: SessionId }, stream: Outgoing<HeartbeatResponse>): MeshChannel {
  const { mesh, log, faults } = deps;
  let sentRevision = 0;
  let latest: MeshReport | undefined;
  let isStoring = false;
  let isIssuing = false;

  async function send(order: MeshOrder, setupKey: string): Promise<void> {
    if (order.revision < sentRevision) return;
    sentRevision = order.revision;
    await faults.reach('gateway.meshPush:before');
    await stream.send({ message: { $case: 'mesh', value: encodeMeshOrder(order, setupKey) } });
    await faults.reach('gateway.meshPush:after');
  }

  async function storeWhileThere(): Promise<void> {
    if (mesh === undefined || isStoring) return;
    isStoring = true;
    try {
      for (let report = latest; report !== undefined && !stream.signal.aborted; report = latest) {
        latest = undefined;
        await store(mesh, report);
      }
    } finally {
      isStoring = false; // In the same turn as the last look at latest, so that no report is left.
    }
  }

  async function store(target: NonNullable<typeof mesh>, report: MeshReport): Promise<void> {
    try {
      await faults.reach('db.meshReport:before');
      const isChanged = await target.recordReport(host, report);
      await faults.reach('db.meshReport:after');
      if (isChanged || report.wantsKey) deps.hints.publish({ kind: 'host', tenantId: host.tenantId, hostId: host.hostId });
      if (report.wantsKey) void issue(target);
    } catch (error) {
      log.warn({ err: error, hostId: host.hostId }, 'a report on the mesh could not be stored');
      if (!isAppError(error) || error.retry !== 'backoff') return;
      await delay(reportRetryMs, undefined, { ref: false });
      latest ??= report; // It is sent on change only, so it would not come again.
    }
  }

  async function issue(target: NonNullable<typeof mesh>): Promise<void> {
    if (isIssuing) return;
    isIssuing = true;
    try {
      const issued = await withDeadline(stream.signal, keyDeadlineMs, (signal) => target.issueKey(host, signal));
      if (issued !== null) await send(issued.order, issued.revealKey());
    } catch (error) {
      // The host asks again, with a growing delay.
      if (!stream.signal.aborted) log.warn({ err: error, hostId: host.hostId }, 'a mesh key could not be had for a host');
    } finally {
      isIssuing = false;
    }
  }

  return {
    offer: (order) => {
      if (order.revision <= sentRevision) return;
      send(order, '').catch((error: unknown) => {
        if (!stream.signal.aborted) log.warn({ err: error, hostId: host.hostId }, 'a mesh order could not be sent; the next stream gets it');
      });
    },
    report: (report) => {
      latest = report;
      void storeWhileThere();
    },
  };
}
