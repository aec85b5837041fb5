/** The management API without the adapter: for expectations of the server itself, and for what people do by hand. */
import type { Target } from './targets.ts';

export interface RawAnswer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

/** One request; the body of the answer as it came. */
export async function raw(target: Pick<Target, 'managementUrl' | 'token'>, method: string, path: string, body?: unknown): Promise<RawAnswer> {
  const response = await fetch(`${target.managementUrl}${path}`, {
    method,
    headers: { authorization: `Token ${target.token}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return { status: response.status, body: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>) }; // A test looks at each field.
}

export async function rawId(target: Pick<Target, 'managementUrl' | 'token'>, path: string, body: unknown): Promise<string> {
  const answer = await raw(target, 'POST', path, body);
  if (answer.status !== 200) throw new Error(`POST ${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
  return String(answer.body['id']);
}
