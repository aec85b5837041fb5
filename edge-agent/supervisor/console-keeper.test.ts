import { describe, expect, test } from 'vitest';
import { testDesired, testMicroVMId, testRecord } from '#test/builders/edge-microvm.ts';
import { createManualTime, settle } from '#test/fakes/manual-time.ts';
import { initialRun, type MicroVMRecord } from '../domain/microvm-record.ts';
import type { SeenVmm } from '../domain/observed-state.ts';
import type { SerialLine } from '../ports/consoles.ts';
import type { Logger } from '../ports/logger.ts';
import { awayMark, createConsoleKeeper } from './console-keeper.ts';

const silent = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, fatal() {} };
const logger = { ...silent, child: () => logger } as unknown as Logger; // Nobody reads it here.
const live: SeenVmm = { kind: 'live', process: { pid: 1, startTime: '1', bootId: 'b' }, api: 'running' };
const at = (incarnation: number): MicroVMRecord => testRecord({ desired: testDesired({ serialInteractive: true }), run: { ...initialRun, phase: 'started', incarnation } });

/** A guest's line that the test holds the other end of. */
function makeLine() {
  const pieces: Uint8Array[] = [];
  const typed: string[] = [];
  let isClosed = false;
  let isFull = false;
  let wake = (): void => {};
  const line: SerialLine = {
    output: (async function* () {
      for (;;) {
        const piece = pieces.shift();
        if (piece !== undefined) yield piece;
        else if (isClosed) return;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    })(),
    write: (bytes) => !isFull && typed.push(Buffer.from(bytes).toString()) > 0,
    close: () => ((isClosed = true), wake()),
  };
  return { line, typed, fill: () => void (isFull = true), close: line.close, isClosed: () => isClosed, print: async (text: string) => (pieces.push(Buffer.from(text)), wake(), settle()) };
}

function scene(begunIn: number | null = null) {
  const time = createManualTime();
  const waiting: SerialLine[] = [];
  const file = { boot: begunIn, text: begunIn === null ? '' : 'old ' };
  const keeper = createConsoleKeeper({
    lines: { connect: () => Promise.resolve(waiting.shift() ?? null) },
    spool: {
      bootOf: () => Promise.resolve(file.boot),
      begin: async (_path, boot) => void Object.assign(file, { boot, text: '' }),
      append: async (_path, bytes) => void (file.text += Buffer.from(bytes).toString()),
      tail: async (_path, bytesMax) => (await settle(), Buffer.from(file.text.slice(-bytesMax))),
    },
    pathsOf: () => ({ serialLog: 'serial.log', serialSocket: 'serial.sock' }),
    clock: { now: () => ({ wallMs: 1, bootMs: time.nowMs(), bootId: 'b' }), after: (ms, callback) => time.schedule(ms, callback) },
    logger,
  });
  let looks = 0;
  return { keeper, time, file, offer: (line: SerialLine) => void waiting.push(line), see: async (record: MicroVMRecord, vmm: SeenVmm = live) => (keeper.noticed(record, vmm, () => (looks += 1)), settle()), looks: () => looks };
}

const textOf = async (output: AsyncIterable<Uint8Array>): Promise<string> => {
  let text = '';
  for await (const piece of output) text += Buffer.from(piece).toString();
  return text;
};

describe('the keeper of consoles', () => {
  test('writes what a guest prints into the file of its boot, without anybody at the console', async () => {
    const { offer, see, file } = scene(1);
    const guest = makeLine();
    offer(guest.line);
    await see(at(2));
    await guest.print('hello ');
    await guest.print('there');
    expect(file).toEqual({ boot: 2, text: 'hello there' });
  });

  test('goes on in the file of the same boot after it was away, with a mark', async () => {
    const { offer, see, file } = scene(2);
    const guest = makeLine();
    offer(guest.line);
    await see(at(2));
    await guest.print('new');
    expect(file).toEqual({ boot: 2, text: `old ${awayMark}new` });
  });

  test('empties the file at a reset of the guest, once its number is known, and loses nothing of the new boot', async () => {
    const { offer, see, file, looks, time } = scene();
    const first = makeLine();
    offer(first.line);
    await see(at(1));
    await first.print('one');
    const second = makeLine();
    offer(second.line);
    first.close();
    await settle();
    await second.print('two');
    // It asked for a look, and waits for what it finds.
    expect(looks()).toBe(1);
    expect(file).toEqual({ boot: 1, text: 'one' });
    await see(at(2));
    expect(file).toEqual({ boot: 2, text: 'two' });
    // Cut off by somebody else's connection: the boot is the same, so the file goes on.
    const third = makeLine();
    offer(third.line);
    second.close();
    await third.print('three');
    await time.advance(1_000);
    expect(file).toEqual({ boot: 2, text: `two${awayMark}three` });
  });

  test('lets many read and one type, who can be replaced', async () => {
    const { keeper, offer, see } = scene();
    const guest = makeLine();
    offer(guest.line);
    await expect(keeper.open(testMicroVMId, { types: true })).rejects.toMatchObject({ code: 'CONSOLE_UNAVAILABLE' });
    await see(at(1));
    const reader = await keeper.open(testMicroVMId, { types: false });
    const writer = await keeper.open(testMicroVMId, { types: true, by: 'alice' });
    await expect(keeper.open(testMicroVMId, { types: true })).rejects.toMatchObject({ code: 'CONSOLE_IN_USE', message: 'alice types at this console' });
    await guest.print('login: ');
    expect(writer.write(Buffer.from('root\n'))).toBe(true);
    expect(reader.write(Buffer.from('no'))).toBe(false);
    const other = await keeper.open(testMicroVMId, { types: true, takesOver: true, by: 'bob' });
    expect(await textOf(writer.output)).toBe('login: ');
    expect(await writer.ended).toEqual({ reason: 'takenOver', by: 'bob' });
    expect(writer.write(Buffer.from('no'))).toBe(false);
    expect(other.write(Buffer.from('ls\n'))).toBe(true);
    guest.fill();
    expect(other.write(Buffer.from('more'))).toBe(false);
    expect(guest.typed).toEqual(['root\n', 'ls\n']);
    await see(at(1), { kind: 'exited', exit: { reason: 'GuestShutdown' } });
    expect(await textOf(reader.output)).toBe('login: ');
    expect(await reader.ended).toEqual({ reason: 'gone' });
    expect(guest.isClosed()).toBe(true);
  });

  test('never waits for a slow reader: it loses output, the file and the others do not', async () => {
    const { keeper, offer, see, file } = scene();
    const guest = makeLine();
    offer(guest.line);
    await see(at(1));
    const slow = await keeper.open(testMicroVMId, { types: false });
    const piece = 'x'.repeat(64 * 1024);
    for (let count = 0; count < 10; count += 1) await guest.print(piece);
    await guest.print('end');
    expect(file.text.length).toBe(10 * piece.length + 3);
    await keeper.stop();
    const read = await textOf(slow.output);
    expect(read.length).toBeLessThan(5 * piece.length);
    expect(read).toContain('output was left out here');
    expect(read.endsWith('end')).toBe(true);
  });

  test('begins with what was printed before, and neither loses nor repeats what is printed meanwhile', async () => {
    const { keeper, offer, see } = scene();
    const guest = makeLine();
    offer(guest.line);
    await see(at(1));
    await guest.print('one ');
    const opening = keeper.open(testMicroVMId, { types: false, historyBytes: 6 });
    await guest.print('two ');
    const session = await opening;
    await guest.print('three');
    await see(at(1), { kind: 'exited', exit: { reason: 'GuestShutdown' } });
    const history = Buffer.from(session.history).toString();
    expect(`${history}${await textOf(session.output)}`).toBe('one two three');
  });

  test('lets somebody wait for a line that is just being made', async () => {
    const { keeper, offer, see } = scene();
    const guest = makeLine();
    offer(guest.line);
    const seen = see(at(1));
    const session = await keeper.open(testMicroVMId, { types: true });
    expect(session.write(Buffer.from('x'))).toBe(true);
    await seen;
  });

  test('has no line to a guest without such a console, nor a timer', async () => {
    const { keeper, see, time } = scene();
    await see(testRecord({ run: { ...initialRun, phase: 'started', incarnation: 1 } }));
    await see(at(1));
    await expect(keeper.open(testMicroVMId, { types: false })).rejects.toMatchObject({ code: 'CONSOLE_UNAVAILABLE' });
    expect(time.pending()).toBe(0);
  });
});
