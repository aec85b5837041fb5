/** What can be said of an image without a reader of the format; independent readers are asked in test/integration/edge-agent/seed.test.ts. */
import { describe, expect, it } from 'vitest';
import { writeIso } from './iso9660.ts';

const files = [{ name: 'user-data', content: Buffer.from('u') }, { name: 'meta-data', content: Buffer.from('m') }];

describe('an image', () => {
  it('has the same bytes for the same files in any order', () => {
    expect(Buffer.compare(writeIso('cidata', files), writeIso('cidata', files.toReversed()))).toBe(0);
  });

  it('is a whole number of sectors, also with empty files and with files that end at a sector', () => {
    for (const length of [0, 1, 2047, 2048, 2049, 65_536]) {
      const image = writeIso('cidata', [{ name: 'a', content: Buffer.alloc(length, 1) }, { name: 'b', content: Buffer.from('end') }]);
      expect(image.length % 2048).toBe(0);
      expect(Buffer.from(image).subarray(25 * 2048 + Math.ceil(length / 2048) * 2048).toString().replaceAll('\0', '')).toBe('end');
    }
  });

  it('is refused for names and labels that the format or this writer can not hold', () => {
    const named = (name: string) => () => writeIso('cidata', [{ name, content: Buffer.alloc(0) }]);
    for (const name of ['', 'a/b', 'a b', 'ä', 'x'.repeat(65)]) expect(named(name)).toThrow(RangeError);
    expect(() => writeIso('a label that is too long', [])).toThrow(RangeError);
    expect(() => writeIso('cidata', Array.from({ length: 9 }, (_, index) => ({ name: `f${index}`, content: Buffer.alloc(0) })))).toThrow(RangeError);
  });

  it('holds eight files with the longest names', () => {
    const many = Array.from({ length: 8 }, (_, index) => ({ name: `${index}`.repeat(64), content: Buffer.from(`${index}`) }));
    expect(() => writeIso('cidata', many)).not.toThrow();
  });
});
