/**
 * Ships the serial logs: reads each file from the first byte that the control plane has not stored,
 * and journals an offset only when it was acknowledged. File notifications wake it; at rest it does
 * nothing. The VMM truncates the file at every boot, so a stream is (microVM, incarnation).
 *
 * What is lost, and said as a gap: bytes of a boot that were there at a look at the file and not read
 * before the next boot truncated it, and with a long absence everything but the last
 * {@link backlogMax} bytes, which is more than what log-trimmer.ts leaves of older ones. Bytes that were written and truncated between two looks, or while no agent
 * ran, are lost without a trace but the number of the next boot.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import type { ObservedState } from '#api/model/microvm.ts';
import { isAppError } from '#api/model/error-codes.ts';
import { backlogMax, serialLogBounds } from '../domain/log-bounds.ts';
import { retryDelayMs } from '../domain/retry-delay.ts';
import type { Clock, Entropy } from '../ports/clock.ts';
import type { ControlSession, LogSession } from '../ports/control-plane.ts';
import type { Journal, LogOffset } from '../ports/journal.ts';
import type { LogFiles } from '../ports/log-files.ts';
import type { Logger } from '../ports/logger.ts';
import type { MicroVMWorker } from './microvm-worker.ts';

export interface LogShipper {
  use(session: ControlSession | undefined): void;
  /** A worker whose log is to be shipped. */
  follow(worker: MicroVMWorker): void;
  /** The state of a microVM was looked at: its file may exist from now on, or no longer. */
  noticed(microvmId: MicroVMId, state: ObservedState): void;
  stop(): void;
}

/** Largest chunk that the wire allows, bytes. */
const chunkMax = 65_536;
/** Chunks in flight without an acknowledgement, over all microVMs; 4 MiB. */
const unackedMax = 64;
/** Output within this time goes into one chunk, milliseconds. */
const gatherMs = 50;
/** Boots whose size is remembered. */
const sizesMax = 4;

interface Tail {
  readonly worker: MicroVMWorker;
  /** Next byte to send. */
  incarnation: number;
  offset: number;
  isWanted: boolean;
  /** Largest size of the file that was seen, of the last boots. */
  readonly sizes: Map<number, number>;
  stopWatching: (() => void) | null;
  /** Of the file that is watched; empty before the first time. */
  watched: string;
}

