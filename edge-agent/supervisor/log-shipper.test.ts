import { expect, it } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import { createMemoryJournal } from '#test/fakes/memory-journal.ts';
import type { ControlSession, LogAck, LogChunk } from '../ports/control-plane.ts';
import { createLogShipper } from './log-shipper.ts';
import type { MicroVMWorker } from './microvm-worker.ts';

const microvm = microVMId('00000000-0000-4000-8000-000000000001');

/** A shipper over one file in memory, with timers that run when the test says so. */
function setUp() {
  let timers: (() => void)[] = [];
  let changed = (): void => {};
  const file = { text: '', incarnation: 1 };
  const sent: LogChunk[] = [];
  let arrived = (): void => {};
  const failures: unknown[] = [];
  const sizes: number[] = [];
  const grown = { by: 0, beforeRead: () => {} };
  const shipper = createLogShipper({
    journal: createMemoryJournal(),
    onSize: (_path, size) => sizes.push(size),
    files: {
      size: () => Promise.resolve(grown.by + file.text.length),
      read: (_path, offset, max) => {
        grown.beforeRead();
        return Promise.resolve(grown.by === 0 ? Buffer.from(file.text.slice(offset, offset + max)) : Buffer.alloc(Math.max(0, Math.min(max, grown.by + file.text.length - offset))));
      },
      watch: (_path, callback) => ((changed = callback), () => {}),
    },
    serialLogOf: () => 'serial.log',
    clock: {
      now: () => ({ wallMs: 1, bootMs: 1, bootId: 'b' }) as never, // Only the wall clock is read.
      after: (_ms, callback) => {
        timers.push(callback);
        return () => void (timers = timers.filter((timer) => timer !== callback));
      },
    },
    entropy: { random: () => 0.5, uuid: () => microvm },
    logger: { debug() {}, info() {}, warn() {}, error() {} } as never, // Nobody reads it.
    onFatal: (error) => failures.push(error),
  });
  const worker = { record: () => ({ microvmId: microvm, run: { incarnation: file.incarnation }, isTombstone: false }) } as unknown as MicroVMWorker; // All that a shipper asks of it.
  const connect = (): void => {
    const acks: LogAck[] = [];
    let wake = (): void => {};
    const session = {
      openLogs: () => ({
        send: async (chunk: LogChunk) => {
          sent.push(chunk);
          acks.push({ microvmId: chunk.microvmId, incarnation: chunk.incarnation, nextOffset: chunk.offset + chunk.data.byteLength });
          wake();
          arrived();
        },
        acks: (async function* () {
          for (;;) {
            while (acks.length === 0) await new Promise<void>((resolve) => (wake = resolve));
            yield* acks.splice(0);
          }
        })(),
        close: () => {},
      }),
    };
    shipper.use(session as unknown as ControlSession); // The shipper opens logs and does nothing else with it.
  };
  return {
    file,
    sizes,
    grown,
    sent,
    failures,
    connect,
    disconnect: () => shipper.use(undefined),
    follow: () => {
      shipper.follow(worker);
      shipper.noticed(microvm, 'running');
    },
    /** The file changed; what follows has happened when it resolves. */
    touch: async () => {
      changed();
      for (let turn = 0; turn < 20; turn += 1) {
        for (const timer of timers.splice(0)) timer();
        await new Promise((resolve) => setImmediate(resolve));
      }
    },
    untilSent: async (count: number) => {
      while (sent.length < count) await new Promise<void>((resolve) => (arrived = resolve));
    },
  };
}

const plain = (chunks: readonly LogChunk[]) => chunks.map(({ incarnation, offset, data, gapBytes }) => [incarnation, offset, Buffer.from(data).toString(), gapBytes]);

it('sends what is new, and says nothing is lost when a boot truncates a file that was read to its end', async () => {
  const { file, sent, connect, follow, touch, untilSent, failures } = setUp();
  file.text = 'first';
  follow();
  connect();
  await untilSent(1);
  file.text = 'boot two';
  file.incarnation = 2;
  await touch();
  expect(plain(sent)).toEqual([[1, 0, 'first', 0], [2, 0, 'boot two', 0]]);
  expect(failures).toEqual([]);
});

it('records as a gap of the earlier boot what was there and not read before the next boot truncated the file', async () => {
  const { file, sent, connect, disconnect, follow, touch, untilSent, failures } = setUp();
  file.text = 'first';
  follow();
  connect();
  await untilSent(1);
  await touch();
  disconnect();
  file.text = 'first and twelve more';
  await touch();
  file.text = 'boot two';
  file.incarnation = 2;
  await touch();
  connect();
  await untilSent(3);
  expect(plain(sent)).toEqual([[1, 0, 'first', 0], [1, 21, '', 16], [2, 0, 'boot two', 0]]);
  expect(failures).toEqual([]);
});

it('records a gap for each boot of which something was there and nothing read, also when several follow each other', async () => {
  const { file, sent, connect, disconnect, follow, touch, untilSent, failures } = setUp();
  file.text = 'first';
  follow();
  connect();
  await untilSent(1);
  await touch();
  disconnect();
  for (const [boot, text] of ['', 'boot two', 'boot three', 'boot 4'].entries()) {
    if (text === '') continue;
    file.text = text;
    file.incarnation = boot + 1;
    await touch();
  }
  connect();
  await untilSent(4);
  expect(plain(sent)).toEqual([[1, 0, 'first', 0], [2, 8, '', 8], [3, 10, '', 10], [4, 0, 'boot 4', 0]]);
  expect(failures).toEqual([]);
});

it('tells how large a log is with every look at it, with and without a connection', async () => {
  const { file, sizes, follow, touch, connect, untilSent } = setUp();
  file.text = 'first';
  follow();
  await touch();
  expect(sizes.splice(0)).toEqual([5]);
  file.text = 'first and more';
  connect();
  await untilSent(1);
  expect(sizes).toContain(14);
});

it('does not send what may have been freed while it was read: it is counted as a gap', async () => {
  const { file, grown, sent, follow, connect, touch, untilSent } = setUp();
  const mebibyte = 2 ** 20;
  file.text = 'the newest';
  grown.by = 40 * mebibyte;
  // The log grows by more than is kept beyond what is sent, between the look at its size and the first reading.
  grown.beforeRead = () => {
    grown.beforeRead = () => {};
    grown.by += 30 * mebibyte;
  };
  follow();
  connect();
  await touch();
  await untilSent(1);
  const [first] = sent;
  expect(first).toMatchObject({ offset: 54 * mebibyte + 10, gapBytes: 54 * mebibyte + 10 });
});
