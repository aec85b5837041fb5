/**
 * Which microVM waits for which image. Each image is fetched once however many wait for it, by the blob
 * store (a URL) or by way of it (an OCI image); this decides who is told what, and how many transfers there are.
 */
import { createHash } from 'node:crypto';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { HttpImage, ImagePolicy, ManagedDisk, OciImage } from '#api/model/microvm.ts';
import { createSlots } from '#api/model/slots.ts';
import { coarseProgress, isAllowedServer } from '../../domain/images.ts';
import type { Credentials } from '../../domain/image-credentials.ts';
import { isAllowedRegistry } from '../../domain/oci.ts';
import type { Logger } from '../../ports/logger.ts';
import type { BlobStore } from './blob-store.ts';
import type { OpenTransfer } from './http-transfer.ts';
import type { OciImages } from './oci-images.ts';
import { basic } from './registry.ts';

export interface ImageCacheOptions {
  readonly store: BlobStore;
  readonly oci: OciImages;
  readonly openTransfer: OpenTransfer;
  readonly logger: Logger;
}

export type FoundImage =
  /** `sha256` is what the file must have; `isFileSystem`: it is one as a whole, and can be made larger. */
  | { readonly kind: 'cached'; readonly path: string; readonly sha256: string; readonly isFileSystem: boolean }
  | { readonly kind: 'pending'; readonly progress: string };

export interface ImageCache {
  /** The cached image, or the transfer of it, which this may begin; the error of one that failed since the last call. */
  find(source: ImageSource, policy: ImagePolicy | undefined, waiter: MicroVMId, onNews: () => void): Promise<FoundImage>;
  forgo(waiter: MicroVMId): void;
  /** Throws away an image whose content is not right any more. */
  discard(sha256: string): Promise<void>;
  /** @throws DISK_FULL when the file system of the directory has not so many bytes above the reserve, also without unused images */
  makeRoom(bytes: number, what: string, directory: string): Promise<void>;
  stop(): Promise<void>;
}

export type ImageSource = ({ readonly kind: 'http'; readonly image: HttpImage } | { readonly kind: 'oci'; readonly image: OciImage }) & {
  /** Called when a server is asked. @throws IMAGE_ACCESS_DENIED, SECRET_UNAVAILABLE */
  readonly credentials?: () => Credentials | undefined;
};

/** Undefined for a disk that is empty at first. */
export function sourceOf({ image, oci }: ManagedDisk): ImageSource | undefined {
  if (image !== undefined) return { kind: 'http', image };
  return oci === undefined ? undefined : { kind: 'oci', image: oci };
}

interface Download {
  readonly source: ImageSource;
  readonly credentials: Credentials | undefined;
  readonly allowed: readonly string[];
  readonly waiters: Map<MicroVMId, () => void>;
  readonly controller: AbortController;
  progress: string;
  told: string;
  ended: Promise<void>;
}

const downloadsAtOnce = 4;

