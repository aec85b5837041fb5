/**
 * The plain HTTP port for the cluster's own use: liveness, readiness, metrics. Three fixed routes, no
 * body is read, nothing about tenants is shown.
 */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Readiness } from './readiness.ts';

const requestTimeoutMs = 5_000;

export interface HttpDeps {
  readonly readiness: Readiness;
  /** Prometheus text. */
  readonly metrics: () => Promise<string>;
}

export interface HttpListener {
  /** `host:port` as bound. */
  readonly address: string;
  stop(): Promise<void>;
}

function answer(response: ServerResponse, code: number, type: string, body: string): void {
  response.writeHead(code, { 'content-type': type, 'cache-control': 'no-store' }).end(body);
}

async function route(path: string | undefined, response: ServerResponse, deps: HttpDeps): Promise<void> {
  switch (path) {
    case '/livez':
      return answer(response, 200, 'text/plain', 'ok\n');
    case '/readyz': {
      const checks = await deps.readiness.check();
      const lines = checks.map((check) => `${check.isOk ? '[+]' : '[-]'}${check.name}${check.isOk ? ' ok' : ` failed: ${check.reason}`}\n`);
      return answer(response, checks.every((check) => check.isOk) ? 200 : 503, 'text/plain', lines.join(''));
    }
    case '/metrics':
      return answer(response, 200, 'text/plain; version=0.0.4', await deps.metrics());
    default:
      return answer(response, 404, 'text/plain', 'not found\n');
  }
}

export async function startHttpListener(listen: { readonly host: string; readonly port: number }, deps: HttpDeps): Promise<HttpListener> {
  const server = createServer((request, response) => {
    route(request.url?.split('?')[0], response, deps).catch((error: unknown) => answer(response, 500, 'text/plain', `${error instanceof Error ? error.name : 'error'}\n`));
  });
  server.requestTimeout = requestTimeoutMs;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(listen.port, listen.host.replace(/^\[(.*)\]$/, '$1'), resolve);
  });
  const { port } = server.address() as AddressInfo; // A TCP server has an AddressInfo once it listens.
  return {
    address: `${listen.host}:${port}`,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
