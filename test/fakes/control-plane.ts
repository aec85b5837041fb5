/**
 * A control plane in memory behind the real wire: gRPC over mutual TLS, one tenant, no database. Owns
 * what a test tells it to say and remembers what agents said. It decides nothing by itself; what the
 * real one does is shown by the tests of the controller.
 */
import { createHash } from 'node:crypto';
import { experimental, Metadata, Server, status, type ServerDuplexStream } from '@grpc/grpc-js';
import { decodeExecution, decodeObservation, encodeOperation } from '#api/codec/edge-codec.ts';
import { decodeMeshReport, encodeMeshOrder } from '#api/codec/mesh-codec.ts';
import { decodeAgentReport, encodeAgentOrder } from '#api/codec/release-order-codec.ts';
import { encodeEnrollmentToken, parseEnrollmentToken } from '#api/codec/enrollment-token.ts';
import {
  EdgeServiceService,
  EnrollmentServiceService,
  type EdgeServiceServer,
  type EnrollmentServiceServer,
  type HeartbeatRequest,
  type HeartbeatResponse,
  type Hello,
  type HostFacts,
  type OperationReceipt,
} from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import type { ErrorCode } from '#api/model/error-codes.ts';
import { hostId, siteId, tenantId, type MicroVMId } from '#api/model/ids.ts';
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import type { MicroVMObservation, SecretValue } from '#api/model/microvm.ts';
import type { AgentOrder, AgentReport } from '#api/model/release.ts';
import type { ExecutionReport, Operation } from '#api/model/plan.ts';
import { checkRequest, createAuthority, issueHostCertificate, issueServerCertificate, pinOf, type CertificateAuthority } from '#controller/pki/certificates.ts';

const dayMs = 86_400_000;

export interface FakeControlPlane {
  readonly address: string;
  /** A token for this control plane; each call gives another one, all are accepted once. */
  token(change?: { readonly pins?: readonly string[]; readonly endpoints?: readonly string[] }): string;
  readonly hellos: readonly Hello[];
  readonly receipts: readonly OperationReceipt[];
  readonly reports: readonly ExecutionReport[];
  readonly observations: readonly MicroVMObservation[];
  /** Serial bytes by `microvm incarnation`. */
  readonly logs: ReadonlyMap<string, string>;
  readonly meshReports: readonly MeshReport[];
  readonly agentReports: readonly AgentReport[];
  /** From now on this is the order for the agent's version, also of later sessions. */
  orderAgent(order: AgentOrder): void;
  /** The facts of the newest hello or change of facts. */
  facts(): HostFacts | undefined;
  /** From now on this is the mesh order, also of later sessions; a host that asks gets the key that `issueKey` gives, or none. */
  orderMesh(order: MeshOrder, issueKey?: () => string | null): void;
  readonly beats: () => number;
  /** Tokens that reached the server. */
  readonly tokensSeen: readonly string[];
  readonly renewals: () => number;
  push(operation: Operation, secrets?: readonly SecretValue[]): void;
  /** Resolves as soon as it is so; looked at whenever an agent says something. @throws after a time that only a fault can take */
  when(what: string, condition: () => boolean, patience?: { readonly forMs: number }): Promise<void>;
  goodbye(reason: number, retryAfterMs?: number): void;
  /** How long the certificates that it issues live, milliseconds; they are backdated by 5 minutes. */
  hostValidityMs: number;
  stop(): void;
  /** Listens again on the same address. */
  restart(): Promise<void>;
}

export interface FakeControlPlaneOptions {
  readonly heartbeatIntervalMs?: number;
  /** Each new session gets again what was pushed and has no final report, the newest of each microVM, as the real one does it. */
  readonly redelivers?: boolean;
  /** Granted to each beat that asks for the lease, milliseconds; absent: nothing is granted. */
  readonly leaseMs?: number;
}

/** Longest that anything may take which a test waits for; far beyond what a busy machine needs. */
const patienceMs = 60_000;

