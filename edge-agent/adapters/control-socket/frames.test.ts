import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createFrameReader, encodeFrames, frameBytesMax } from './frames.ts';

test('frames come out as they went in, however the bytes are cut', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { minLength: 1, maxLength: 8 }), fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }), (contents, cuts) => {
      const bytes = Buffer.concat(contents.map((content) => encodeFrames('output', content)));
      const seen: Uint8Array[] = [];
      const read = createFrameReader((_kind, content) => void seen.push(Uint8Array.from(content)));
      for (let from = 0, index = 0; from < bytes.length; index += 1) {
        const length = cuts[index % cuts.length] ?? 1;
        expect(read(bytes.subarray(from, from + length))).toBe(true);
        from += length;
      }
      expect(seen).toEqual(contents);
    }),
  );
});

test('what is longer than a frame becomes several, what is of an unknown kind is passed over, and what is no frame is refused', () => {
  const seen: [string, number][] = [];
  const read = createFrameReader((kind, content) => void seen.push([kind, content.length]));
  expect(read(Buffer.concat([encodeFrames('input', Buffer.alloc(frameBytesMax + 1)), Buffer.from([99, 0, 0, 0, 1, 7]), encodeFrames('end', Buffer.alloc(0))]))).toBe(true);
  expect(seen).toEqual([['input', frameBytesMax], ['input', 1], ['end', 0]]);
  expect(read(Buffer.from('HTTP/1.1 200 OK\r\n'))).toBe(false);
});
