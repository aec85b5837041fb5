/**
 * What commands and the running agent say to each other on this machine: HTTP with small JSON bodies over a unix socket.
 * Both sides may be of other versions: unknown fields are ignored, an unknown path or kind is answered with what the
 * agent can, and nothing is ever taken away from version 1.
 *
 *   GET  /v1/agent                               { protocol, version }
 *   POST /v1/microvms/<id>/orders                OrderBody -> { result, message }
 *   GET  /v1/microvms/<id>/situation?waitMs=N    { progress, state, waitsFor?, problem? }
 *   GET  /v1/microvms/<id>/console?request=R     with Upgrade: nkudo-console; R is a ConsoleBody. Then frames (frames.ts):
 *                                                history, output and at last end (ConsoleEndMessage); input the other way.
 *
 * What is refused has a status from 400 on and { error: { code, message, remedy } }.
 */
import { join } from 'node:path';
import { siteOrderKinds, siteUserMax, type SiteOperator } from '#api/model/site-orders.ts';
import { integer, invalid, text } from '#api/codec/validate.ts';
import type { SiteConsoleRequest, SiteOrderRequest } from '../../ports/site-desk.ts';

export const protocolVersion = 1;
/** Longest body of a request, bytes. */
export const bodyBytesMax = 16_384;
/** Longest wait of one question, milliseconds; who waits longer asks again. */
export const waitMsMax = 25_000;

/** In a directory that only the agent's user enters. */
export function controlSocketPath(stateDirectory: string): string {
  return join(stateDirectory, 'control.sock');
}

/** @throws INVALID_REQUEST */
export function parseOrder(body: unknown): SiteOrderRequest {
  const order = object('order', body);
  const kind = siteOrderKinds.find((known) => known === order['kind']);
  if (kind === undefined) throw invalid('kind', `must be one of ${siteOrderKinds.join(', ')}`);
  return {
    kind,
    by: parseOperator(order['by']),
    ...(order['acceptsTwoCopies'] === true ? { acceptsTwoCopies: true } : {}),
    ...(order['isAgainstSpec'] === true ? { isAgainstSpec: true } : {}),
  };
}

/** What a connection becomes after the request for a console. */
export const consoleUpgrade = 'nkudo-console';

/** Why a console ended. Other reasons of a later agent are as `gone`. */
export type ConsoleEndMessage = { readonly reason: 'closed' | 'gone' | 'agentEnds' } | { readonly reason: 'takenOver'; readonly by: string };

/** @throws INVALID_REQUEST */
export function parseConsoleRequest(value: string | null): SiteConsoleRequest {
  const { types, takesOver, by, historyBytes } = object('request', parseJson(value ?? ''));
  return { types: types === true, takesOver: takesOver === true, by: parseOperator(by), historyBytes: integer('historyBytes', Number(historyBytes ?? 0), 0) };
}

export function parseConsoleEnd(value: Uint8Array): ConsoleEndMessage {
  const { reason, by } = object('end', parseJson(Buffer.from(value).toString()));
  if (reason === 'takenOver') return { reason, by: String(by).replaceAll(/[^\x20-\x7e]/g, '?') };
  return { reason: reason === 'closed' || reason === 'agentEnds' ? reason : 'gone' };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw invalid('request', 'is no JSON');
  }
}

function parseOperator(value: unknown): SiteOperator {
  const { user, uid } = object('by', value);
  if (typeof user !== 'string' || typeof uid !== 'number') throw invalid('by', 'must have a user and a uid');
  return { user: text('by.user', printable(user), { max: siteUserMax }), uid: integer('by.uid', uid, 0, 2 ** 32 - 1) };
}

/** It goes into logs and tables of others. */
export function printable(user: string): string {
  return user.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, siteUserMax);
}

export function object(field: string, value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(field, 'must be an object');
  return value as Readonly<Record<string, unknown>>; // Checked just before.
}

/** Bounds the wait that a question asks for. @throws INVALID_REQUEST */
export function parseWaitMs(value: string | null): number {
  return value === null ? 0 : Math.min(waitMsMax, integer('waitMs', Number(value), 0));
}
