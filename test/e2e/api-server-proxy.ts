/**
 * An HTTP proxy in front of the API server that can answer lists in its place. It owns what a broken middle box, a lost
 * right or a half-restored API server look like to the controller; everything else passes.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { request } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import { fileScope } from '#test/harness/file-scope.ts';
import type { TestKubernetes } from '#test/harness/kubernetes.ts';

/** What lists of our kinds are answered with. `stale`: with what the last real list said. */
export type ListFault = 'none' | 'forbidden' | 'notFound' | 'broken' | 'empty' | 'stale';

export interface ApiServerProxy {
  /** Goes through the proxy as the admin. */
  readonly kubeconfig: string;
  /** From now on; ends every watch, and the next ones are told to list again. */
  answerLists(fault: ListFault): void;
  /** Lists that were answered in place of the API server since the last change. */
  faked(): number;
}

const statuses = { forbidden: [403, 'Forbidden'], notFound: [404, 'NotFound'], broken: [500, 'InternalError'] } as const;
const collection = /^\/apis\/nkudo\.dev\/v1alpha1\/(sites|hosts|microvms|enrollmenttokens|apikeys)(\?|$)/;

export async function startApiServerProxy(kubernetes: TestKubernetes): Promise<ApiServerProxy> {
  const { access } = kubernetes;
  const target = new URL(access.server);
  const ca = readFileSync(access.caFile);
  const sockets = new Set<Socket>();
  const lastLists = new Map<string, string>();
  let fault: ListFault = 'none';
  /** Plurals whose watches must begin with a list. */
  let expired = new Set<string>();
  let faked = 0;

  const refuse = (response: ServerResponse, [code, reason]: readonly [number, string]): void => {
    response.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify({ apiVersion: 'v1', kind: 'Status', status: 'Failure', code, reason, message: `answered by the proxy: ${reason}`, metadata: {} }));
  };
  const pass = (incoming: IncomingMessage, response: ServerResponse, onBody: ((text: string) => string) | null): void => {
    const outgoing = request(
      { host: target.hostname, port: target.port, path: incoming.url, method: incoming.method, ca, headers: { ...incoming.headers, host: target.host, ...(onBody === null ? {} : { 'accept-encoding': 'identity' }) } },
      (answer) => {
        if (onBody === null) {
          response.writeHead(answer.statusCode ?? 502, answer.headers);
          // A watch says nothing for long: its head must not wait for the first event.
          response.flushHeaders();
          answer.pipe(response);
          return;
        }
        const chunks: Buffer[] = [];
        answer.on('data', (chunk: Buffer) => chunks.push(chunk)).on('end', () => {
          const text = onBody(Buffer.concat(chunks).toString('utf8'));
          response.writeHead(answer.statusCode ?? 502, { 'content-type': 'application/json' }).end(text);
        });
      },
    );
    outgoing.on('error', () => response.destroy());
    response.on('close', () => outgoing.destroy());
    incoming.pipe(outgoing);
  };

  const server = createServer((incoming, response) => {
    const url = incoming.url ?? '';
    const plural = incoming.method === 'GET' ? collection.exec(url)?.[1] : undefined;
    if (plural === undefined) return pass(incoming, response, null);
    if (url.includes('watch=')) {
      if (fault in statuses) return refuse(response, statuses[fault as keyof typeof statuses]); // Checked by `in`.
      if (expired.delete(plural)) return refuse(response, [410, 'Expired']);
      // A proxy that holds an old answer sends no news either.
      if (fault === 'stale') return void response.writeHead(200, { 'content-type': 'application/json' }).flushHeaders();
      return pass(incoming, response, null);
    }
    expired.delete(plural);
    if (fault !== 'none') faked += 1;
    if (fault in statuses) return refuse(response, statuses[fault as keyof typeof statuses]); // As above.
    const last = lastLists.get(plural);
    if (fault === 'stale' && last !== undefined) return void response.writeHead(200, { 'content-type': 'application/json' }).end(last);
    pass(incoming, response, (text) => {
      if (fault === 'empty') return JSON.stringify({ ...(JSON.parse(text) as object), items: [] }); // A list of the API server.
      lastLists.set(plural, text);
      return text;
    });
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  fileScope().defer(() => {
    server.close();
    server.closeAllConnections();
  });
  const { port } = server.address() as AddressInfo; // It listens on TCP.
  const kubeconfig = join(fileScope().directory, 'kubeconfig-through-proxy');
  const config = JSON.parse(readFileSync(access.kubeconfig, 'utf8')) as { clusters: { cluster: Record<string, unknown> }[] }; // Written by the stack as JSON.
  for (const entry of config.clusters) entry.cluster = { server: `http://127.0.0.1:${port}`, 'insecure-skip-tls-verify': true };
  writeFileSync(kubeconfig, JSON.stringify(config), { mode: 0o600 });
  return {
    kubeconfig,
    faked: () => faked,
    answerLists: (next) => {
      fault = next;
      faked = 0;
      expired = new Set(['sites', 'hosts', 'microvms', 'enrollmenttokens', 'apikeys']);
      for (const socket of sockets) socket.destroy();
    },
  };
}
