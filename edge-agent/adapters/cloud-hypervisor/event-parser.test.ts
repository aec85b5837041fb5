import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createEventParser } from './event-parser.ts';

const record = (source: string, event: string, properties: Record<string, string> | null, nanos = 390_110) =>
  `${JSON.stringify({ timestamp: { secs: 1, nanos }, source, event, properties }, null, 2)}\n\n`;

test('reads a record with its time, its properties and the offset behind it', () => {
  const text = record('vm', 'device-removed', { id: 'hp1', bdf: '0000:00:03.0' });
  const [event] = createEventParser(100).push(Buffer.from(text));
  expect(event).toEqual({ source: 'vm', event: 'device-removed', properties: { id: 'hp1', bdf: '0000:00:03.0' }, sinceStartMs: 1000.39011, endOffset: 100 + text.trimEnd().length });
});

test('cuts records alike, however the stream is cut into chunks', () => {
  const text = fc.string({ unit: 'grapheme', maxLength: 8 });
  fc.assert(
    fc.property(fc.array(fc.record({ event: text, id: text }), { maxLength: 6 }), fc.array(fc.nat(), { maxLength: 8 }), (events, cuts) => {
      const stream = Buffer.from(events.map(({ event, id }) => record('vm', event, { id })).join(''));
      const parser = createEventParser(0);
      const bounds = [0, ...cuts.map((cut) => cut % (stream.length + 1)), stream.length].toSorted((one, other) => one - other);
      const read = bounds.flatMap((bound, index) => parser.push(stream.subarray(bounds[index - 1] ?? 0, bound)));
      expect(read.map(({ event, properties }) => ({ event, id: properties['id'] }))).toEqual(events);
      // Each offset is a place to go on from.
      for (const [index, { endOffset }] of read.entries()) {
        const rest = createEventParser(endOffset).push(stream.subarray(endOffset));
        expect(rest).toEqual(read.slice(index + 1));
      }
    }),
  );
});

test('keeps a record without properties and skips one that is no event', () => {
  const parser = createEventParser(0);
  expect(parser.push(Buffer.from(record('vmm', 'starting', null)))[0]?.properties).toEqual({});
  expect(parser.push(Buffer.from('{"other": {"nested": "}"}}'))).toEqual([]);
});

test('refuses a record without an end', () => {
  expect(() => createEventParser(0).push(Buffer.from(`{"a": "${'x'.repeat(70_000)}`))).toThrow('longer than its limit');
});
