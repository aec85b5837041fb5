import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { apiKeyPrefix, encodeApiKey, parseApiKey } from './api-key.ts';

const key = fc.record({ keyId: fc.uuid(), secret: fc.uint8Array({ minLength: 32, maxLength: 32 }) });

describe('the text of an API key', () => {
  it('comes back as it was, and begins with what scanners look for', () => {
    fc.assert(
      fc.property(key, (made) => {
        const text = encodeApiKey(made);
        expect(text.startsWith(apiKeyPrefix)).toBe(true);
        expect(text).toHaveLength(79);
        const parsed = parseApiKey(text);
        expect(parsed?.keyId).toBe(made.keyId);
        expect(Buffer.from(parsed?.secret ?? [])).toEqual(Buffer.from(made.secret));
      }),
    );
  });

  it('has the checksum that other programs compute', () => {
    const made = { keyId: '00112233-4455-6677-8899-aabbccddeeff', secret: Buffer.alloc(32, 7) };
    const text = encodeApiKey(made);
    expect(Buffer.from(text.slice(-6), 'base64url').readUInt32BE()).toBe(crc32(text.slice(apiKeyPrefix.length, -6)));
  });

  it('is no key any more with one letter changed, left out or added', () => {
    const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    fc.assert(
      fc.property(key, fc.nat(78), fc.nat(63), (made, at, letter) => {
        const text = encodeApiKey(made);
        const changed = text.slice(0, at) + (letters[letter] ?? '') + text.slice(at + 1);
        // The last letter of each part has bits that stand for nothing.
        if (changed !== text && parseApiKey(changed) !== null) expect(parseApiKey(changed)).toEqual(parseApiKey(text));
        expect(parseApiKey(text.slice(0, at) + text.slice(at + 1))).toBeNull();
        expect(parseApiKey(`${text}A`)).toBeNull();
      }),
    );
  });
});