export function createImageCache({ store, oci, openTransfer, logger }: ImageCacheOptions): ImageCache {
  const downloads = new Map<string, Download>();
  const failures = new Map<MicroVMId, AppError>();
  const slots = createSlots(downloadsAtOnce);

  async function find(source: ImageSource, policy: ImagePolicy | undefined, waiter: MicroVMId, onNews: () => void): Promise<FoundImage> {
    const failure = failures.get(waiter);
    if (failures.delete(waiter) && failure !== undefined) throw failure;
    const allowed = policy?.allowedRegistries ?? [];
    // Also for an image that is there already: what a Site forbids does not depend on what others fetched.
    checkAllowed(source, allowed);
    store.limit(policy?.bytesPerSecond);
    const cached = await findCached(source);
    if (cached !== null) return cached;
    const credentials = source.credentials?.();
    // Who has other credentials or rights must not wait for the failure of those who have none; the store sees to it that content comes once.
    const key = [source.kind, source.image.sha256, ...allowed, ...(credentials === undefined ? [] : [createHash('sha256').update(basic(credentials)).digest('hex')])].join(' ');
    const joined = downloads.get(key) ?? begin(key, source, credentials, allowed);
    joined.waiters.set(waiter, onNews);
    return { kind: 'pending', progress: joined.progress };
  }

  async function findCached(source: ImageSource): Promise<FoundImage | null> {
    const { sha256 } = source.image;
    if (source.kind === 'http') return (await store.use(sha256)) ? { kind: 'cached', path: store.path(sha256), sha256, isFileSystem: false } : null;
    const disk = await oci.find(sha256);
    return disk === null ? null : { kind: 'cached', path: store.path(disk.sha256), ...disk };
  }

  function begin(key: string, source: ImageSource, credentials: Credentials | undefined, allowed: readonly string[]): Download {
    const download: Download = { source, credentials, allowed, waiters: new Map(), controller: new AbortController(), progress: coarseProgress(0, undefined), told: '', ended: Promise.resolve() };
    downloads.set(key, download);
    const { signal } = download.controller;
    download.ended = slots
      .run(async () => {
        if (!signal.aborted) await fetchImage(download, signal);
      })
      .then(
        () => logger.info({ sha256: source.image.sha256 }, 'an image is ready'),
        (error: unknown) => fail(download, error),
      )
      .finally(() => {
        if (downloads.get(key) === download) downloads.delete(key);
        tell(download);
      });
    return download;
  }

  function fail(download: Download, error: unknown): void {
    if (download.controller.signal.aborted) return;
    const failure = isAppError(error) ? error : new AppError('INTERNAL', `the image can not be stored: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    logger.warn({ sha256: download.source.image.sha256, code: failure.code, reason: failure.message }, 'an image could not be fetched');
    for (const waiter of download.waiters.keys()) failures.set(waiter, failure);
  }

  /** Each is called once: whoever still waits asks again. */
  function tell({ waiters }: Download): void {
    for (const [waiter, onNews] of [...waiters]) {
      waiters.set(waiter, () => {});
      onNews();
    }
  }

  async function fetchImage(download: Download, signal: AbortSignal): Promise<void> {
    const { source, credentials, allowed } = download;
    if (source.kind === 'oci') {
      return oci.make({ image: source.image, allowed, signal, ...(credentials === undefined ? {} : { credentials }) }, (progress) => tellProgress(download, progress === 'unpacking' ? 'unpacking' : coarseProgress(progress.have, progress.total)));
    }
    const { url, sha256 } = source.image;
    await store.fetch({ sha256, source: url, open: (have) => openTransfer({ url, have, allowed, signal, ...(credentials === undefined ? {} : { access: { authorization: () => basic(credentials), answer: () => Promise.resolve(false) } }) }) }, (have, total) => tellProgress(download, coarseProgress(have, total)), signal);
    await store.trim();
  }

  function tellProgress(download: Download, progress: string): void {
    download.progress = progress;
    if (progress === download.told) return;
    download.told = progress;
    tell(download);
  }

  return {
    find,
    makeRoom: store.makeRoom,
    discard: store.discard,
    forgo(waiter) {
      failures.delete(waiter);
      for (const { waiters, controller, source } of downloads.values()) {
        if (!waiters.delete(waiter) || waiters.size > 0) continue;
        controller.abort(new AppError('UNAVAILABLE', 'nobody waits for the image'));
        // Whoever asks meanwhile begins anew behind this one's end.
        logger.debug({ sha256: source.image.sha256 }, 'nobody waits for an image any more');
      }
    },
    async stop() {
      for (const { controller } of downloads.values()) controller.abort(new AppError('UNAVAILABLE', 'the agent stops'));
      await Promise.all([...downloads.values()].map(({ ended }) => ended));
    },
  };
}

/** @throws REGISTRY_NOT_ALLOWED */
function checkAllowed(source: ImageSource, allowed: readonly string[]): void {
  const isAllowed = source.kind === 'http' ? isAllowedServer(new URL(source.image.url), allowed) : isAllowedRegistry(source.image, allowed);
  const server = source.kind === 'http' ? new URL(source.image.url).host : `${source.image.registry}/${source.image.repository}`;
  if (!isAllowed) throw new AppError('REGISTRY_NOT_ALLOWED', `the Site does not allow images from ${server}`);
}
