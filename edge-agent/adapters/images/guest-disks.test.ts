import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import { testDesired } from '#test/builders/edge-microvm.ts';
import { createGuestDisks } from './guest-disks.ts';
import type { ImageCache } from './image-cache.ts';

const id = microVMId('00000000-0000-4000-8000-000000000061');
const right = Buffer.alloc(4_096, 'r');
const sha256 = createHash('sha256').update(right).digest('hex');
const desired = testDesired({ disks: [{ name: 'root', path: '', readOnly: false, managed: { persistence: 'Persistent', isRetained: false, image: { url: 'https://example.com/root.raw', sha256 } } }] });

let base = '';
beforeEach(() => void (base = mkdtempSync(join(tmpdir(), 'nkudo-disks-'))));
afterEach(() => rmSync(base, { recursive: true }));

/** A cache in which a fetched image is what `contents` says, in turn; the last one stays. */
function cacheOf(contents: readonly Buffer[]): { readonly cache: ImageCache; readonly discarded: () => number } {
  let discarded = 0;
  const path = join(base, 'image');
  const cache: ImageCache = {
    find: () => {
      writeFileSync(path, contents[Math.min(discarded, contents.length - 1)] ?? right);
      return Promise.resolve({ kind: 'cached', path, sha256, isFileSystem: false });
    },
    forgo: () => {},
    discard: () => {
      discarded += 1;
      return Promise.resolve();
    },
    makeRoom: () => Promise.resolve(),
    stop: () => Promise.resolve(),
  };
  return { cache, discarded: () => discarded };
}

const ensureWith = (cache: ImageCache): ReturnType<ReturnType<typeof createGuestDisks>['ensure']> =>
  createGuestDisks({ stateDirectory: base, directories: { path: () => base }, cache, path: undefined, secrets: () => [] }).ensure({ microvmId: id, desired, incarnation: 1 }, () => {}, new AbortController().signal);

const wrong = Buffer.alloc(4_096, 'w');

test('an image that is not right any more is fetched anew without a word', async () => {
  const { cache, discarded } = cacheOf([wrong, right]);
  const ensured = await ensureWith(cache);
  expect(ensured).toMatchObject({ kind: 'made', disks: [{ name: 'root', format: 'raw' }] });
  expect(readFileSync(join(base, 'disks', 'root.raw'))).toEqual(right);
  expect(discarded()).toBe(1);
});

test('one that is wrong again, as on a host whose storage is at fault, is a failure and no disk', async () => {
  const { cache, discarded } = cacheOf([wrong]);
  await expect(ensureWith(cache)).rejects.toMatchObject({ code: 'IMAGE_DIGEST_MISMATCH', message: expect.stringContaining('look at the storage and the memory of this host') as string });
  expect(discarded()).toBe(2);
  expect(readdirSync(join(base, 'disks'))).toEqual([]);
});
