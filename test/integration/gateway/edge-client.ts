/**
 * A small client of the edge listener for tests: makes keys and requests as an agent does, dials with or
 * without a certificate, and turns calls into promises. It checks the server as agents must.
 */
import 'reflect-metadata';
import { credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { cryptoProvider, Pkcs10CertificateRequestGenerator } from '@peculiar/x509';
import { webcrypto } from 'node:crypto';
import { EdgeServiceClient, EnrollmentServiceClient, type EnrollRequest, type EnrollResponse, type HeartbeatRequest, type HeartbeatResponse, type HostFacts } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { exportKeyPem, serverName } from '#controller/pki/certificates.ts';

cryptoProvider.set(webcrypto);

export interface HostKey {
  readonly csrDer: Buffer;
  readonly keyPem: string;
}

/** A new P-256 key and a request that asks for more than it will get. */
export async function makeHostKey(): Promise<HostKey> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const request = await Pkcs10CertificateRequestGenerator.create({ name: 'CN=not-my-name', keys, signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' } });
  return { csrDer: Buffer.from(request.rawData), keyPem: await exportKeyPem(keys.privateKey) };
}

export const testFacts: HostFacts = {
  hostName: 'test-host',
  machineId: 'b0e7c3a0',
  bootId: '3f0c1b9e-0000-4000-8000-000000000000',
  kernel: '6.1.0',
  architecture: 'x86_64',
  cpuModel: 'test',
  cpuCount: 4,
  memoryBytes: 8 * 2 ** 30,
  hasKvm: true,
  agentVersion: '0.1.0',
  hypervisor: { kind: 2, version: '54.0.0', problem: '' },
  hardware: undefined,
  isolation: undefined,
  clockSkewMs: 0,
};

export interface Dial {
  readonly address: string;
  readonly trustBundlePem: string;
  /** Shows this certificate; none when absent. */
  readonly identity?: { readonly keyPem: string; readonly chainPem: string };
}

const options = { 'grpc.ssl_target_name_override': serverName, 'grpc.default_authority': serverName, 'grpc.use_local_subchannel_pool': 1, 'grpc.enable_retries': 0 };

function channelCredentials(dial: Dial): ReturnType<typeof credentials.createSsl> {
  const root = Buffer.from(dial.trustBundlePem);
  return dial.identity === undefined ? credentials.createSsl(root) : credentials.createSsl(root, Buffer.from(dial.identity.keyPem), Buffer.from(dial.identity.chainPem));
}

export interface EdgeClient {
  readonly edge: EdgeServiceClient;
  readonly enrollment: EnrollmentServiceClient;
  close(): void;
}

export function dialEdge(dial: Dial): EdgeClient {
  const made = { edge: new EdgeServiceClient(dial.address, channelCredentials(dial), options), enrollment: new EnrollmentServiceClient(dial.address, channelCredentials(dial), options) };
  return {
    ...made,
    close: () => {
      made.edge.close();
      made.enrollment.close();
    },
  };
}

type UnaryMethod<In, Out> = (request: In, metadata: Metadata, options: { deadline: number }, callback: (error: ServiceError | null, response: Out) => void) => unknown;

/** Calls a unary method with a deadline of 20 s. Rejects with the ServiceError. */
export function call<In, Out>(method: UnaryMethod<In, Out>, request: In): Promise<Out> {
  return new Promise((resolve, reject) => {
    method(request, new Metadata(), { deadline: Date.now() + 20_000 }, (error, response) => (error === null ? resolve(response) : reject(error)));
  });
}

/** The code of docs/errors.md that a failed call carries; throws what was thrown when that is no failed call. */
export async function codeOf(failing: Promise<unknown>): Promise<string> {
  try {
    await failing;
  } catch (error) {
    if (error instanceof Error && 'metadata' in error && error.metadata instanceof Metadata) return String(error.metadata.get('nkudo-error-code')[0] ?? error.message);
    throw error;
  }
  return 'OK';
}

/** Enrolls with a token text and a key of its own. */
export async function enroll(client: EdgeClient, input: { readonly token: string; readonly key: HostKey; readonly hostName?: string }): Promise<EnrollResponse> {
  const request: EnrollRequest = { token: input.token, csrDer: input.key.csrDer, hostName: input.hostName ?? '', facts: testFacts };
  return call(client.enrollment.enroll.bind(client.enrollment), request);
}

export interface HeartbeatStream {
  send(message: NonNullable<HeartbeatRequest['message']>): void;
  /** The next message of that kind; others are dropped. Rejects when the stream ends first. */
  next<Case extends NonNullable<HeartbeatResponse['message']>['$case']>(kind: Case): Promise<Extract<NonNullable<HeartbeatResponse['message']>, { $case: Case }>['value']>;
  /** The next message of any kind. One call of this or of `next` at a time. */
  nextMessage(): Promise<NonNullable<HeartbeatResponse['message']>>;
  /** The error that ended the stream; null after a good end. */
  readonly ended: Promise<ServiceError | null>;
  cancel(): void;
}

export function openHeartbeat(client: EdgeClient): HeartbeatStream {
  const stream = client.edge.heartbeat();
  const received: NonNullable<HeartbeatResponse['message']>[] = [];
  let isOver = false;
  let wake: () => void = () => {};
  const ended = new Promise<ServiceError | null>((resolve) => {
    stream.on('error', (error: ServiceError) => resolve(error));
    stream.on('end', () => resolve(null));
  });
  void ended.then(() => {
    isOver = true;
    wake();
  });
  stream.on('data', (response: HeartbeatResponse) => {
    if (response.message !== undefined) received.push(response.message);
    wake();
  });
  return {
    ended,
    send: (message) => stream.write({ message }),
    next: async (kind) => {
      for (;;) {
        const at = received.findIndex((message) => message.$case === kind);
        const found = received[at];
        if (found !== undefined) {
          received.splice(0, at + 1);
          return found.value as never; // The case was compared above.
        }
        if (isOver) throw new Error(`the stream ended before ${kind}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    nextMessage: async () => {
      for (;;) {
        const message = received.shift();
        if (message !== undefined) return message;
        if (isOver) throw new Error('the stream ended before a message');
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    cancel: () => stream.cancel(),
  };
}

export function hello(sessionId: string): NonNullable<HeartbeatRequest['message']> {
  return { $case: 'hello', value: { sessionId, facts: testFacts, known: [], agentInstance: '', sentAt: undefined } };
}
