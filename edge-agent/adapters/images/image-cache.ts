/**
 * Images by digest in `<state>/images/sha256/<digest>`, each fetched once however many microVMs wait for
 * it. A transfer goes on where it broke, also after the agent was killed; what does not have its digest is
 * thrown away before anybody sees it. Under pressure of space the longest unused images go, never pinned ones.
 */
import { createHash } from 'node:crypto';
import { open, readdir, rename, rm, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { HttpImage, ImagePolicy } from '#api/model/microvm.ts';
import { chooseEvictions, coarseProgress, isAllowedServer, type CachedImage } from '../../domain/images.ts';
import { fullJitterMs } from '../../domain/retry-delay.ts';
import type { Clock, Entropy } from '../../ports/clock.ts';
import type { Logger } from '../../ports/logger.ts';
import { ensureDirectory, syncDirectory } from '../system/durable-file.ts';
import { freeBytes, hashInto, statOrNull, writeAll, writeError } from './files.ts';
import type { OpenTransfer } from './http-transfer.ts';
import { createPace, pause } from './pace.ts';

export interface ImageCacheOptions {
  readonly stateDirectory: string;
  /** Kept free on the file system, for the journal and the logs, bytes. */
  readonly reserveBytes: number;
  /** Images that are not in use are removed above this sum, bytes. */
  readonly cacheMaxBytes: number;
  /** Digests that must stay. */
  readonly pinned: () => ReadonlySet<string>;
  readonly openTransfer: OpenTransfer;
  readonly clock: Clock;
  readonly entropy: Entropy;
  readonly logger: Logger;
}

export type FoundImage = { readonly kind: 'cached'; readonly path: string } | { readonly kind: 'pending'; readonly progress: string };

export interface ImageCache {
  /** The cached image, or the transfer of it, which this may begin; the error of one that failed since the last call. */
  find(image: HttpImage, policy: ImagePolicy | undefined, waiter: MicroVMId, onNews: () => void): Promise<FoundImage>;
  forgo(waiter: MicroVMId): void;
  /** Throws away an image whose content is not right any more. */
  discard(sha256: string): Promise<void>;
  /** @throws DISK_FULL when the file system of the directory has not so many bytes above the reserve, also without unused images */
  makeRoom(bytes: number, what: string, directory: string): Promise<void>;
  stop(): Promise<void>;
}

interface Download {
  readonly image: HttpImage;
  readonly allowed: readonly string[];
  readonly waiters: Map<MicroVMId, () => void>;
  readonly controller: AbortController;
  have: number;
  total: number | undefined;
  told: string;
  ended: Promise<void>;
}

const downloadsAtOnce = 4;
/** Failures in a row without a byte of progress after which the microVMs hear of it. */
const failuresMax = 3;
const retryLimits = { baseMs: 500, capMs: 30_000 } as const;
/** The space is looked at again after so many bytes: others write there as well. */
const spaceCheckBytes = 16 * 2 ** 20;

export function createImageCache(options: ImageCacheOptions): ImageCache {
  const { stateDirectory, openTransfer, clock, entropy, logger } = options;
  const images = join(stateDirectory, 'images', 'sha256');
  const partials = join(stateDirectory, 'images', 'partial');
  const downloads = new Map<string, Download>();
  const failures = new Map<MicroVMId, AppError>();
  const queue: (() => void)[] = [];
  const pace = createPace(clock);
  let running = 0;

  const imagePath = (sha256: string): string => join(images, sha256);

  async function find(image: HttpImage, policy: ImagePolicy | undefined, waiter: MicroVMId, onNews: () => void): Promise<FoundImage> {
    const failure = failures.get(waiter);
    if (failures.delete(waiter) && failure !== undefined) throw failure;
    const allowed = policy?.allowedRegistries ?? [];
    const url = new URL(image.url);
    // Also for an image that is there already: what a Site forbids does not depend on what others fetched.
    if (!isAllowedServer(url, allowed)) throw new AppError('REGISTRY_NOT_ALLOWED', `the Site does not allow images from ${url.host}`);
    pace.limit(policy?.bytesPerSecond);
    const path = imagePath(image.sha256);
    const isCached = (await statOrNull(path)) !== null;
    const download = downloads.get(image.sha256);
    if (isCached && download === undefined) {
      const now = new Date(clock.now().wallMs);
      await utimes(path, now, now);
      return { kind: 'cached', path };
    }
    const joined = download ?? begin(image, allowed);
    joined.waiters.set(waiter, onNews);
    return { kind: 'pending', progress: progressOf(joined) };
  }

  function begin(image: HttpImage, allowed: readonly string[]): Download {
    const download: Download = { image, allowed, waiters: new Map(), controller: new AbortController(), have: 0, total: undefined, told: '', ended: Promise.resolve() };
    downloads.set(image.sha256, download);
    download.ended = inTurn(download)
      .then(
        () => logger.info({ sha256: image.sha256, bytes: download.have }, 'fetched an image'),
        (error: unknown) => fail(download, error),
      )
      .finally(() => {
        if (downloads.get(image.sha256) === download) downloads.delete(image.sha256);
        tell(download);
      });
    return download;
  }

  function fail(download: Download, error: unknown): void {
    if (download.controller.signal.aborted) return;
    const failure = isAppError(error) ? error : new AppError('INTERNAL', `the image can not be stored: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    logger.warn({ sha256: download.image.sha256, code: failure.code, reason: failure.message }, 'an image could not be fetched');
    for (const waiter of download.waiters.keys()) failures.set(waiter, failure);
  }

  /** Each is called once: whoever still waits asks again. */
  function tell({ waiters }: Download): void {
    for (const [waiter, onNews] of [...waiters]) {
      waiters.set(waiter, () => {});
      onNews();
    }
  }

  async function inTurn(download: Download): Promise<void> {
    const { signal } = download.controller;
    if (running >= downloadsAtOnce) await new Promise<void>((resolve) => queue.push(resolve));
    else running += 1;
    try {
      if (!signal.aborted) await fetchWhole(download, signal);
    } finally {
      const next = queue.shift();
      if (next === undefined) running -= 1;
      else next();
    }
  }

  async function fetchWhole(download: Download, signal: AbortSignal): Promise<void> {
    ensureDirectory(images);
    ensureDirectory(partials);
    const { sha256 } = download.image;
    const partial = join(partials, sha256);
    // An earlier transfer may have ended while this one was asked for.
    if ((await statOrNull(imagePath(sha256))) !== null) return;
    let isAnew = false;
    for (let inRow = 0; ; ) {
      const before = download.have;
      try {
        const resumedFrom = await fetchRest(download, partial, signal);
        if (resumedFrom === null) {
          await rename(partial, imagePath(sha256));
          syncDirectory(images);
          return await trim();
        }
        await rm(partial, { force: true });
        download.have = 0;
        // The part that was there may be what is wrong, so the whole is tried once.
        if (resumedFrom === 0 || isAnew) throw new AppError('IMAGE_DIGEST_MISMATCH', `the content of ${download.image.url} does not have the digest sha256:${sha256}`);
        isAnew = true;
      } catch (error) {
        signal.throwIfAborted();
        const known = writeError(error, 'an image');
        if (isAppError(known) && known.code === 'DISK_FULL') await rm(partial, { force: true });
        if (!isAppError(known) || known.code !== 'IMAGE_UNAVAILABLE') throw known;
        inRow = download.have > before ? 1 : inRow + 1;
        if (inRow > failuresMax) throw known;
        logger.debug({ sha256, reason: known.message, bytes: download.have }, 'the transfer of an image broke');
        await pause(clock, fullJitterMs(inRow, entropy.random(), retryLimits), signal);
        signal.throwIfAborted();
      }
    }
  }

  /** @returns null when the whole has its digest; else from where it was resumed, and it has not */
  async function fetchRest(download: Download, partial: string, signal: AbortSignal): Promise<number | null> {
    const { url, sha256 } = download.image;
    let hash = createHash('sha256');
    const there = (await statOrNull(partial)) === null ? 0 : await hashInto(hash, partial, signal);
    if (there > 0 && hash.copy().digest('hex') === sha256) return null;
    const transfer = await openTransfer({ url, have: there, allowed: download.allowed, signal });
    const resumedFrom = transfer.isAppended ? there : 0;
    if (!transfer.isAppended) hash = createHash('sha256');
    download.have = resumedFrom;
    download.total = transfer.totalBytes;
    await makeRoom(Math.max(0, (transfer.totalBytes ?? 0) - resumedFrom), 'an image', partials);
    const file = await open(partial, transfer.isAppended ? 'r+' : 'w', 0o600);
    try {
      let checked = download.have;
      for await (const chunk of transfer.body) {
        await writeAll(file, chunk, download.have);
        hash.update(chunk);
        download.have += chunk.length;
        tellProgress(download);
        if (download.have - checked >= spaceCheckBytes) {
          checked = download.have;
          await makeRoom(0, 'an image', partials);
        }
        await pace.received(chunk.length, signal);
        signal.throwIfAborted();
      }
      if (transfer.totalBytes !== undefined && download.have < transfer.totalBytes) throw new AppError('IMAGE_UNAVAILABLE', `${new URL(url).host} ended before the image was whole`);
      await file.sync();
    } finally {
      await file.close();
    }
    return hash.digest('hex') === sha256 ? null : resumedFrom;
  }

  function progressOf({ have, total }: Download): string {
    return coarseProgress(have, total);
  }

  function tellProgress(download: Download): void {
    const progress = progressOf(download);
    if (progress === download.told) return;
    download.told = progress;
    tell(download);
  }

  async function listImages(): Promise<readonly CachedImage[]> {
    const names = await readdir(images).catch(() => []);
    const found = await Promise.all(names.map(async (sha256) => ({ sha256, stats: await statOrNull(imagePath(sha256)) })));
    return found.flatMap(({ sha256, stats }) => (stats === null ? [] : [{ sha256, bytes: stats.blocks * 512, usedAtMs: stats.mtimeMs }]));
  }

  async function evict(bytes: number): Promise<void> {
    for (const { sha256 } of chooseEvictions(await listImages(), options.pinned(), bytes)) {
      logger.info({ sha256 }, 'removed an unused image');
      await rm(imagePath(sha256), { force: true });
    }
  }

  async function missingBytes(bytes: number, directory: string): Promise<number> {
    return bytes + options.reserveBytes - (await freeBytes(directory));
  }

  async function makeRoom(bytes: number, what: string, directory: string): Promise<void> {
    if ((await missingBytes(bytes, directory)) <= 0) return;
    for (const name of await readdir(partials).catch(() => [])) if (!downloads.has(name)) await rm(join(partials, name), { force: true });
    await evict(Math.max(0, await missingBytes(bytes, directory)));
    const missing = await missingBytes(bytes, directory);
    if (missing > 0) throw new AppError('DISK_FULL', `${what} needs ${bytes} bytes beside the reserve of ${options.reserveBytes}, and ${missing} of them are missing`);
  }

  async function trim(): Promise<void> {
    const used = (await listImages()).reduce((sum, { bytes }) => sum + bytes, 0);
    if (used > options.cacheMaxBytes) await evict(used - options.cacheMaxBytes);
  }

  return {
    find,
    makeRoom,
    forgo(waiter) {
      failures.delete(waiter);
      for (const [sha256, { waiters, controller }] of downloads) {
        if (!waiters.delete(waiter) || waiters.size > 0) continue;
        controller.abort(new AppError('UNAVAILABLE', 'nobody waits for the image'));
        // Whoever asks meanwhile begins anew behind this one's end.
        logger.debug({ sha256 }, 'nobody waits for an image any more');
      }
    },
    async discard(sha256) {
      await rm(imagePath(sha256), { force: true });
    },
    async stop() {
      for (const { controller } of downloads.values()) controller.abort(new AppError('UNAVAILABLE', 'the agent stops'));
      await Promise.all([...downloads.values()].map(({ ended }) => ended));
    },
  };
}
