/**
 * One open stream of one host: hands it operations, takes its receipts and facts, and ends with at most
 * one goodbye. Everything waits for the stream's own back-pressure, so a slow host costs a bounded queue.
 *
 * Invariants: an operation is marked as dispatched in a committed transaction before it is written. The value of a
 * Secret is in memory only while the one message to its host is written.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { decodeHostFacts, dispositionMap, encodeOperation, type Disposition } from '#api/codec/edge-codec.ts';
import { decodeMeshReport } from '#api/codec/mesh-codec.ts';
import { decodeAgentReport } from '#api/codec/release-order-codec.ts';
import { id, present, text } from '#api/codec/validate.ts';
import { Goodbye_Reason, type AgentReport, type Beat, type HeartbeatRequest, type HeartbeatResponse, type MeshReport, type OperationReceipt } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { isAppError } from '#api/model/error-codes.ts';
import { operationId, type OperationId, type SessionId } from '#api/model/ids.ts';
import type { SecretValue } from '#api/model/microvm.ts';
import type { Operation } from '#api/model/plan.ts';
import { createSlots } from '#api/model/slots.ts';
import type { Stream } from '#controller/grpc/calls.ts';
import { createAgentChannel, type AgentChannel } from './agent-channel.ts';
import type { Beats } from './beats.ts';
import type { GatewayDeps } from './deps.ts';
import type { LeaseGrants } from './lease-grants.ts';
import { createMeshChannel, type MeshChannel } from './mesh-channel.ts';
import type { HostCaller } from './peer-identity.ts';

export type HostStream = Stream<HeartbeatRequest, HeartbeatResponse>;
export type GoodbyeReason = Exclude<keyof typeof Goodbye_Reason, 'UNSPECIFIED' | 'UNRECOGNIZED'>;

/** Receipts that wait for the database; more stop the reading of the stream. */
const receiptsWaitingMax = 256;
const receiptRetryMs = 1_000;
/** A peer that does not even take its goodbye loses the stream without it: a revoked one is out in this time. */
const goodbyeMaxMs = 1_000;
/** Reads of Secrets for one host at a time. */
const secretReadsAtOnce = 4;
/** While the API server gives no answer: the delay doubles from the first to the longest. */
const secretRetryMs = { first: 500, longest: 30_000 };
/** As many operations as one claim gives at most: there may be more. */
const claimSize = 256;

/** How long a host stays away after a goodbye, milliseconds. */
export const retryAfterMs: Readonly<Record<GoodbyeReason, number>> = {
  SHUTTING_DOWN: 0,
  REPLACED: 1_000,
  REVOKED: 3_600_000,
  QUARANTINED: 60_000,
  NOT_APPROVED: 10_000,
};

export async function sendGoodbye(stream: HostStream, reason: GoodbyeReason, message = ''): Promise<void> {
  await stream.send({ message: { $case: 'goodbye', value: { reason: Goodbye_Reason[reason], retryAfterMs: retryAfterMs[reason], message } } });
}

interface Receipt {
  readonly operationId: OperationId;
  readonly disposition: Disposition;
  readonly error: { readonly code: string; readonly message: string } | null;
}

function decodeReceipt(message: OperationReceipt): Receipt {
  return {
    operationId: id('receipt.operation_id', operationId, message.operationId),
    disposition: dispositionMap.decode('receipt.disposition', message.disposition),
    error:
      message.errorCode === ''
        ? null
        : { code: text('receipt.error_code', message.errorCode, { max: 64 }), message: text('receipt.error_message', message.errorMessage.slice(0, 1024), { max: 1024, allowEmpty: true }) },
  };
}

export type SessionDeps = Pick<GatewayDeps, 'log' | 'clock' | 'dispatch' | 'hosts' | 'hints' | 'faults' | 'metrics' | 'mesh' | 'agents' | 'guestSecrets'> & { readonly beats: Beats; readonly grants: LeaseGrants };

