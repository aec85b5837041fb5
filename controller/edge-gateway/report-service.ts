/**
 * Takes the reports of hosts and stores each batch in one commit. An item that can never be stored is
 * refused by name, so that it does not block the ones behind it.
 */
import { decodeExecution, decodeObservation } from '#api/codec/edge-codec.ts';
import { atMost } from '#api/codec/validate.ts';
import type { ReportExecutionsRequest, ReportExecutionsResponse } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { isAppError } from '#api/model/error-codes.ts';
import type { CallContext } from '#controller/grpc/calls.ts';
import type { GatewayDeps } from './deps.ts';
import { assertMayWork, type HostCaller } from './peer-identity.ts';

/** Most executions and most observations of one request. */
export const reportItemsMax = 256;
/** An id in an answer is no longer than a UUID, whatever came in. */
const idLength = 36;

interface Decoded<Item> {
  readonly items: readonly Item[];
  readonly refused: readonly { readonly id: string; readonly errorCode: string }[];
}

function decodeEach<Message, Item>(messages: readonly Message[], idOf: (message: Message) => string, decode: (message: Message) => Item): Decoded<Item> {
  const items: Item[] = [];
  const refused: { id: string; errorCode: string }[] = [];
  for (const message of messages) {
    try {
      items.push(decode(message));
    } catch (error) {
      if (!isAppError(error)) throw error;
      refused.push({ id: idOf(message).slice(0, idLength), errorCode: error.code });
    }
  }
  return { items, refused };
}

/** @throws INVALID_REQUEST for too many items, DATABASE_UNAVAILABLE when the host is to send the batch again */
export async function reportExecutions(
  deps: Pick<GatewayDeps, 'dispatch' | 'hints' | 'faults' | 'metrics'>,
  request: ReportExecutionsRequest,
  context: Pick<CallContext, 'peer'> & { readonly caller: HostCaller },
): Promise<ReportExecutionsResponse> {
  const { identity } = context.caller;
  assertMayWork(identity);
  const { tenantId, hostId } = identity;
  const executions = decodeEach(atMost('executions', request.executions, reportItemsMax), (message) => message.executionId, decodeExecution);
  const observations = decodeEach(atMost('observations', request.observations, reportItemsMax), (message) => message.microvmId, decodeObservation);
  await deps.faults.reach('db.reports:before');
  const outcome = await deps.dispatch.recordReports(
    { tenantId, hostId, executions: executions.items, observations: observations.items },
    { kind: 'host', name: hostId, from: context.peer },
  );
  await deps.faults.reach('db.reports:after');
  deps.metrics.countReports(executions.items.length, observations.items.length);
  for (const microvmId of outcome.changed) deps.hints.publish({ kind: 'microvm', tenantId, microvmId });
  if (outcome.isHostChanged === true) deps.hints.publish({ kind: 'host', tenantId, hostId });
  return { refused: [...executions.refused, ...observations.refused, ...outcome.refused.map(({ id, code }) => ({ id, errorCode: code }))] };
}
