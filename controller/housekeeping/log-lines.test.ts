import fc from 'fast-check';
import { expect, it } from 'vitest';
import { microVMId, tenantId } from '#api/model/ids.ts';
import type { ExportedRow } from '../ports/log-sink.ts';
import { cutLines, lineBytesMax } from './log-lines.ts';

const tenant = tenantId('00000000-0000-4000-8000-000000000001');

function row(offset: number, text: string, gapBytes = 0): ExportedRow {
  return {
    position: { xact: '1', id: 1 }, namespace: 'shop', siteName: 'store-1', microvmId: microVMId('00000000-0000-4000-8000-000000000002'), microvmName: 'web',
    source: 'serial', incarnation: 1, offset, gapBytes, data: Buffer.from(text), receivedAtMs: 5,
  };
}

it('gives the same lines with the same offsets however the log is cut into rows', () => {
  const text = 'one\r\n\ntwo äö\nthree three\nunfinished';
  const whole = cutLines(tenant, row(0, text), new Uint8Array());
  expect(whole.lines.map((line) => [line.offset, line.text])).toEqual([[0, 'one'], [5, ''], [6, 'two äö'], [15, 'three three']]);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 10 })), (sizes) => {
      const bytes = Buffer.from(text);
      const lines: [number, string][] = [];
      let carry: Uint8Array = new Uint8Array();
      let offset = 0;
      for (const size of [...sizes, bytes.length]) {
        const data = bytes.subarray(offset, offset + size);
        const cut = cutLines(tenant, { ...row(offset, ''), data }, carry);
        lines.push(...cut.lines.map((line): [number, string] => [line.offset, line.text]));
        carry = cut.carry;
        offset += data.length;
      }
      expect(lines).toEqual(whole.lines.map((line) => [line.offset, line.text]));
      expect(Buffer.from(carry).toString()).toBe('unfinished');
    }),
  );
});

it('says what was lost, after the line that the loss cut', () => {
  const cut = cutLines(tenant, row(100, 'rest\nnext', 90), Buffer.from('broken'));
  expect(cut.lines.map((line) => [line.offset, line.text, line.gapBytes])).toEqual([[4, 'broken', 0], [100, '90 bytes were lost here', 90], [100, 'rest', 0]]);
  expect(Buffer.from(cut.carry).toString()).toBe('next');
});

it('cuts a line that is too long, and carries little', () => {
  const cut = cutLines(tenant, row(0, 'x'.repeat(2 * lineBytesMax + 5)), new Uint8Array());
  expect(cut.lines.map((line) => [line.offset, line.text.length])).toEqual([[0, lineBytesMax], [lineBytesMax, lineBytesMax]]);
  expect(cut.carry.byteLength).toBe(5);
});
