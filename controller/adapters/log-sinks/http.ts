/** One POST to a sink: its deadline, its credentials from a file, and which answers mean "later" and which "never". */
import { readFile } from 'node:fs/promises';
import { AppError } from '#api/model/error-codes.ts';

const timeoutMs = 10_000;
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

/** @throws UNAVAILABLE, INVALID_REQUEST */
export function createPost(settings: SinkSettings): (body: string, contentType: string) => Promise<void> {
  return async (body, contentType) => {
    const headers = { ...(await credentialsOf(settings)), 'content-type': contentType };
    let response: Response;
    const ending = new AbortController();
    const timer = setTimeout(() => ending.abort(), timeoutMs);
    try {
      response = await fetch(settings.url, { method: 'POST', headers, body, signal: ending.signal, redirect: 'error' });
      await response.arrayBuffer(); // Read to its end, so that the connection can be used again.
    } catch {
      throw new AppError('UNAVAILABLE', 'the log sink does not answer');
    } finally {
      clearTimeout(timer);
    }
    if (response.ok) return;
    if (response.status >= 500 || laterStatuses.has(response.status)) throw new AppError('UNAVAILABLE', `the log sink answers ${response.status}`);
    throw new AppError('INVALID_REQUEST', `the log sink refuses with ${response.status}`);
  };
}
