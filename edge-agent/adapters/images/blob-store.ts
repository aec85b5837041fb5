/**
 * Content by digest in `<state>/images/sha256/<digest>`. A transfer goes on where it broke, also after the
 * agent was killed; what does not have its digest is thrown away before anybody sees it. Under pressure of
 * space the longest unused content goes, never what is pinned or held. What a digest is for is the caller's.
 */
import { createHash } from 'node:crypto';
import { open, rename, rm, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { chooseEvictions, type CachedImage } from '../../domain/images.ts';
import { fullJitterMs } from '../../domain/retry-delay.ts';
import type { Clock, Entropy } from '../../ports/clock.ts';
import type { Logger } from '../../ports/logger.ts';
import { ensureDirectory, syncDirectory } from '../system/durable-file.ts';
import { freeBytes, hashInto, listNames, statOrNull, writeAll, writeError } from './files.ts';
import type { Transfer } from './http-transfer.ts';
import { createPace, pause } from './pace.ts';

export interface BlobStoreOptions {
  readonly stateDirectory: string;
  /** Kept free on the file system, for the journal and the logs, bytes. */
  readonly reserveBytes: number;
  /** Content that is not in use is removed above this sum, bytes. */
  readonly cacheMaxBytes: number;
  /** Digests that must stay. */
  readonly pinned: () => Promise<ReadonlySet<string>>;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly logger: Logger;
}

export interface Blob {
  readonly sha256: string;
  /** For people: the URL or the like. */
  readonly source: string;
  /** It is not longer than that; absent: nobody knows. */
  readonly bytesMax?: number;
  readonly open: (have: number) => Promise<Transfer>;
}

/** `total` is unknown when the server does not say. */
export type OnProgress = (have: number, total: number | undefined) => void;

export interface BlobStore {
  path(sha256: string): string;
  /** Whether it is there; it then counts as used now. */
  use(sha256: string): Promise<boolean>;
  /**
   * Fetches the rest of it, with retries; returns when it is there, whole and right. Two calls for one digest share the transfer.
   * @throws IMAGE_UNAVAILABLE, IMAGE_NOT_FOUND, IMAGE_ACCESS_DENIED, IMAGE_DIGEST_MISMATCH, REGISTRY_NOT_ALLOWED, DISK_FULL
   */
  fetch(blob: Blob, onProgress: OnProgress, signal: AbortSignal): Promise<void>;
  /** Takes over a file that lies on the same file system and is durable. */
  take(file: string, sha256: string): Promise<void>;
  /** The content stays until the function is called. */
  hold(sha256: string): () => void;
  discard(sha256: string): Promise<void>;
  /** @throws DISK_FULL when the file system of the directory has not so many bytes above the reserve, also without unused images */
  makeRoom(bytes: number, what: string, directory: string): Promise<void>;
  /** Removes unused content above the limit. */
  trim(): Promise<void>;
  /** Bounds all transfers together; undefined: no bound. */
  limit(bytesPerSecond: number | undefined): void;
}

/** Failures in a row without a byte of progress after which the caller hears of it. */
const failuresMax = 3;
const retryLimits = { baseMs: 500, capMs: 30_000 } as const;
/** The space is looked at again after so many bytes: others write there as well. */
export const spaceCheckBytes = 16 * 2 ** 20;

export function createBlobStore(options: BlobStoreOptions): BlobStore {
  const { stateDirectory, clock, entropy, logger } = options;
  const images = join(stateDirectory, 'images', 'sha256');
  const partials = join(stateDirectory, 'images', 'partial');
  const transfers = new Map<string, Promise<void>>();
  const held = new Map<string, number>();
  const pace = createPace(clock);

  const path = (sha256: string): string => join(images, sha256);

  async function use(sha256: string): Promise<boolean> {
    if (transfers.has(sha256) || (await statOrNull(path(sha256))) === null) return false;
    const now = new Date(clock.now().wallMs);
    await utimes(path(sha256), now, now);
    return true;
  }

  async function fetch(blob: Blob, onProgress: OnProgress, signal: AbortSignal): Promise<void> {
    for (let other = transfers.get(blob.sha256); other !== undefined; other = transfers.get(blob.sha256)) {
      await other.catch(() => {}); // Its owner hears of it; what is missing is fetched below.
      signal.throwIfAborted();
    }
    if (await use(blob.sha256)) return;
    const transfer = fetchWhole(blob, onProgress, signal).finally(() => transfers.delete(blob.sha256));
    transfers.set(blob.sha256, transfer);
    await transfer;
  }

  async function fetchWhole(blob: Blob, onProgress: OnProgress, signal: AbortSignal): Promise<void> {
    ensureDirectory(images);
    ensureDirectory(partials);
    const { sha256, source } = blob;
    const partial = join(partials, sha256);
    const state = { have: 0 };
    let isAnew = false;
    for (let inRow = 0; ; ) {
      const before = state.have;
      try {
        const resumedFrom = await fetchRest(blob, state, onProgress, signal);
        if (resumedFrom === null) {
          await rename(partial, path(sha256));
          syncDirectory(images);
          logger.info({ sha256, bytes: state.have }, 'fetched content of an image');
          return;
        }
        await rm(partial, { force: true });
        state.have = 0;
        // The part that was there may be what is wrong, so the whole is tried once.
        if (resumedFrom === 0 || isAnew) throw new AppError('IMAGE_DIGEST_MISMATCH', `the content of ${source} does not have the digest sha256:${sha256}`);
        isAnew = true;
      } catch (error) {
        signal.throwIfAborted();
        const known = writeError(error, 'an image');
        if (isAppError(known) && known.code === 'DISK_FULL') await rm(partial, { force: true });
        if (!isAppError(known) || known.code !== 'IMAGE_UNAVAILABLE') throw known;
        inRow = state.have > before ? 1 : inRow + 1;
        if (inRow > failuresMax) throw known;
        logger.debug({ sha256, reason: known.message, bytes: state.have }, 'the transfer of an image broke');
        await pause(clock, fullJitterMs(inRow, entropy.random(), retryLimits), signal);
        signal.throwIfAborted();
      }
    }
  }

  /** @returns null when the whole has its digest; else from where it was resumed, and it has not */
  async function fetchRest(blob: Blob, state: { have: number }, onProgress: OnProgress, signal: AbortSignal): Promise<number | null> {
    const { sha256, source, bytesMax = Infinity } = blob;
    const partial = join(partials, sha256);
    let hash = createHash('sha256');
    const there = (await statOrNull(partial)) === null ? 0 : await hashInto(hash, partial, signal);
    if (there > 0 && hash.copy().digest('hex') === sha256) {
      state.have = there;
      return null;
    }
    const transfer = await blob.open(there);
    const resumedFrom = transfer.isAppended ? there : 0;
    if (!transfer.isAppended) hash = createHash('sha256');
    state.have = resumedFrom;
    await makeRoom(Math.max(0, (transfer.totalBytes ?? 0) - resumedFrom), 'an image', partials);
    const file = await open(partial, transfer.isAppended ? 'r+' : 'w', 0o600);
    try {
      let checked = state.have;
      for await (const chunk of transfer.body) {
        if (state.have + chunk.length > bytesMax) return resumedFrom;
        await writeAll(file, chunk, state.have);
        hash.update(chunk);
        state.have += chunk.length;
        onProgress(state.have, transfer.totalBytes);
        if (state.have - checked >= spaceCheckBytes) {
          checked = state.have;
          await makeRoom(0, 'an image', partials);
        }
        await pace.received(chunk.length, signal);
        signal.throwIfAborted();
      }
      if (transfer.totalBytes !== undefined && state.have < transfer.totalBytes) throw new AppError('IMAGE_UNAVAILABLE', `${source} ended before the image was whole`);
      await file.sync();
    } finally {
      await file.close();
    }
    return hash.digest('hex') === sha256 ? null : resumedFrom;
  }

  async function list(): Promise<readonly CachedImage[]> {
    const names = await listNames(images);
    const found = await Promise.all(names.map(async (sha256) => ({ sha256, stats: await statOrNull(path(sha256)) })));
    return found.flatMap(({ sha256, stats }) => (stats === null ? [] : [{ sha256, bytes: stats.blocks * 512, usedAtMs: stats.mtimeMs }]));
  }

  async function evict(bytes: number): Promise<void> {
    const kept = new Set([...(await options.pinned()), ...held.keys()]);
    for (const { sha256 } of chooseEvictions(await list(), kept, bytes)) {
      logger.info({ sha256 }, 'removed an unused image');
      await rm(path(sha256), { force: true });
    }
  }

  async function missingBytes(bytes: number, directory: string): Promise<number> {
    return bytes + options.reserveBytes - (await freeBytes(directory));
  }

  async function makeRoom(bytes: number, what: string, directory: string): Promise<void> {
    if ((await missingBytes(bytes, directory)) <= 0) return;
    for (const name of await listNames(partials)) if (!transfers.has(name)) await rm(join(partials, name), { force: true });
    await evict(Math.max(0, await missingBytes(bytes, directory)));
    const missing = await missingBytes(bytes, directory);
    if (missing > 0) throw new AppError('DISK_FULL', `${what} needs ${bytes} bytes beside the reserve of ${options.reserveBytes}, and ${missing} of them are missing`);
  }

  return {
    path,
    use,
    fetch,
    makeRoom,
    async take(file, sha256) {
      ensureDirectory(images);
      await rename(file, path(sha256));
      syncDirectory(images);
    },
    hold(sha256) {
      held.set(sha256, (held.get(sha256) ?? 0) + 1);
      return () => {
        const count = (held.get(sha256) ?? 1) - 1;
        if (count > 0) held.set(sha256, count);
        else held.delete(sha256);
      };
    },
    async discard(sha256) {
      await rm(path(sha256), { force: true });
    },
    async trim() {
      const used = (await list()).reduce((sum, { bytes }) => sum + bytes, 0);
      if (used > options.cacheMaxBytes) await evict(used - options.cacheMaxBytes);
    },
    limit: (bytesPerSecond) => pace.limit(bytesPerSecond),
  };
}
