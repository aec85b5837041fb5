/**
 * Keeps the line to every interactive serial console, writes what comes into the file that logs are
 * shipped from, and lets people in: many who read, one who types. The guest and its VMM never wait for
 * any of them: the line is always read, and who is slow loses output, not the guest.
 *
 * The file belongs to one boot: it is emptied when the first byte of another one is written. A line that
 * begins in the middle of a boot (the agent was away) puts a mark into the file, since the VMM keeps only
 * its newest 1 MiB meanwhile and does not say what it dropped (measured on cloud-hypervisor v54).
 */
import { AppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { MicroVMRecord } from '../domain/microvm-record.ts';
import type { SeenVmm } from '../domain/observed-state.ts';
import type { Clock } from '../ports/clock.ts';
import type { ConsoleEnd, ConsoleRequest, ConsoleSession, SerialLine, SerialLines, SerialSpool } from '../ports/consoles.ts';
import type { Logger } from '../ports/logger.ts';

export interface ConsoleKeeper {
  /** What a look at the microVM found. `look` asks for another one. */
  noticed(record: MicroVMRecord, vmm: SeenVmm, look: () => void): void;
  /** Waits for a line that is being made. @throws CONSOLE_UNAVAILABLE, CONSOLE_IN_USE */
  open(microvmId: MicroVMId, request: ConsoleRequest): Promise<ConsoleSession>;
  /** Ends the line and all sessions of one microVM. */
  forget(microvmId: MicroVMId): void;
  /** Resolves when nothing is written any more. */
  stop(): Promise<void>;
}

export const awayMark = '\r\n[nkudo-edge: the console was not read for a while; of that time there is the newest 1 MiB at most]\r\n';
const lostMark = '\r\n[nkudo-edge: output was left out here, this reader is too slow]\r\n';
/** What a slow reader may be behind, bytes. */
const behindBytesMax = 256 * 1024;
const readersMax = 8;
/** Of what was printed before, bytes. */
const historyBytesMax = 64 * 1024;
/** After the end of a line the next boot listens within milliseconds; the last delay is repeated by looks only. */
const reconnectDelaysMs = [10, 50, 250, 1_000, 2_000] as const;
/** How long a new line waits to learn that it belongs to another boot. */
const bootNewsMs = 1_000;

interface Console {
  readonly microvmId: MicroVMId;
  readonly ending: AbortController;
  readonly sessions: Set<Session>;
  boot: number;
  line: SerialLine | null;
  hadLine: boolean;
  readonly firstLine: PromiseWithResolvers<void>;
  /** What is printed goes to file and sessions in one piece, and a session begins between two of them. */
  turn: Promise<unknown>;
  working: Promise<void> | null;
  look: () => void;
  /** Resolves the wait for another boot. */
  onBoot: () => void;
}

interface Session {
  readonly types: boolean;
  readonly by: string;
  push(bytes: Uint8Array): void;
  end(why: ConsoleEnd): void;
}

export function createConsoleKeeper(deps: {
  readonly lines: SerialLines;
  readonly spool: SerialSpool;
  readonly pathsOf: (microvmId: MicroVMId) => { readonly serialLog: string; readonly serialSocket: string };
  readonly clock: Clock;
  readonly logger: Logger;
}): ConsoleKeeper {
  const { lines, spool, clock, logger } = deps;
  const consoles = new Map<MicroVMId, Console>();
  const working = new Set<Promise<void>>();

  function noticed(record: MicroVMRecord, vmm: SeenVmm, look: () => void): void {
    const { microvmId, desired, run } = record;
    // Whether this very VMM was given a socket is for the socket to say.
    const hasConsole = vmm.kind === 'live' && vmm.api !== 'none' && (desired?.serialInteractive === true || consoles.has(microvmId));
    if (!hasConsole) return forget(microvmId);
    const known = consoles.get(microvmId);
    const seen: Console = known ?? { microvmId, ending: new AbortController(), sessions: new Set(), boot: run.incarnation, line: null, hadLine: false, firstLine: Promise.withResolvers(), turn: Promise.resolve(), working: null, look, onBoot: () => {} };
    consoles.set(microvmId, seen);
    seen.look = look;
    if (seen.boot !== run.incarnation) {
      seen.boot = run.incarnation;
      seen.onBoot();
    }
    if (seen.working !== null) return;
    const work = keepLine(seen)
      .catch((error: unknown) => logger.warn({ err: error, microvmId }, 'the console can not be kept'))
      .finally(() => {
        working.delete(work);
        seen.working = null;
      });
    seen.working = work;
    working.add(work);
  }

  /** Until the VMM is gone or listens no more. */
  async function keepLine(to: Console): Promise<void> {
    let failures = 0;
    while (!to.ending.signal.aborted) {
      const line = await lines.connect(deps.pathsOf(to.microvmId).serialSocket);
      if (to.ending.signal.aborted) return line?.close();
      if (line === null) {
        const delayMs = reconnectDelaysMs[failures];
        if (delayMs === undefined || !to.hadLine) return;
        failures += 1;
        await pause(delayMs, to.ending.signal);
        continue;
      }
      failures = 0;
      to.line = line;
      try {
        await copy(to, line);
      } finally {
        to.line = null;
        line.close();
      }
    }
  }

  async function copy(to: Console, line: SerialLine): Promise<void> {
    const { serialLog } = deps.pathsOf(to.microvmId);
    const bootAtConnect = to.boot;
    // The line before ended: mostly the guest was reset, and the number of its next boot is about to be known.
    if (to.hadLine && (await spool.bootOf(serialLog)) === bootAtConnect) await bootNews(to, bootAtConnect);
    to.hadLine = true;
    to.firstLine.resolve();
    if ((await spool.bootOf(serialLog)) === to.boot) await write(to, serialLog, Buffer.from(awayMark, 'latin1'));
    for await (const bytes of line.output) {
      await write(to, serialLog, bytes);
      if (to.ending.signal.aborted) return;
    }
  }

  function write(to: Console, serialLog: string, bytes: Uint8Array): Promise<void> {
    return inTurn(to, async () => {
      for (const session of to.sessions) session.push(bytes);
      try {
        if ((await spool.bootOf(serialLog)) !== to.boot) await spool.begin(serialLog, to.boot);
        await spool.append(serialLog, bytes);
      } catch (error) {
        // A full disk costs the log, not the console.
        logger.warn({ err: error, microvmId: to.microvmId }, 'output of a console was lost');
      }
    });
  }

  function inTurn<Value>(to: Console, work: () => Promise<Value>): Promise<Value> {
    const result = to.turn.then(work);
    to.turn = result.catch(() => undefined);
    return result;
  }

  async function bootNews(to: Console, boot: number): Promise<void> {
    if (to.boot !== boot) return;
    const wait = new AbortController();
    to.onBoot = () => wait.abort();
    to.look();
    await pause(bootNewsMs, AbortSignal.any([wait.signal, to.ending.signal]));
    to.onBoot = () => {};
  }

  function pause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const cancel = clock.after(ms, resolve);
      signal.addEventListener('abort', () => (cancel(), resolve()), { once: true });
    });
  }

  async function open(microvmId: MicroVMId, request: ConsoleRequest): Promise<ConsoleSession> {
    const to = consoles.get(microvmId);
    // A guest that has just been booted has its line in a moment.
    if (to !== undefined && !to.hadLine) await Promise.race([to.firstLine.promise, to.working]);
    if (to === undefined || !to.hadLine) throw unavailable();
    return inTurn(to, async () => {
      const history = await historyOf(to, request.historyBytes ?? 0);
      // From here on nothing is awaited.
      if (consoles.get(microvmId) !== to) throw unavailable();
      return enter(to, request, history);
    });
  }

  function enter(to: Console, { types, takesOver = false, by = 'somebody else' }: ConsoleRequest, history: Uint8Array): ConsoleSession {
    const typing = [...to.sessions].find((session) => session.types);
    if (types && typing !== undefined) {
      if (!takesOver) throw new AppError('CONSOLE_IN_USE', `${typing.by} types at this console`);
      typing.end({ reason: 'takenOver', by });
    }
    if (to.sessions.size >= readersMax) throw new AppError('CONSOLE_IN_USE', `${readersMax} sessions read this console already`);
    const ended = Promise.withResolvers<ConsoleEnd>();
    const queue = createQueue((why) => {
      to.sessions.delete(session);
      ended.resolve(why);
    });
    const session: Session = { types, by, push: queue.push, end: queue.end };
    to.sessions.add(session);
    return {
      history,
      ended: ended.promise,
      output: queue.output,
      write: (bytes) => types && to.sessions.has(session) && to.line !== null && to.line.write(bytes),
      close: () => queue.end({ reason: 'closed' }),
    };
  }

  async function historyOf(to: Console, bytes: number): Promise<Uint8Array> {
    if (bytes <= 0) return new Uint8Array();
    try {
      return await spool.tail(deps.pathsOf(to.microvmId).serialLog, Math.min(bytes, historyBytesMax));
    } catch (error) {
      logger.warn({ err: error, microvmId: to.microvmId }, 'what a console printed before can not be read');
      return new Uint8Array();
    }
  }

  function forget(microvmId: MicroVMId): void {
    const to = consoles.get(microvmId);
    if (to === undefined) return;
    consoles.delete(microvmId);
    to.ending.abort();
    to.line?.close();
    for (const session of [...to.sessions]) session.end({ reason: 'gone' });
  }

  return {
    noticed,
    open,
    forget,
    async stop() {
      for (const microvmId of [...consoles.keys()]) forget(microvmId);
      await Promise.all(working);
    },
  };
}