export async function startFakeControlPlane(options: FakeControlPlaneOptions = {}): Promise<FakeControlPlane> {
  const authority = await createAuthority(Date.now());
  const rootPem = `${authority.root.certificate.toString('pem')}\n`;
  const pair = await issueServerCertificate(authority, { hosts: ['127.0.0.1'], nowMs: Date.now(), validityMs: dayMs });
  const provider = createProvider(authority, Buffer.from(pair.chainPem + rootPem), Buffer.from(pair.keyPem));
  const hellos: Hello[] = [];
  const receipts: OperationReceipt[] = [];
  const reports: ExecutionReport[] = [];
  const observations: MicroVMObservation[] = [];
  const logs = new Map<string, string>();
  const tokensSeen: string[] = [];
  const usedBy = new Map<string, string>();
  const waiting: (() => void)[] = [];
  const open = new Map<MicroVMId, { readonly id: string; readonly send: () => void }>();
  const watchers = new Set<() => void>();
  const tellWatchers = (): void => {
    for (const look of watchers) look();
  };
  const meshReports: MeshReport[] = [];
  const agentReports: AgentReport[] = [];
  let agentOrder: AgentOrder | undefined;
  let mesh: { readonly order: MeshOrder; readonly issueKey: () => string | null } | undefined;
  let stream: ServerDuplexStream<HeartbeatRequest, HeartbeatResponse> | undefined;
  let facts: HostFacts | undefined;
  let beats = 0;
  let renewals = 0;
  let address = '';
  let server: Server;

  const issue = async (csrDer: Uint8Array) => {
    const request = await checkRequest(csrDer);
    const subject = { tenantId: tenantId(ids.tenant), siteId: siteId(ids.site), hostId: hostId(ids.host), hostName: 'host-1' };
    const made = await issueHostCertificate(authority, { subject, publicKey: request.publicKey, nowMs: Date.now(), validityMs: self.hostValidityMs });
    return { made, keyHash: Buffer.from(request.publicKeyHash).toString('hex') };
  };

  const enrollment: Partial<EnrollmentServiceServer> = {
    enroll: (call, callback) => {
      tokensSeen.push(call.request.token);
      void issue(call.request.csrDer).then(({ made, keyHash }) => {
        const { secret } = parseEnrollmentToken(call.request.token);
        const owner = usedBy.get(secret) ?? keyHash;
        if (owner !== keyHash) return callback(refusal('TOKEN_USED'));
        usedBy.set(secret, keyHash);
        callback(null, {
          tenantId: ids.tenant,
          siteId: ids.site,
          hostId: ids.host,
          hostName: call.request.hostName || 'host-1',
          certificateChainPem: made.chainPem,
          trustBundlePem: rootPem,
          endpoints: [address],
          siteName: 'shop-1',
          namespace: 'shop',
        });
      });
    },
    renewCertificate: (call, callback) => {
      if (call.getAuthContext()?.sslPeerCertificate === undefined) return callback(refusal('UNAUTHENTICATED'));
      renewals += 1;
      void issue(call.request.csrDer).then(({ made }) => callback(null, { certificateChainPem: made.chainPem, trustBundlePem: rootPem }));
    },
  };
  const edge: EdgeServiceServer = {
    heartbeat: (call) => {
      if (call.getAuthContext()?.sslPeerCertificate === undefined) return void call.emit('error', refusal('UNAUTHENTICATED'));
      stream = call;
      call.on('error', () => {});
      call.on('end', () => call.end());
      call.on('data', ({ message }: HeartbeatRequest) => {
        if (message?.$case === 'hello') {
          hellos.push(message.value);
          facts = message.value.facts;
          const { sessionId } = message.value;
          call.write({ message: { $case: 'welcome', value: { sessionId, heartbeatIntervalMs: options.heartbeatIntervalMs ?? 10_000, serverTime: undefined, endpoints: [address], trustBundlePem: rootPem, renewNow: false, awaitsApproval: false } } });
          const late = waiting.splice(0);
          for (const deliver of options.redelivers === true ? [...open.values()].map((entry) => entry.send) : late) deliver();
          sendMesh('');
          sendAgent();
          tellWatchers();
        }
        if (message?.$case === 'agent') agentReports.push(decodeAgentReport(message.value));
        if (message?.$case === 'beat') {
          beats += 1;
          call.write({ message: { $case: 'ack', value: { sequence: message.value.sequence, leaseMs: message.value.wantsLease === true ? options.leaseMs : undefined } } });
          tellWatchers();
        }
        if (message?.$case === 'facts') {
          facts = message.value;
          tellWatchers();
        }
        if (message?.$case === 'receipt') {
          receipts.push(message.value);
          tellWatchers();
        }
        if (message?.$case === 'mesh') {
          const report = decodeMeshReport(message.value);
          meshReports.push(report);
          const key = report.wantsKey ? mesh?.issueKey() : null;
          if (key !== null && key !== undefined) sendMesh(key);
        }
      });
    },
    reportExecutions: (call, callback) => {
      reports.push(...call.request.executions.map(decodeExecution));
      observations.push(...call.request.observations.map(decodeObservation));
      const ended = new Set(call.request.executions.filter(({ isFinal }) => isFinal).map(({ operationId }) => operationId));
      for (const [microvmId, { id }] of open) if (ended.has(id)) open.delete(microvmId);
      callback(null, { refused: [] });
      tellWatchers();
    },
    streamLogs: (call) => {
      call.on('error', () => {});
      call.on('end', () => call.end());
      call.on('data', ({ stream: name, offset, data, gapBytes }) => {
        const key = `${name?.microvmId} ${name?.incarnation}`;
        // What the agent says is lost reads as zeros.
        const stored = (logs.get(key) ?? '').padEnd(gapBytes > 0 ? offset : 0, '\0');
        if (offset <= stored.length) logs.set(key, stored.slice(0, offset) + data.toString('latin1'));
        call.write({ stream: name, nextOffset: (logs.get(key) ?? '').length });
      });
    },
  };
  const send = (operation: Operation, secrets: readonly SecretValue[]): void => void stream?.write({ message: { $case: 'operation', value: encodeOperation(operation, secrets) } });

  const sendMesh = (setupKey: string): void => {
    if (mesh !== undefined) stream?.write({ message: { $case: 'mesh', value: encodeMeshOrder(mesh.order, setupKey) } });
  };

  const sendAgent = (): void => {
    if (agentOrder !== undefined) stream?.write({ message: { $case: 'agent', value: encodeAgentOrder(agentOrder) } });
  };

  const listen = async (at: string): Promise<void> => {
    server = new Server();
    server.addService(EnrollmentServiceService, enrollment as EnrollmentServiceServer); // Recovery is left out.
    server.addService(EdgeServiceService, edge);
    const secure = experimental.createCertificateProviderServerCredentials(provider, provider, false);
    const port = await new Promise<number>((resolve, reject) => server.bindAsync(at, secure, (error, bound) => (error === null ? resolve(bound) : reject(error))));
    address = `127.0.0.1:${port}`;
  };

  const self: FakeControlPlane = {
    get address() {
      return address;
    },
    token: (change = {}) =>
      encodeEnrollmentToken({
        endpoints: change.endpoints ?? [address],
        pins: change.pins ?? [pinOf(authority.root.certificate)],
        secret: createHash('sha256').update(String(usedBy.size + Math.random())).digest('base64url'),
      }),
    hellos,
    receipts,
    reports,
    observations,
    logs,
    tokensSeen,
    meshReports,
    agentReports,
    orderAgent: (order) => {
      agentOrder = order;
      sendAgent();
    },
    orderMesh: (order, issueKey = () => null) => {
      mesh = { order, issueKey };
      sendMesh('');
    },
    facts: () => facts,
    beats: () => beats,
    renewals: () => renewals,
    push: (operation, secrets = []) => {
      const deliver = (): void => send(operation, secrets);
      open.set(operation.microvmId, { id: operation.id, send: deliver });
      if (stream === undefined) waiting.push(deliver);
      else deliver();
    },
    when: (what, condition, { forMs } = { forMs: patienceMs }) =>
      new Promise((resolve, reject) => {
        const settle = (): void => {
          clearTimeout(timer);
          watchers.delete(look);
        };
        const look = (): void => {
          if (!condition()) return;
          settle();
          resolve();
        };
        const timer = setTimeout(() => {
          settle();
          reject(new Error(`the control plane waited ${forMs} ms for ${what}`));
        }, forMs);
        watchers.add(look);
        look();
      }),
    goodbye: (reason, retryAfterMs = 0) => {
      stream?.write({ message: { $case: 'goodbye', value: { reason: reason as 1, retryAfterMs, message: '' } } }); // Any number is sent as it is.
      stream?.end();
      stream = undefined;
    },
    hostValidityMs: dayMs,
    stop: () => {
      stream = undefined;
      server.forceShutdown();
    },
    restart: () => listen(address),
  };
  await listen('127.0.0.1:0');
  return self;
}

const ids = {
  tenant: '11111111-0000-4000-8000-000000000001',
  site: '22222222-0000-4000-8000-000000000002',
  host: '33333333-0000-4000-8000-000000000003',
};

export const fakeHostId = ids.host;

function refusal(code: ErrorCode) {
  const metadata = new Metadata();
  metadata.set('nkudo-error-code', code);
  return Object.assign(new Error(code), { code: status.FAILED_PRECONDITION, details: code, metadata });
}

function createProvider(authority: CertificateAuthority, certificate: Buffer, privateKey: Buffer): experimental.CertificateProvider {
  const caCertificate = Buffer.from(`${authority.root.certificate.toString('pem')}\n${authority.intermediate.certificate.toString('pem')}\n`);
  return {
    addCaCertificateListener: (listener) => process.nextTick(listener, { caCertificate }),
    removeCaCertificateListener: () => {},
    addIdentityCertificateListener: (listener) => process.nextTick(listener, { certificate, privateKey }),
    removeIdentityCertificateListener: () => {},
  };
}
