import fc from 'fast-check';
import { expect, it } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import type { LogChunk } from '#controller/ports/log-store.ts';
import { logRowBytesMax, planAppend, streamKey } from './log-append.ts';

const microvm = microVMId('00000000-0000-4000-8000-000000000001');
const bound = new Set<string>([microvm]);

function chunk(offset: number, text: string, incarnation = 1): LogChunk {
  return { microvmId: microvm, source: 'serial', incarnation, offset, data: Buffer.from(text), gapBytes: 0 };
}

function rowsOf(chunks: readonly LogChunk[], stored: ReadonlyMap<string, number> = new Map()) {
  return planAppend(chunks, bound, stored).rows.map((row) => ({ incarnation: row.incarnation, offset: row.offset, gap: row.gapBytes, text: Buffer.concat(row.parts).toString() }));
}

it('puts chunks that continue each other into one row, and others into rows of their own', () => {
  expect(rowsOf([chunk(0, 'ab'), chunk(2, 'cd'), chunk(10, 'late'), chunk(0, 'boot', 2)])).toEqual([
    { incarnation: 1, offset: 0, gap: 0, text: 'abcd' },
    { incarnation: 1, offset: 10, gap: 6, text: 'late' },
    { incarnation: 2, offset: 0, gap: 0, text: 'boot' },
  ]);
});

it('takes of a chunk what is not stored, and nothing of one that is', () => {
  const stored = new Map([[streamKey(chunk(0, '')), 3]]);
  expect(rowsOf([chunk(0, 'abc'), chunk(1, 'bcdef'), chunk(0, 'abcdef')], stored)).toEqual([{ incarnation: 1, offset: 3, gap: 0, text: 'def' }]);
  expect(planAppend([chunk(0, 'ab')], bound, stored)).toMatchObject({ rows: [], nextOffsets: [3] });
});

it('records bytes that the host knows to be gone by a chunk without bytes', () => {
  expect(rowsOf([chunk(0, 'abc'), chunk(9, '')])).toEqual([{ incarnation: 1, offset: 0, gap: 0, text: 'abc' }, { incarnation: 1, offset: 9, gap: 6, text: '' }]);
});

it('drops and acknowledges what belongs to no microVM of the host', () => {
  expect(planAppend([chunk(5, 'abc')], new Set(), new Map())).toMatchObject({ rows: [], nextOffsets: [8] });
});

it('gives back the log whatever comes twice, overlaps or is cut elsewhere, in any batches', () => {
  const text = Array.from({ length: 200 }, (_, line) => `line ${line}\n`).join('');
  const pieces = fc.array(fc.tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 300 }), fc.integer({ min: 1, max: 6 })), { maxLength: 60 });
  fc.assert(
    fc.property(pieces, (steps) => {
      const stored = new Map<string, number>();
      let log = '';
      let position = 0;
      const sent: { readonly chunk: LogChunk; readonly batch: number }[] = [];
      for (const [back, length, batch] of [...steps, [0, text.length, 1] as const]) {
        const from = Math.max(0, position - back);
        sent.push({ chunk: chunk(from, text.slice(from, Math.max(position, from + length))), batch });
        position = Math.max(position, Math.min(text.length, from + length));
      }
      while (sent.length > 0) {
        const plan = planAppend(sent.splice(0, sent[0]?.batch ?? 1).map((each) => each.chunk), bound, stored);
        for (const row of plan.rows) {
          expect(row.offset).toBe(log.length);
          expect(row.gapBytes).toBe(0);
          log += Buffer.concat(row.parts).toString();
        }
        for (const [key, { nextOffset }] of plan.cursors) stored.set(key, nextOffset);
      }
      expect(log).toBe(text);
    }),
  );
});

it('keeps a row below its limit', () => {
  const big = 'x'.repeat(logRowBytesMax - 1);
  expect(rowsOf([chunk(0, big), chunk(big.length, 'y'), chunk(big.length + 1, 'z')]).map((row) => row.text.length)).toEqual([logRowBytesMax, 1]);
});