function unavailable(): AppError {
  return new AppError('CONSOLE_UNAVAILABLE', 'the guest does not run with an interactive console');
}

/** What one reader has not taken yet. */
function createQueue(onEnd: (why: ConsoleEnd) => void): { readonly output: AsyncIterable<Uint8Array>; push(bytes: Uint8Array): void; end(why: ConsoleEnd): void } {
  const pieces: Uint8Array[] = [];
  let bytesBehind = 0;
  let isEnded = false;
  let wake = (): void => {};

  function push(bytes: Uint8Array): void {
    if (isEnded) return;
    if (bytesBehind + bytes.length > behindBytesMax) {
      pieces.length = 0;
      pieces.push(Buffer.from(lostMark, 'latin1'));
      bytesBehind = lostMark.length;
    }
    pieces.push(bytes);
    bytesBehind += bytes.length;
    wake();
  }

  function end(why: ConsoleEnd): void {
    if (isEnded) return;
    isEnded = true;
    onEnd(why);
    wake();
  }

  async function* output(): AsyncGenerator<Uint8Array> {
    try {
      for (;;) {
        const piece = pieces.shift();
        if (piece !== undefined) {
          bytesBehind -= piece.length;
          yield piece;
        } else if (isEnded) return;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      end({ reason: 'closed' });
    }
  }

  return { output: output(), push, end };
}
