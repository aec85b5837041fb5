/** Questions to the API server that are about no object: its version and clock, and what we may do. For `doctor`; nothing is stored. */
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Connection } from './kubernetes-client.ts';

export interface ServerAnswer {
  readonly status: number;
  readonly body: unknown;
  /** By the `Date` of the answer, whole seconds; null: it had none. */
  readonly dateMs: number | null;
}

export interface KubernetesRight {
  readonly group: string;
  readonly resource: string;
  readonly subresource?: string;
  readonly verb: string;
  /** Absent: in all namespaces. */
  readonly namespace?: string;
}

export interface KubernetesQuestions {
  /** @throws Error of the network */
  get(path: string): Promise<ServerAnswer>;
  /** Whether we may. Source: SelfSubjectAccessReview. */
  may(right: KubernetesRight): Promise<boolean>;
}

const deadlineMs = 10_000;

export function createQuestions(connection: Connection): KubernetesQuestions {
  const send = async (method: 'GET' | 'POST', path: string, body?: object): Promise<ServerAnswer> => {
    const own = await connection.credentials();
    const url = new URL(connection.server.replace(/\/$/, '') + path);
    const payload = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    return new Promise((resolve, reject) => {
      const ask = url.protocol === 'https:' ? httpsRequest : httpRequest;
      const headers = { ...own.headers, accept: 'application/json', ...(payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': payload.length }) };
      const outgoing = ask(url, { ...own, method, headers, signal: AbortSignal.timeout(deadlineMs) }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', reject).on('end', () => {
          const date = Date.parse(response.headers.date ?? '');
          resolve({ status: response.statusCode ?? 0, body: parse(Buffer.concat(chunks).toString('utf8')), dateMs: Number.isNaN(date) ? null : date });
        });
      });
      outgoing.on('error', reject).end(payload);
    });
  };
  return {
    get: (path) => send('GET', path),
    may: async ({ namespace, ...attributes }) => {
      const answer = await send('POST', '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews', {
        apiVersion: 'authorization.k8s.io/v1', kind: 'SelfSubjectAccessReview', spec: { resourceAttributes: { ...attributes, ...(namespace === undefined ? {} : { namespace }) } },
      });
      return field(field(answer.body, 'status'), 'allowed') === true;
    },
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text; // `/readyz` answers in plain words.
  }
}

/** A field of an answer, undefined when it has none. */
export function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? new Map<string, unknown>(Object.entries(value)).get(name) : undefined;
}
