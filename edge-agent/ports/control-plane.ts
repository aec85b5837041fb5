/**
 * The agent's side of one session with the control plane. The adapter owns transport, TLS and wire
 * format; it hands over only messages that were decoded and checked.
 */
import type { HostFacts } from '#api/model/host.ts';
import type { ErrorCode } from '#api/model/error-codes.ts';
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import type { AgentOrder, AgentReport } from '#api/model/release.ts';
import type { MicroVMId, OperationId, SessionId } from '#api/model/ids.ts';
import type { MicroVMObservation, SecretValue } from '#api/model/microvm.ts';
import type { ExecutionReport, Operation } from '#api/model/plan.ts';
import type { GoodbyeReason } from '../domain/link-delay.ts';
import type { Identity } from './identity-store.ts';

export interface KnownMicroVM {
  readonly microvmId: MicroVMId;
  readonly epoch: number;
  readonly revision: number;
  readonly isLive: boolean;
  readonly isOrphan: boolean;
}

export interface Hello {
  readonly sessionId: SessionId;
  readonly facts: HostFacts;
  readonly known: readonly KnownMicroVM[];
  /** UUID of this run of the agent. */
  readonly agentInstance: string;
  readonly sentAtMs: number;
}

export interface Receipt {
  readonly operationId: OperationId;
  readonly disposition: 'Accepted' | 'Refused' | 'Dropped' | 'TooLate';
  readonly error?: { readonly code: ErrorCode; readonly message: string };
}

export type AgentMessage =
  /** `asking`: for the lease of this host to be extended, which it has held without a gap or not. */
  | { readonly kind: 'beat'; readonly sequence: number; readonly asking?: { readonly holdsLease: boolean } }
  | { readonly kind: 'receipt'; readonly receipt: Receipt }
  | { readonly kind: 'facts'; readonly facts: HostFacts }
  | { readonly kind: 'mesh'; readonly report: MeshReport }
  | { readonly kind: 'agent'; readonly report: AgentReport };

export type { GoodbyeReason } from '../domain/link-delay.ts';

export type ControlMessage =
  | { readonly kind: 'welcome'; readonly heartbeatIntervalMs: number; readonly endpoints: readonly string[]; readonly trustBundlePem: string;
      /** By the clock of the control plane; null when it did not say. */
      readonly serverTimeMs: number | null; readonly renewNow: boolean; readonly awaitsApproval: boolean }
  /** `leaseMs`: the lease was extended, so long from when that beat was sent. */
  | { readonly kind: 'beatAck'; readonly sequence: number; readonly leaseMs?: number }
  /** `secrets`: the values that came along. */
  | { readonly kind: 'operation'; readonly operation: Operation; readonly secrets: readonly SecretValue[] }
  /** A message that could not be read; an operation is answered with REFUSED when its id could. */
  | { readonly kind: 'unreadable'; readonly operationId: OperationId | null; readonly message: string }
  /** `revealKey` gives the secret setup key that came along; null: none did. */
  | { readonly kind: 'mesh'; readonly order: MeshOrder; readonly revealKey: (() => string) | null }
  /** Which version of the agent is to run. */
  | { readonly kind: 'agent'; readonly order: AgentOrder }
  | { readonly kind: 'cancel'; readonly operationId: OperationId }
  | { readonly kind: 'goodbye'; readonly reason: GoodbyeReason; readonly retryAfterMs: number; readonly message: string };

export interface ReportBatch {
  readonly executions: readonly ExecutionReport[];
  readonly observations: readonly MicroVMObservation[];
}

export interface RefusedReport {
  readonly id: string;
  readonly code: string;
}

export interface LogChunk {
  readonly microvmId: MicroVMId;
  readonly incarnation: number;
  readonly offset: number;
  readonly data: Uint8Array;
  readonly gapBytes: number;
  readonly readAtMs: number;
}

export interface LogAck {
  readonly microvmId: MicroVMId;
  readonly incarnation: number;
  readonly nextOffset: number;
}

export interface LogSession {
  /** Resolves when the transport takes more: the caller waits, so nothing piles up. Rejects when the stream is over. */
  send(chunk: LogChunk): Promise<void>;
  readonly acks: AsyncIterable<LogAck>;
  close(): void;
}

export interface RenewedCertificate {
  readonly chainPem: string;
  readonly trustBundlePem: string;
}

export interface ControlSession {
  readonly endpoint: string;
  /** Ends when the stream ends; throws an AppError when it broke. One message at a time: a slow reader slows the sender. */
  readonly messages: AsyncIterable<ControlMessage>;
  /** Resolves when handed to the transport. Rejects with an AppError when the stream is over. */
  send(message: AgentMessage): Promise<void>;
  /** Resolves when the batch is committed. @throws UNAVAILABLE, DEADLINE_EXCEEDED and what the server answers */
  report(batch: ReportBatch, signal: AbortSignal): Promise<readonly RefusedReport[]>;
  openLogs(): LogSession;
  renewCertificate(csrDer: Uint8Array, signal: AbortSignal): Promise<RenewedCertificate>;
  /** Closes the channel; idempotent. */
  close(): void;
}

export interface ControlPlane {
  /** Opens a channel to one endpoint and sends the hello. It does not wait for the welcome. @throws AppError */
  connect(endpoint: string, identity: Identity, hello: Hello): Promise<ControlSession>;
  /**
   * Proves the key of an older certificate, expired or not, and gets a new one.
   * @throws RECOVERY_PROOF_INVALID, RECOVERY_WINDOW_PASSED, RECOVERY_LIMITED, HOST_REVOKED, HOST_QUARANTINED, UNAVAILABLE
   */
  recover(endpoint: string, identity: Identity, facts: HostFacts, signal: AbortSignal): Promise<RenewedCertificate>;
}