export class HostSession {
  readonly caller: HostCaller;
  readonly sessionId: SessionId;
  readonly mesh: MeshChannel;
  readonly agent: AgentChannel;
  readonly #deps: SessionDeps;
  readonly #stream: HostStream;
  readonly #peer: string;
  /** Until one claim has succeeded, also what was handed to earlier streams is asked for. */
  #isFirstClaim = true;
  #isClaiming = false;
  #isClaimDue = false;
  #areCancelsDue = false;
  #isHeld: boolean;
  /** Operations that wait for the values of their Secrets. */
  readonly #awaitingSecrets = new Set<OperationId>();
  readonly #secretReads = createSlots(secretReadsAtOnce);
  #goodbyeMessage = '';
  #receiptsWaiting = 0;
  #receipts: Promise<void> = Promise.resolve();
  #lastReceivedMs: number;
  #finish: (reason: GoodbyeReason | null) => void = () => {};
  readonly #finished: Promise<GoodbyeReason | null>;

  constructor(deps: SessionDeps, input: { readonly caller: HostCaller; readonly sessionId: SessionId; readonly stream: HostStream; readonly peer: string; readonly isHeld?: boolean }) {
    this.#deps = deps;
    this.#isHeld = input.isHeld ?? false;
    this.caller = input.caller;
    this.sessionId = input.sessionId;
    this.#stream = input.stream;
    this.#peer = input.peer;
    const { tenantId, hostId } = input.caller.identity;
    this.mesh = createMeshChannel(deps, { tenantId, hostId, sessionId: input.sessionId }, input.stream);
    this.agent = createAgentChannel(deps, { tenantId, hostId, sessionId: input.sessionId }, input.stream);
    this.#lastReceivedMs = deps.clock.monotonicMs();
    this.#finished = new Promise((resolve) => {
      this.#finish = resolve;
    });
  }

  get hostId(): string {
    return this.caller.identity.hostId;
  }

  /** Milliseconds since the host last said anything. */
  get silentMs(): number {
    return this.#deps.clock.monotonicMs() - this.#lastReceivedMs;
  }

  /** A claim failed, or none was made yet. */
  get needsClaim(): boolean {
    return this.#isFirstClaim;
  }

  /** The host waits for its approval: the stream is open, and nothing is ordered on it. */
  get isHeld(): boolean {
    return this.#isHeld;
  }

  /** The host was approved: what waits for it goes out. */
  release(): void {
    this.#isHeld = false;
    this.wake();
  }

  /** Ends the stream; the first reason counts. `message` is for the person who looks at the host. */
  dismiss(reason: GoodbyeReason | null, message = ''): void {
    if (this.#goodbyeMessage === '') this.#goodbyeMessage = message;
    this.#finish(reason);
  }

  /** As {@link wake}, and asks the host to drop what was cancelled. */
  wakeForCancels(): void {
    this.#areCancelsDue = true;
    this.wake();
  }

  /** Claims what is pending for the host and writes it to the stream, soon. Never throws. */
  wake(): void {
    this.#isClaimDue = true;
    if (this.#isClaiming || this.#isHeld) return;
    void this.#claimWhileDue();
  }

  async #claimWhileDue(): Promise<void> {
    this.#isClaiming = true;
    try {
      while (this.#isClaimDue && !this.#stream.signal.aborted) {
        this.#isClaimDue = false;
        await this.#claimAndPush();
      }
    } catch (error) {
      // The claim may have been committed all the same: ask for what was handed out before, too.
      this.#isFirstClaim = true;
      this.#deps.log.warn({ err: error, hostId: this.hostId }, 'operations could not be claimed; the next safety read tries again');
    } finally {
      this.#isClaiming = false; // In the same turn as the last look at isClaimDue, so that no wake is lost.
    }
  }

  async #claimAndPush(): Promise<void> {
    const { tenantId, hostId } = this.caller.identity;
    await this.#deps.faults.reach('db.claim:before');
    const operations = await this.#deps.dispatch.claim({ tenantId, hostId, sessionId: this.sessionId, includeDispatched: this.#isFirstClaim });
    await this.#deps.faults.reach('db.claim:after');
    // Only one claim can hold everything that was handed out; what is pending beyond it comes with the next.
    if (operations.length >= claimSize) this.#isClaimDue = true;
    if (this.#isFirstClaim) this.#areCancelsDue = true;
    this.#isFirstClaim = false;
    for (const operation of operations) {
      if (operation.desired?.secrets === undefined) await this.#push(operation, []);
      // Beside the rest: an API server that does not answer delays only what needs it.
      else void this.#pushWithSecrets(operation);
    }
    if (this.#areCancelsDue) await this.#pushCancels();
  }

  async #push(operation: Operation, secrets: readonly SecretValue[]): Promise<void> {
    await this.#deps.faults.reach('gateway.push:before');
    await this.#stream.send({ message: { $case: 'operation', value: encodeOperation(operation, secrets) } });
    await this.#deps.faults.reach('gateway.push:after');
    this.#deps.metrics.countPush();
  }

  /** Never throws. Of what was handed to a stream that ends first, the next stream gets it. */
  async #pushWithSecrets(operation: Operation): Promise<void> {
    if (this.#awaitingSecrets.has(operation.id)) return;
    this.#awaitingSecrets.add(operation.id);
    try {
      const secrets = await this.#readSecrets(operation);
      if (secrets !== null) await this.#push(operation, secrets);
    } catch (error) {
      if (!this.#stream.signal.aborted) this.#deps.log.warn({ err: error, hostId: this.hostId, operationId: operation.id }, 'an operation could not be sent; the next stream gets it');
    } finally {
      this.#awaitingSecrets.delete(operation.id);
      if (this.#areCancelsDue) this.wake();
    }
  }

  /** What can't be had is left out: the host knows whether it can do without, and says so. Null when the stream ended. */
  async #readSecrets({ id: operation, desired }: Operation): Promise<readonly SecretValue[] | null> {
    const { namespace, secrets = [] } = desired ?? { namespace: '' };
    for (let waitMs = secretRetryMs.first; !this.#stream.signal.aborted; waitMs = Math.min(secretRetryMs.longest, waitMs * 2)) {
      try {
        const readings = await this.#secretReads.run(() => this.#deps.guestSecrets.read(namespace, secrets));
        return readings.flatMap((reading) => (reading.kind === 'found' ? [reading.value] : []));
      } catch (error) {
        if (!isAppError(error)) throw error;
        this.#deps.log.warn({ code: error.code, error: error.message, hostId: this.hostId, operationId: operation }, 'Secrets for a guest could not be read; it is tried again');
        await delay(waitMs, undefined, { ref: false });
      }
    }
    return null;
  }

  /** After the operations, so that the host knows what it is to drop. Repeated until the host has answered. */
  async #pushCancels(): Promise<void> {
    const { tenantId, hostId } = this.caller.identity;
    this.#areCancelsDue = false;
    for (const operationId of await this.#deps.dispatch.listCancels(tenantId, hostId)) {
      if (this.#awaitingSecrets.has(operationId)) {
        this.#areCancelsDue = true;
        continue;
      }
      await this.#stream.send({ message: { $case: 'cancel', value: { operationId } } });
    }
  }

  /** Runs until the host goes, is dismissed or breaks the protocol. @throws INVALID_REQUEST */
  async run(): Promise<void> {
    const reason = await Promise.race([this.#receiveAll(), this.#finished]);
    if (reason !== null) await Promise.race([sendGoodbye(this.#stream, reason, this.#goodbyeMessage), delay(goodbyeMaxMs, undefined, { ref: false })]);
  }

  async #receiveAll(): Promise<null> {
    for (let request = await this.#stream.receive(); request !== null; request = await this.#stream.receive()) {
      this.#lastReceivedMs = this.#deps.clock.monotonicMs();
      await this.#take(request);
    }
    return null;
  }

  async #take(request: HeartbeatRequest): Promise<void> {
    const { tenantId, hostId } = this.caller.identity;
    const message = present('message', request.message);
    switch (message.$case) {
      case 'beat':
        this.#deps.beats.add({ tenantId, hostId, sessionId: this.sessionId });
        if (message.value.wantsLease === true) this.#askForLease(message.value);
        await this.#stream.send({ message: { $case: 'ack', value: { sequence: message.value.sequence, leaseMs: undefined } } });
        return;
      case 'receipt':
        await this.#queueReceipt(decodeReceipt(message.value));
        return;
      case 'facts':
        await this.#deps.hosts.saveFacts({ tenantId, hostId, sessionId: this.sessionId, facts: decodeHostFacts('facts', message.value) });
        this.#deps.hints.publish({ kind: 'host', tenantId, hostId });
        return;
      case 'mesh':
        this.#takeMeshReport(message.value);
        return;
      case 'agent':
        this.#takeAgentReport(message.value);
        return;
      case 'hello':
        this.dismiss('REPLACED'); // A second hello on one stream: let the agent begin anew.
        return;
      default:
        return; // A newer agent says something that we do not know.
    }
  }

  /** The lease is answered by an acknowledgement of its own: a database that does not answer delays no beat. */
  #askForLease({ sequence, holdsLease = false }: Beat): void {
    const { tenantId, hostId } = this.caller.identity;
    this.#deps.grants.ask({ tenantId, hostId, sessionId: this.sessionId, holdsLease }, (leaseMs) => {
      this.#stream.send({ message: { $case: 'ack', value: { sequence, leaseMs } } }).catch(() => {
        // The stream is over: the host asks again on the next one.
      });
    });
  }

  /** The mesh is no reason to end a stream that carries the work on microVMs. */
  #takeMeshReport(message: MeshReport): void {
    try {
      const report = decodeMeshReport(message);
      // No key for a host that waits for its approval; it asks again by itself.
      this.mesh.report(this.#isHeld ? { ...report, wantsKey: false } : report);
    } catch (error) {
      if (!isAppError(error)) throw error;
      this.#deps.log.warn({ code: error.code, error: error.message, hostId: this.hostId }, 'a report on the mesh can not be read');
    }
  }

  #takeAgentReport(message: AgentReport): void {
    try {
      this.agent.report(decodeAgentReport(message));
    } catch (error) {
      if (!isAppError(error)) throw error;
      this.#deps.log.warn({ code: error.code, error: error.message, hostId: this.hostId }, 'a report on the version of an agent can not be read');
    }
  }

  /** Stores receipts in their order beside the reading of the stream. */
  async #queueReceipt(receipt: Receipt): Promise<void> {
    this.#receiptsWaiting += 1;
    this.#receipts = this.#receipts.then(() => this.#storeReceipt(receipt)).finally(() => {
      this.#receiptsWaiting -= 1;
    });
    if (this.#receiptsWaiting >= receiptsWaitingMax) await this.#receipts;
  }

  /** Tries until it is stored or the stream ends: a reconnect sends the operation, and so the receipt, again. */
  async #storeReceipt(receipt: Receipt): Promise<void> {
    const { tenantId, hostId } = this.caller.identity;
    while (!this.#stream.signal.aborted) {
      try {
        await this.#deps.faults.reach('db.receipt:before');
        const changed = await this.#deps.dispatch.recordReceipt({ tenantId, hostId, ...receipt }, { kind: 'host', name: hostId, from: this.#peer });
        await this.#deps.faults.reach('db.receipt:after');
        for (const microvmId of changed) this.#deps.hints.publish({ kind: 'microvm', tenantId, microvmId });
        return;
      } catch (error) {
        this.#deps.log.warn({ err: error, hostId, operationId: receipt.operationId }, 'a receipt could not be stored');
        if (!isAppError(error) || error.retry !== 'backoff') return;
        await delay(receiptRetryMs, undefined, { ref: false });
      }
    }
  }
}
