/**
 * All microVMs of the host: one worker for each, and the gate through which operations enter.
 * Owns the promise of a receipt: ACCEPTED is answered only when the operation is durable.
 */
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { executionId, type MicroVMId, type OperationId } from '#api/model/ids.ts';
import type { SecretValue } from '#api/model/microvm.ts';
import type { Operation } from '#api/model/plan.ts';
import { decideAcceptance, decideCancellation } from '../domain/acceptance.ts';
import type { DirectoryIdentity, MicroVMRecord } from '../domain/microvm-record.ts';
import { decideKeeping, decidePruning } from '../domain/secrets.ts';
import { endUnfinished, repeatReport } from '../domain/operation-progress.ts';
import { tombstonesMax } from '../ports/journal.ts';
import type { KnownMicroVM, Receipt } from '../ports/control-plane.ts';
import { createSlots } from '#api/model/slots.ts';
import { around } from '../fault-points.ts';
import { createNetworkSweeper } from './network-sweeper.ts';
import { spaceProblem } from './space-keeper.ts';
import { createMicroVMWorker, type MicroVMWorker, type WorkerDeps } from './microvm-worker.ts';

export interface MicroVMRegistry {
  /** Adopts what the journal knows: looks first, then converges. */
  start(): Promise<void>;
  /** @param sent the values of Secrets that came along */
  accept(operation: Operation, sent?: readonly SecretValue[]): Promise<Receipt>;
  cancel(operationId: OperationId): Promise<Receipt>;
  /** For the hello: the fence of each microVM, directories without a journal entry included. */
  known(): Promise<readonly KnownMicroVM[]>;
  workers(): Iterable<MicroVMWorker>;
  /** Calls back for every worker that there is or will be. */
  onWorker(callback: (worker: MicroVMWorker) => void): void;
  stop(): Promise<void>;
}

