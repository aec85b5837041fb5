/** The routes that answer for as long as their caller reads: watches as events, logs as events or as text. */
import type { TailLogsRequest, TailLogsResponse, WatchPlanRequest, WatchPlanResponse, WatchStatusRequest, WatchStatusResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import type { Caller } from '#controller/fleet-api/apply-plan.ts';
import type { FleetCalls } from '#controller/fleet-api/fleet-calls.ts';
import type { FleetMethod } from '#controller/fleet-api/rights.ts';
import type { Outgoing } from '#controller/grpc/calls.ts';
import { messagesOf } from './descriptors.ts';
import { eventText, type AnswerShape, type LongAnswer } from './event-stream.ts';
import { encodeMessage, type MessageValue } from './message-json.ts';
import { eventIdOf, type Resumption } from './resumption.ts';
import type { HttpRoute } from './routes.ts';

export interface LongCall {
  readonly route: HttpRoute;
  /** Decoded by the descriptor of the call. */
  readonly request: MessageValue;
  readonly from: Caller;
  readonly lastEventId: string | undefined;
  /** Ends this connection, since its caller reads on another one. */
  readonly cut: () => void;
}

/** Pieces of a stream: text that is ready to be sent. */
export type Piece = string | Uint8Array;

export const eventShape: AnswerShape<Piece> = {
  headers: { 'content-type': 'text/event-stream; charset=utf-8' },
  encode: (piece) => piece,
  comment: ':\n\n',
  failure: (problem) => eventText({ name: 'problem', data: problem }),
};

export const textShape: AnswerShape<Piece> = {
  headers: { 'content-type': 'text/plain; charset=utf-8' },
  encode: (piece) => piece,
  comment: '',
  failure: (problem) => `\n[${problem.code}: ${problem.detail}]\n`,
};

/** A stream of messages whose pieces go to the answer. */
function piecesOf<Message>(answer: LongAnswer<Piece>, pieceOf: (message: Message) => Piece): Outgoing<Message> {
  return {
    signal: answer.signal,
    send: (message) => answer.send(pieceOf(message)),
  };
}

const jsonOf = (call: FleetMethod, message: object): unknown => encodeMessage(messagesOf(call).output, message as MessageValue); // ts-proto's messages are records.

async function watchStatus(calls: FleetCalls, resumption: Resumption, answer: LongAnswer<Piece>, call: LongCall): Promise<void> {
  const request = call.request as unknown as WatchStatusRequest; // Decoded by its descriptor.
  const owner = JSON.stringify([call.from.caller.user.username, request.namespace, request.site]);
  const session = await resumption.open({ owner, lastEventId: call.lastEventId, cut: call.cut });
  try {
    // Nothing may be sent before the right is there, so the sign goes in front of the first event.
    let sign = call.lastEventId !== undefined && !session.isResumed ? eventText({ name: 'reset', data: {} }) : '';
    const out = piecesOf<WatchStatusResponse>(answer, (message) => {
      const text = `${sign}${eventText({ id: eventIdOf(session), name: message.change?.$case ?? 'nothing', data: jsonOf('WatchStatus', message) })}`;
      sign = '';
      return text;
    });
    await calls.WatchStatus(request, out, call.from, session.memory);
  } finally {
    session.park();
  }
}

async function watchPlan(calls: FleetCalls, answer: LongAnswer<Piece>, call: LongCall): Promise<void> {
  const out = piecesOf<WatchPlanResponse>(answer, (message) => eventText({ name: 'plan', data: jsonOf('WatchPlan', message) }));
  await calls.WatchPlan(call.request as unknown as WatchPlanRequest, out, call.from); // Decoded by its descriptor.
  if (!answer.signal.aborted) await answer.send(eventText({ name: 'end', data: {} }));
}

/** The place behind the last piece that was received. */
function placeOf(lastEventId: string | undefined): Partial<TailLogsRequest> {
  const match = /^(\d{1,15})\.(\d{1,15})$/.exec(lastEventId ?? '');
  return match === null ? {} : { incarnation: Number(match[1]), fromOffset: Number(match[2]), tailBytes: 0 };
}

function logEvents(calls: FleetCalls, answer: LongAnswer<Piece>, call: LongCall): Promise<void> {
  const request = { ...(call.request as unknown as TailLogsRequest), follow: true, ...placeOf(call.lastEventId) }; // Decoded by its descriptor.
  const out = piecesOf<TailLogsResponse>(answer, (message) => eventText({ id: `${message.incarnation}.${message.offset + message.data.byteLength}`, name: 'log', data: jsonOf('TailLogs', message) }));
  return calls.TailLogs(request, out, call.from);
}

function logText(calls: FleetCalls, answer: LongAnswer<Piece>, call: LongCall): Promise<void> {
  const out = piecesOf<TailLogsResponse>(answer, ({ gapBytes, data }) => (gapBytes === 0 ? data : Buffer.concat([Buffer.from(`\n[${gapBytes} bytes were lost]\n`), data])));
  return calls.TailLogs(call.request as unknown as TailLogsRequest, out, call.from); // Decoded by its descriptor.
}

/** Runs until the call or its caller has ended. */
export function runLongCall(calls: FleetCalls, resumption: Resumption, answer: LongAnswer<Piece>, call: LongCall): Promise<void> {
  switch (call.route.call) {
    case 'WatchStatus':
      return watchStatus(calls, resumption, answer, call);
    case 'WatchPlan':
      return watchPlan(calls, answer, call);
    case 'TailLogs':
      return call.route.kind === 'text' ? logText(calls, answer, call) : logEvents(calls, answer, call);
    default:
      throw new Error(`${call.route.call} is no stream`);
  }
}