export function createLogShipper(deps: {
  readonly journal: Journal;
  readonly files: LogFiles;
  readonly serialLogOf: (microvmId: MicroVMId) => string;
  /** Told whenever the size of a serial log was looked at. */
  readonly onSize: (path: string, sizeBytes: number) => void;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly logger: Logger;
  readonly onFatal: (error: unknown) => void;
}): LogShipper {
  const { journal, files, clock, logger } = deps;
  const tails = new Map<MicroVMId, Tail>();
  let session: ControlSession | undefined;
  let logs: LogSession | undefined;
  let unacked = 0;
  let failures = 0;
  let isPumping = false;
  let cancelGather: (() => void) | undefined;
  let cancelReopen = (): void => {};

  function wake(tail: Tail): void {
    tail.isWanted = true;
    if (isPumping || cancelGather !== undefined) return;
    cancelGather = clock.after(gatherMs, () => {
      cancelGather = undefined;
      if (logs === undefined) noteSizes().catch(deps.onFatal);
      else pump();
    });
  }

  /** Nobody takes the bytes now; how many there were tells later what a boot took away. */
  async function noteSizes(): Promise<void> {
    for (const tail of tails.values()) {
      if (!tail.isWanted) continue;
      const { microvmId, run } = tail.worker.record();
      const path = deps.serialLogOf(microvmId);
      const size = await files.size(path);
      if (size !== null) deps.onSize(path, size);
      if (size !== null && run.incarnation === tail.worker.record().run.incarnation) noteSize(tail, run.incarnation, size);
    }
  }

  function noteSize(tail: Tail, incarnation: number, size: number): void {
    tail.sizes.set(incarnation, Math.max(size, tail.sizes.get(incarnation) ?? 0));
    const [oldest] = tail.sizes.keys();
    if (tail.sizes.size > sizesMax && oldest !== undefined) tail.sizes.delete(oldest);
  }

  function pump(): void {
    const target = logs;
    if (target === undefined || isPumping) return;
    isPumping = true;
    drain(target).then(
      () => {
        isPumping = false;
        // Woken while another file was read: nobody else would look again.
        if (unacked < unackedMax && [...tails.values()].some((tail) => tail.isWanted)) pump();
      },
      (error: unknown) => {
        isPumping = false;
        // The reader of the acknowledgements sees the same end and opens anew.
        if (!isAppError(error) || error.code === 'JOURNAL_FAILED') deps.onFatal(error);
        else if (logs !== target) pump(); // A newer stream was opened meanwhile and found this one at work.
      },
    );
  }

  /** One chunk of each file in turn, so that a talkative guest does not silence the others. */
  async function drain(target: LogSession): Promise<void> {
    for (let isMore = true; isMore && logs === target && unacked < unackedMax; ) {
      isMore = false;
      for (const tail of tails.values()) {
        if (!tail.isWanted || unacked >= unackedMax || logs !== target) continue;
        const chunk = await readNext(tail, target);
        if (chunk === undefined) continue;
        unacked += 1;
        await target.send(chunk);
        isMore = true;
      }
    }
  }

  async function readNext(tail: Tail, target: LogSession) {
    const { microvmId, run } = tail.worker.record();
    // Before the look, so that a change which comes meanwhile is looked at again.
    tail.isWanted = false;
    if (run.incarnation === 0) return undefined;
    while (run.incarnation !== tail.incarnation) {
      const { incarnation, offset } = tail;
      const lost = (tail.sizes.get(incarnation) ?? 0) - offset;
      // The next boot of which something was seen; the one that runs, at the latest.
      tail.incarnation = Math.min(run.incarnation, ...[...tail.sizes.keys()].filter((boot) => boot > incarnation));
      tail.offset = 0;
      if (lost > 0) {
        tail.isWanted = true;
        return { microvmId, incarnation, offset: offset + lost, data: new Uint8Array(), gapBytes: lost, readAtMs: clock.now().wallMs };
      }
    }
    const path = deps.serialLogOf(microvmId);
    const size = await files.size(path);
    if (size !== null) deps.onSize(path, size);
    // Smaller than what was read: truncated by a boot whose number is not known yet.
    if (size !== null && run.incarnation === tail.worker.record().run.incarnation) noteSize(tail, run.incarnation, size);
    if (size === null || size <= tail.offset) return undefined;
    const gapBytes = Math.max(0, size - tail.offset - backlogMax);
    const offset = tail.offset + gapBytes;
    const data = await files.read(path, offset, chunkMax);
    if (logs !== target) {
      // Rewound for a newer stream while the file was read: what was read here is not sent, so it is not behind us.
      tail.isWanted = true;
      return undefined;
    }
    if (data.length === 0) return undefined;
    tail.isWanted = true;
    // What is not kept may have been freed while it was read: the next look counts it as a gap.
    if (size - offset > backlogMax / 2 && ((await files.size(path)) ?? 0) - offset > serialLogBounds.tailBytes) return undefined;
    tail.offset = offset + data.length;
    return { microvmId, incarnation: tail.incarnation, offset, data, gapBytes, readAtMs: clock.now().wallMs };
  }

  async function readAcks(target: LogSession): Promise<void> {
    for await (const ack of target.acks) {
      unacked = Math.max(0, unacked - 1);
      failures = 0;
      acknowledge(ack.microvmId, { incarnation: ack.incarnation, offset: ack.nextOffset });
      if ([...tails.values()].some((tail) => tail.isWanted)) pump();
    }
  }

  /** Offsets are journaled when the stream of chunks pauses, not for each chunk. */
  function acknowledge(microvmId: MicroVMId, stored: LogOffset): void {
    const tail = tails.get(microvmId);
    if (tail === undefined || tail.worker.record().isTombstone) return;
    if (tail.incarnation === stored.incarnation && stored.offset > tail.offset) tail.offset = stored.offset;
    if (unacked === 0 || stored.offset % (16 * chunkMax) === 0) journal.saveLogOffset(microvmId, stored);
  }

  function open(): void {
    if (session === undefined) return;
    const opened = session.openLogs();
    logs = opened;
    unacked = 0;
    for (const tail of tails.values()) rewind(tail);
    readAcks(opened).then(
      () => closed(opened, undefined),
      (error: unknown) => closed(opened, error),
    );
    pump();
  }

  function closed(ended: LogSession, error: unknown): void {
    if (error !== undefined && (!isAppError(error) || error.code === 'JOURNAL_FAILED')) return deps.onFatal(error);
    if (logs !== ended) return;
    logs = undefined;
    if (isAppError(error)) logger.debug({ code: error.code }, 'the log stream ended');
    failures += 1;
    cancelReopen = clock.after(retryDelayMs(failures, deps.entropy.random()), open);
  }

  /** Back to the first byte that is not stored. */
  function rewind(tail: Tail): void {
    const { microvmId } = tail.worker.record();
    const stored = journal.loadLogOffset(microvmId);
    tail.incarnation = stored?.incarnation ?? 0;
    tail.offset = stored?.offset ?? 0;
    tail.isWanted = true;
  }

  return {
    use(next) {
      session = next;
      cancelReopen();
      logs?.close();
      logs = undefined;
      if (next !== undefined) open();
    },
    follow(worker) {
      const tail: Tail = { worker, incarnation: 0, offset: 0, isWanted: true, sizes: new Map(), stopWatching: null, watched: '' };
      rewind(tail);
      tails.set(worker.record().microvmId, tail);
    },
    noticed(microvmId, state) {
      const tail = tails.get(microvmId);
      if (tail === undefined) return;
      if (state === 'absent') {
        tail.stopWatching?.();
        tails.delete(microvmId);
        return;
      }
      const path = deps.serialLogOf(microvmId);
      // A VMM that an older agent started has its log in another place until it is started anew.
      if (tail.watched !== path) {
        tail.stopWatching?.();
        tail.stopWatching = null;
      }
      tail.stopWatching ??= files.watch(path, () => wake(tail));
      tail.watched = path;
      wake(tail);
    },
    stop() {
      cancelGather?.();
      cancelReopen();
      for (const tail of tails.values()) tail.stopWatching?.();
      logs?.close();
    },
  };
}
