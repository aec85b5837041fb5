/**
 * One TLS port with gRPC services on it: limits, keepalive, bound address, and an end that lets calls
 * finish until a deadline.
 */
import { experimental, Server, type ServerInterceptor } from '@grpc/grpc-js';
import { registerServices, type AccessTable, type RegisteredService } from './access.ts';

/** Largest message that is taken or sent, bytes. */
const messageBytesMax = 4 * 2 ** 20;
const keepaliveIntervalMs = 20_000;
const keepaliveTimeoutMs = 10_000;
/** After this a connection is asked to reconnect, so that new certificates and new replicas come into use. */
const connectionAgeMs = 12 * 3_600_000;
const connectionAgeGraceMs = 60_000;
const streamsPerConnectionMax = 64;

export interface Listener {
  /** `host:port` as bound. */
  readonly address: string;
  /** Takes no new calls, waits for the open ones, ends them at the deadline. */
  stop(graceMs: number): Promise<void>;
}

/** `[::1]:0` or `127.0.0.1:8443` in its two parts. */
export function splitAddress(address: string): { readonly host: string; readonly port: number } {
  const at = address.lastIndexOf(':');
  return { host: address.slice(0, at), port: Number(address.slice(at + 1)) };
}

export async function startListener(input: {
  readonly listen: string;
  readonly certificates: experimental.CertificateProvider;
  /** Whether clients may show a certificate; none is required at this level. */
  readonly asksForClientCertificate: boolean;
  readonly table: AccessTable;
  readonly interceptor: ServerInterceptor;
  readonly services: readonly RegisteredService[];
}): Promise<Listener> {
  const server = new Server({
    interceptors: [input.interceptor],
    'grpc.max_receive_message_length': messageBytesMax,
    'grpc.max_send_message_length': messageBytesMax,
    'grpc.keepalive_time_ms': keepaliveIntervalMs,
    'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
    'grpc.max_connection_age_ms': connectionAgeMs,
    'grpc.max_connection_age_grace_ms': connectionAgeGraceMs,
    'grpc.max_concurrent_streams': streamsPerConnectionMax,
  });
  registerServices(server, input.table, input.services);
  const credentials = experimental.createCertificateProviderServerCredentials(
    input.certificates,
    input.asksForClientCertificate ? input.certificates : null,
    false,
  );
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(input.listen, credentials, (error, bound) => (error === null ? resolve(bound) : reject(error)));
  });
  return {
    address: `${splitAddress(input.listen).host}:${port}`,
    stop: (graceMs) =>
      new Promise((resolve) => {
        const timer = setTimeout(() => server.forceShutdown(), graceMs);
        server.tryShutdown(() => {
          clearTimeout(timer);
          resolve();
        });
      }),
  };
}
