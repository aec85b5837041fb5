/** Reads the HTTPS API as a script or a browser would: one answer, or a stream event by event. */
import { request } from 'node:https';
import type { IncomingHttpHeaders } from 'node:http';
import { serverName } from '#controller/pki/certificates.ts';

export interface Target {
  /** `host:port` */
  readonly address: string;
  readonly trustBundlePem: string;
  readonly token: string;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

export interface Asked {
  readonly method?: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

const giveUpMs = 60_000;

function optionsOf(target: Target, asked: Asked) {
  const { hostname, port } = new URL(`https://${target.address}`);
  return {
    hostname, port, method: asked.method ?? 'GET', path: asked.path, ca: target.trustBundlePem, servername: serverName, timeout: giveUpMs, agent: false,
    headers: { authorization: `Bearer ${target.token}`, ...asked.headers },
  };
}

export function ask(target: Target, asked: Asked): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(optionsOf(target, asked), (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (piece: string) => (text += piece));
      response.on('error', reject).on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }));
    });
    outgoing.on('error', reject).end(asked.body);
  });
}

export interface ReceivedEvent {
  readonly id: string;
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface Reader {
  readonly events: readonly ReceivedEvent[];
  /** Resolves with the first event that matches, also one that came before. */
  waitFor(matches: (event: ReceivedEvent) => boolean): Promise<ReceivedEvent>;
  /** Resolves when the server has ended the stream. */
  readonly ended: Promise<void>;
  cut(): void;
}

function parseEvent(text: string): ReceivedEvent | null {
  const fields = new Map(text.split('\n').filter((line) => !line.startsWith(':')).map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]));
  const data = fields.get('data');
  return data === undefined ? null : { id: fields.get('id') ?? '', name: fields.get('event') ?? '', data: JSON.parse(data) as ReceivedEvent['data'] }; // One line of JSON by the server under test.
}

/** @throws when the answer is no stream */
export function read(target: Target, asked: Asked): Promise<Reader> {
  return new Promise((resolve, reject) => {
    const outgoing = request(optionsOf(target, asked), (response) => {
      if (response.statusCode !== 200) return reject(new Error(`status ${response.statusCode}`));
      const events: ReceivedEvent[] = [];
      const waiters = new Set<() => void>();
      const ended = Promise.withResolvers<void>();
      let rest = '';
      response.setEncoding('utf8').on('error', () => {}).on('close', ended.resolve);
      response.on('data', (piece: string) => {
        const parts = `${rest}${piece}`.split('\n\n');
        rest = parts.pop() ?? '';
        events.push(...parts.map(parseEvent).filter((event) => event !== null));
        for (const wake of waiters) wake();
      });
      resolve({
        events,
        ended: ended.promise,
        cut: () => response.destroy(),
        waitFor: async (matches) => {
          for (;;) {
            const found = events.find(matches);
            if (found !== undefined) return found;
            await new Promise<void>((wake) => {
              const once = (): void => {
                waiters.delete(once);
                wake();
              };
              waiters.add(once);
            });
          }
        },
      });
    });
    outgoing.on('error', reject).end(asked.body);
  });
}
