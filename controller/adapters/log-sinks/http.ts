/** What sinks over HTTP share: the POST with its deadline, credentials from a file, and which answers mean "later" and which "never". */
import { readFile } from 'node:fs/promises';
import { withDeadline } from '#api/model/deadline.ts';
import { AppError } from '#api/model/error-codes.ts';

/** For one delivery. */
export const deliveryTimeoutMs = 10_000;
/** Nobody else ends a delivery. */
const unended = new AbortController().signal;
/** Answers that another try may change: https://grafana.com/docs/loki/latest/operations/request-validation-rate-limits/ */
const laterStatuses = new Set([401, 403, 404, 408, 425, 429]);

export interface SinkSettings {
  readonly url: string;
  /** Read anew for each delivery, so that a rotated token is used at once. Null: no credentials. */
  readonly tokenFile: string | null;
}

export async function credentialsOf({ tokenFile }: SinkSettings): Promise<Readonly<Record<string, string>>> {
  if (tokenFile === null) return {};
  try {
    return { authorization: `Bearer ${(await readFile(tokenFile, 'utf8')).trim()}` };
  } catch {
    throw new AppError('UNAVAILABLE', 'the token file of the log sink can not be read');
  }
}

/** What an answer that is no success means for the lines. */
export function refusal(status: number): AppError {
  if (status >= 500 || laterStatuses.has(status)) return new AppError('UNAVAILABLE', `the log sink answers ${status}`);
  return new AppError('INVALID_REQUEST', `the log sink refuses with ${status}`);
}

/** @throws UNAVAILABLE, INVALID_REQUEST */
export function createPost(settings: SinkSettings): (body: string, contentType: string) => Promise<void> {
  return async (body, contentType) => {
    const headers = { ...(await credentialsOf(settings)), 'content-type': contentType };
    const response = await withDeadline(unended, deliveryTimeoutMs, async (signal) => {
      const answer = await fetch(settings.url, { method: 'POST', headers, body, signal, redirect: 'error' });
      await answer.arrayBuffer(); // Read to its end, so that the connection can be used again.
      return answer;
    }).catch(() => {
      throw new AppError('UNAVAILABLE', 'the log sink does not answer');
    });
    if (!response.ok) throw refusal(response.status);
  };
}