export function createMicroVMRegistry(deps: WorkerDeps): MicroVMRegistry {
  const { journal, directories, secrets, clock, entropy, faults, reporter } = deps;
  const workers = new Map<MicroVMId, MicroVMWorker>();
  const sweeper = createNetworkSweeper(deps);
  const accepting = createSlots(1);
  let onWorker = (_worker: MicroVMWorker): void => {};

  function add(record: MicroVMRecord): MicroVMWorker {
    const worker = createMicroVMWorker(record, deps);
    workers.set(record.microvmId, worker);
    onWorker(worker);
    return worker;
  }

  async function accept(operation: Operation, sent: readonly SecretValue[]): Promise<Receipt> {
    const { microvmId } = operation;
    const directory = (await directories.look(microvmId)).identity;
    const unkept = await keepSecrets(operation, sent, directory);
    if (unkept !== null) return unkept;
    await faults.reach('journal.accept:before');
    // From here to the write nothing is awaited: a worker's own writes can't come between.
    const worker = workers.get(microvmId);
    const now = clock.now();
    const decision = decideAcceptance(operation, worker?.record(), directory, now);
    if (decision.kind === 'refuse') {
      return { operationId: operation.id, disposition: 'Refused', error: { code: decision.code, message: decision.message } };
    }
    if (decision.kind === 'repeat') {
      const report = repeatReport(decision.record);
      if (report !== undefined) {
        journal.enqueue(report);
        reporter.reportsQueued();
      }
      return { operationId: operation.id, disposition: 'Accepted' };
    }
    const { superseded } = decision;
    journal.saveMicroVM(decision.record, superseded === undefined ? [] : [endUnfinished(superseded, 'Dropped', executionId(entropy.uuid()), now)]);
    await faults.reach('journal.accept:after');
    await pruneSecrets(decision.record);
    if (superseded !== undefined) reporter.reportsQueued();
    if (worker === undefined) add(decision.record).wake();
    else {
      const isAnew = worker.record().isTombstone;
      worker.take(decision.record);
      if (isAnew) onWorker(worker);
    }
    forgetOldest();
    return { operationId: operation.id, disposition: 'Accepted' };
  }

  /** Durable before the operation is: an accepted one boots without a connection. Null when nothing stands against it. */
  async function keepSecrets(operation: Operation, sent: readonly SecretValue[], directory: DirectoryIdentity | null): Promise<Receipt | null> {
    const { microvmId, desired } = operation;
    if (desired?.secrets === undefined || decideAcceptance(operation, workers.get(microvmId)?.record(), directory, clock.now()).kind !== 'accept') return null;
    const refused = (message: string): Receipt => ({ operationId: operation.id, disposition: 'Refused', error: { code: 'SECRET_UNAVAILABLE', message } });
    const keeping = decideKeeping(desired, sent, secrets.load(microvmId));
    if (keeping.kind === 'missing') return refused(`the value ${keeping.key.key} of the Secret ${keeping.key.name} did not come with the operation`);
    const { secrets: kept } = keeping;
    if (kept === null) return null;
    try {
      await around(faults, 'secrets.keep', () => secrets.save(microvmId, kept));
      return null;
    } catch (error) {
      if (isAppError(error) && error.code !== 'JOURNAL_FAILED') return refused(error.message);
      throw error;
    }
  }

  /** Best effort: what is left over is pruned with the next operation, and goes with the microVM. */
  async function pruneSecrets(record: MicroVMRecord): Promise<void> {
    const rest = decidePruning(record, secrets.load(record.microvmId));
    if (rest === null) return;
    try {
      await around(faults, 'secrets.keep', () => secrets.save(record.microvmId, rest));
    } catch (error) {
      if (!isAppError(error) || error.code === 'JOURNAL_FAILED') throw error;
      deps.logger.warn({ microvmId: record.microvmId, code: error.code, error: error.message }, 'values of Secrets that are not needed any more stay for now');
    }
  }

  /** Of microVMs that nothing here knows any more: the agent died between the values and the operation, which did not come again. */
  async function sweepSecrets(): Promise<void> {
    for (const microvmId of secrets.list()) {
      const record = workers.get(microvmId)?.record();
      if (record?.isTombstone === false || (await directories.look(microvmId)).exists) continue;
      secrets.save(microvmId, []);
    }
  }

  /** Tombstones beyond the bound go, the oldest first, as they do in the journal. */
  function forgetOldest(): void {
    const tombstones = [...workers.values()].filter((worker) => worker.record().isTombstone);
    for (const worker of tombstones.slice(0, Math.max(0, tombstones.length - tombstonesMax))) workers.delete(worker.record().microvmId);
  }

  async function cancel(operationId: OperationId): Promise<Receipt> {
    const worker = [...workers.values()].find((candidate) => candidate.record().operation?.id === operationId);
    const decision = decideCancellation(worker?.record(), operationId);
    if (worker === undefined || decision.kind === 'tooLate') return { operationId, disposition: 'TooLate' };
    journal.saveMicroVM(decision.record, [endUnfinished(decision.operation, 'Dropped', executionId(entropy.uuid()), clock.now())]);
    reporter.reportsQueued();
    worker.take(decision.record);
    return { operationId, disposition: 'Dropped' };
  }

  async function known(): Promise<readonly KnownMicroVM[]> {
    // What exists comes first, in case that not all fits.
    const inOrder = [...workers.values()].sort((a, b) => Number(a.record().isTombstone) - Number(b.record().isTombstone));
    const inJournal = inOrder.map((worker) => {
      const { microvmId, epoch, revision } = worker.record();
      return { microvmId, epoch, revision, isLive: worker.isLive(), isOrphan: false };
    });
    return [...inJournal, ...(await orphans())].slice(0, knownMax);
  }

  async function orphans(): Promise<readonly KnownMicroVM[]> {
    const found: KnownMicroVM[] = [];
    for (const microvmId of await directories.list()) {
      if (workers.has(microvmId)) continue;
      const { identity } = await directories.look(microvmId);
      found.push({ microvmId, epoch: fenceOf(identity).epoch, revision: fenceOf(identity).revision, isLive: await isOrphanLive(microvmId), isOrphan: true });
    }
    return found;
  }

  /** One that can't be looked at in time counts as live: nobody may take it for gone. */
  async function isOrphanLive(microvmId: MicroVMId): Promise<boolean> {
    const signal = AbortSignal.timeout(orphanLookMs);
    try {
      return (await deps.hypervisor.observe(directories.path(microvmId), signal)).kind === 'live';
    } catch (error) {
      if (!signal.aborted && !isAppError(error)) throw error;
      return true;
    }
  }

  return {
    async start() {
      await sweeper.start();
      for (const record of journal.loadMicroVMs()) {
        const worker = add(record);
        if (!record.isTombstone) worker.wake();
      }
      await sweepSecrets();
    },
    async accept(operation, sent = []) {
      if (isTooMany(workers, operation.microvmId)) {
        const error = new AppError('HOST_FULL', `the host keeps at most ${microvmsMax} microVMs`);
        return { operationId: operation.id, disposition: 'Refused', error: { code: error.code, message: error.message } };
      }
      // What is accepted must be carried out and written down; a deletion and a stop give back more than they need.
      if (journal.isSpaceLow() && operation.kind !== 'Delete' && operation.kind !== 'Stop' && !journal.regainSpace()) {
        return { operationId: operation.id, disposition: 'Refused', error: { code: 'JOURNAL_FAILED', message: spaceProblem } };
      }
      // One after another: what is kept is decided by what was accepted last.
      return accepting.run(() => accept(operation, sent));
    },
    cancel,
    known,
    workers: () => workers.values(),
    onWorker(callback) {
      onWorker = callback;
      for (const worker of workers.values()) callback(worker);
    },
    async stop() {
      await Promise.all([sweeper.stop(), ...[...workers.values()].map((worker) => worker.stop())]);
    },
  };
}

const orphanLookMs = 5_000;
/** The most that a hello may name. */
const knownMax = 4096;
/** Bounds memory and the hello; far above what one machine can run. Tombstones do not count. */
const microvmsMax = 2048;

function isTooMany(workers: ReadonlyMap<MicroVMId, MicroVMWorker>, microvmId: MicroVMId): boolean {
  if (workers.has(microvmId) || workers.size < microvmsMax) return false;
  return [...workers.values()].filter((worker) => !worker.record().isTombstone).length >= microvmsMax;
}

function fenceOf(identity: DirectoryIdentity | null): { epoch: number; revision: number } {
  return identity === null ? { epoch: 0, revision: 0 } : { epoch: identity.epoch, revision: identity.revision };
}
