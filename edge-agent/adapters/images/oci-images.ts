/**
 * Makes one disk image of an OCI image: reads its manifest, fetches its content, and unpacks that. Which
 * disk was made of which image is a small file, `<state>/images/oci/<digest>.json`; the disk itself is content
 * of the store like any other, and hashed before each use. Everything is checked on the way: manifest,
 * configuration and blobs against their digests, each layer's files against what the configuration says.
 */
import { createHash } from 'node:crypto';
import { createReadStream, type ReadStream } from 'node:fs';
import { open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream';
import { constants, createGunzip, createZstdDecompress, type Gunzip, type ZstdDecompress } from 'node:zlib';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { chooseManifest, documentBytesMax, parseLayerContents, parseManifest, type Descriptor, type OciManifest } from '../../domain/oci.ts';
import type { Logger } from '../../ports/logger.ts';
import { ensureDirectory, writeFileDurably } from '../system/durable-file.ts';
import { spaceCheckBytes, type BlobStore } from './blob-store.ts';
import { hashFile, hashInto, listNames, statOrNull, syncFile, writeAll, writeError, zeroBlock } from './files.ts';
import { openRegistry, type OpenRegistry, type RegistryImage, type RegistryOptions } from './registry.ts';
import { makeFileSystem } from './unpack/file-system.ts';
import { createLayerTree, type FileNode, type LayerTree } from './unpack/layer-tree.ts';
import { readTar } from './unpack/tar-reader.ts';
import { zstdFrames } from './unpack/zstd-frames.ts';

export interface OciImagesOptions extends RegistryOptions {
  readonly stateDirectory: string;
  readonly store: BlobStore;
  /** The most that an image may become, bytes: a bomb is small until it is unpacked. */
  readonly unpackedMaxBytes: number;
  /** Where the programs that make file systems are looked for. */
  readonly path: string | undefined;
  /** As Node names it. */
  readonly architecture: string;
  readonly logger: Logger;
}

/** What an image became. */
export interface OciDisk {
  readonly sha256: string;
  /** It was made of the files of a container image, and can be made larger as a whole. */
  readonly isFileSystem: boolean;
}

export type OciProgress = { readonly have: number; readonly total: number } | 'unpacking';

export interface OciImages {
  /** What is there already and counts as used now; null: it has to be made. */
  find(sha256: string): Promise<OciDisk | null>;
  /** Fetches and unpacks it. @throws what the store throws, and IMAGE_REFUSED, IMAGE_TOOL_MISSING, REGISTRY_NOT_ALLOWED */
  make(request: RegistryImage, onProgress: (progress: OciProgress) => void): Promise<void>;
  /** Digests of the disks that images became. Forgets those whose disk is gone. */
  disksOf(images: ReadonlySet<string>): Promise<ReadonlySet<string>>;
}

const recordPattern = /^([0-9a-f]{64})\.json$/;
/** Of zstd's memory: 2^27 bytes, what `zstd --long` uses at most without being told on both sides. */
const zstdWindowLogMax = 27;
const readBytes = 2 ** 18;

export function createOciImages(options: OciImagesOptions): OciImages {
  const { stateDirectory, store, unpackedMaxBytes, logger } = options;
  const records = join(stateDirectory, 'images', 'oci');
  const building = join(stateDirectory, 'images', 'building');
  let lastBuild: Promise<unknown> = Promise.resolve();

  async function loadRecord(sha256: string): Promise<OciDisk | null> {
    try {
      const parsed: unknown = JSON.parse(await readFile(join(records, `${sha256}.json`), 'utf8'));
      if (typeof parsed !== 'object' || parsed === null || !('disk' in parsed) || !('isFileSystem' in parsed)) return null;
      const { disk, isFileSystem } = parsed;
      return typeof disk === 'string' && /^[0-9a-f]{64}$/.test(disk) && typeof isFileSystem === 'boolean' ? { sha256: disk, isFileSystem } : null;
    } catch {
      // Not there, or damaged: it is made anew.
      return null;
    }
  }

  async function find(sha256: string): Promise<OciDisk | null> {
    const disk = await loadRecord(sha256);
    return disk !== null && (await store.use(disk.sha256)) ? disk : null;
  }

  async function make(request: RegistryImage, onProgress: (progress: OciProgress) => void): Promise<void> {
    const registry = openRegistry(options, request);
    for (let isSecond = false; ; isSecond = true) {
      try {
        const disk = await makeOnce(registry, request, onProgress);
        ensureDirectory(records);
        writeFileDurably(join(records, `${request.image.sha256}.json`), JSON.stringify({ disk: disk.sha256, isFileSystem: disk.isFileSystem }));
        return await store.trim();
      } catch (error) {
        // Content that lay here had changed; it was removed, and is fetched once more.
        if (isSecond || !isAppError(error) || error.details['isStale'] !== true) throw error;
      }
    }
  }

  async function makeOnce(registry: OpenRegistry, { image, signal }: RegistryImage, onProgress: (progress: OciProgress) => void): Promise<OciDisk> {
    const named = `${image.registry}/${image.repository}`;
    const document = async ({ sha256, bytesMax = documentBytesMax }: { readonly sha256: string; readonly bytesMax?: number }, openAt: (sha256: string, have: number) => Promise<Awaited<ReturnType<OpenRegistry['openBlob']>>>): Promise<string> => {
      await store.fetch({ sha256, source: named, bytesMax: Math.min(bytesMax, documentBytesMax), open: (have) => openAt(sha256, have) }, () => {}, signal);
      return (await readVerified(sha256, named, signal)).toString('utf8');
    };
    let manifest = parseManifest(await document(image, registry.openManifest));
    if (manifest.kind === 'index') {
      const chosen = chooseManifest(manifest, options.architecture);
      manifest = parseManifest(await document({ sha256: chosen.sha256, bytesMax: chosen.bytes }, registry.openManifest));
    }
    if (manifest.kind === 'index') throw new AppError('IMAGE_REFUSED', 'the image has an index in an index');
    const contents = manifest.kind === 'container' ? parseLayerContents(await document({ sha256: manifest.config.sha256, bytesMax: manifest.config.bytes }, registry.openBlob), manifest.layers.length) : [];
    const blobs = manifest.kind === 'container' ? manifest.layers : [manifest.disk];
    const releases = blobs.map(({ sha256 }) => store.hold(sha256));
    try {
      await fetchBlobs(blobs, named, registry, onProgress, signal);
      onProgress('unpacking');
      // Another transfer, with other credentials, may have made it meanwhile.
      return await inTurn(async () => (await find(image.sha256)) ?? unpack(manifest, contents, image.sha256, named, signal));
    } finally {
      for (const release of releases) release();
    }
  }

  async function fetchBlobs(blobs: readonly Descriptor[], named: string, registry: OpenRegistry, onProgress: (progress: OciProgress) => void, signal: AbortSignal): Promise<void> {
    const total = blobs.reduce((sum, { bytes }) => sum + bytes, 0);
    let before = 0;
    for (const { sha256, bytes } of blobs) {
      await store.fetch({ sha256, source: named, bytesMax: bytes, open: (have) => registry.openBlob(sha256, have) }, (have) => onProgress({ have: before + have, total }), signal);
      before += bytes;
    }
  }

  async function readVerified(sha256: string, named: string, signal: AbortSignal): Promise<Buffer> {
    const content = await readFile(store.path(sha256), { signal });
    if (createHash('sha256').update(content).digest('hex') !== sha256) throw await stale(sha256, named);
    return content;
  }

  async function stale(sha256: string, named: string): Promise<AppError> {
    await store.discard(sha256);
    return new AppError('IMAGE_DIGEST_MISMATCH', `content of ${named} that lay in the cache had changed`, { details: { isStale: true } });
  }

  /** One at a time: it takes the host's processor and disk for itself. */
  function inTurn<Value>(work: () => Promise<Value>): Promise<Value> {
    const turn = lastBuild.then(work, work);
    lastBuild = turn.catch(() => {});
    return turn;
  }

  async function unpack(manifest: Exclude<OciManifest, { readonly kind: 'index' }>, contents: readonly string[], imageSha256: string, named: string, signal: AbortSignal): Promise<OciDisk> {
    signal.throwIfAborted();
    // Also what an agent that was killed left.
    await rm(building, { recursive: true, force: true });
    ensureDirectory(join(building, 'contents'));
    try {
      return manifest.kind === 'container' ? await unpackContainer(manifest.layers, contents, imageSha256, named, signal) : await unpackDisk(manifest.disk, named, signal);
    } catch (error) {
      throw writeError(error, 'an image');
    } finally {
      await rm(building, { recursive: true, force: true });
    }
  }

  async function unpackDisk({ sha256 }: Descriptor, named: string, signal: AbortSignal): Promise<OciDisk> {
    const compression = await compressionOf(store.path(sha256));
    if (compression === 'none') return { sha256, isFileSystem: false };
    const target = join(building, 'disk');
    const hash = createHash('sha256');
    const file = await open(target, 'w', 0o600);
    try {
      const bytes = await writeSparse(file, hashed(verified(sha256, named, signal), hash), signal);
      await file.truncate(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    const unpacked = hash.digest('hex');
    await store.take(target, unpacked);
    return { sha256: unpacked, isFileSystem: false };
  }

  async function unpackContainer(layers: readonly Descriptor[], contents: readonly string[], imageSha256: string, named: string, signal: AbortSignal): Promise<OciDisk> {
    const tree = createLayerTree();
    const budget = { left: unpackedMaxBytes };
    for (const [index, { sha256 }] of layers.entries()) {
      const hash = createHash('sha256');
      await applyLayer(tree, hashed(verified(sha256, named, signal, budget), hash), signal);
      if (hash.digest('hex') !== contents[index]) throw new AppError('IMAGE_DIGEST_MISMATCH', `a layer of ${named} does not have the content that its configuration names`);
    }
    if (tree.root.children.size === 0) throw new AppError('IMAGE_REFUSED', 'the image has no files');
    const disk = findDisk(tree);
    const target = disk === null ? join(building, 'root.ext4') : contentPath(disk.content);
    if (disk === null) {
      const makeRoom = (bytes: number): Promise<void> => store.makeRoom(bytes, 'an image', building);
      await makeFileSystem({ root: tree.root, contents: join(building, 'contents'), scratch: join(building, 'tree'), target, sha256: imageSha256, path: options.path, makeRoom, signal });
    }
    await syncFile(target);
    const sha256 = await hashFile(target, signal);
    await store.take(target, sha256);
    logger.info({ sha256 }, disk === null ? 'made a file system of a container image' : 'took a disk image out of a container image');
    return { sha256, isFileSystem: disk === null };
  }

  const contentPath = (content: number): string => join(building, 'contents', String(content));

  async function applyLayer(tree: LayerTree, source: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<void> {
    tree.beginLayer();
    let written = 0;
    for await (const entry of readTar(source)) {
      const wanted = tree.apply(entry);
      for (const content of tree.takeUnused()) await rm(contentPath(content), { force: true });
      if (wanted === null) continue;
      const file = await open(contentPath(wanted.content), 'wx', 0o600);
      try {
        await file.truncate(await writeSparse(file, entry.content(), signal));
      } finally {
        await file.close();
      }
      written += entry.bytes;
      if (written < spaceCheckBytes) continue;
      written = 0;
      await store.makeRoom(0, 'an image', building);
    }
  }

  /** The uncompressed bytes of a blob that has its digest, within the limit. */
  async function* verified(sha256: string, named: string, signal: AbortSignal, budget = { left: unpackedMaxBytes }): AsyncGenerator<Buffer> {
    const path = store.path(sha256);
    const hash = createHash('sha256');
    await hashInto(hash, path, signal);
    if (hash.digest('hex') !== sha256) throw await stale(sha256, named);
    for await (const chunk of decompress(path, await compressionOf(path), signal)) {
      budget.left -= chunk.length;
      if (budget.left < 0) throw new AppError('IMAGE_REFUSED', `the image becomes more than ${unpackedMaxBytes} bytes`);
      yield chunk;
    }
  }

  /** Zeros become holes. @returns the length */
  async function writeSparse(file: Awaited<ReturnType<typeof open>>, source: AsyncIterable<Buffer>, signal: AbortSignal): Promise<number> {
    let offset = 0;
    let checked = 0;
    for await (const chunk of source) {
      signal.throwIfAborted();
      if (chunk.length > zeroBlock.length || !zeroBlock.subarray(0, chunk.length).equals(chunk)) await writeAll(file, chunk, offset);
      offset += chunk.length;
      if (offset - checked < spaceCheckBytes) continue;
      checked = offset;
      await store.makeRoom(0, 'an image', building);
    }
    return offset;
  }

  return {
    make,
    find,
    async disksOf(images) {
      const kept = new Set<string>();
      for (const name of await listNames(records)) {
        const sha256 = recordPattern.exec(name)?.[1];
        const disk = sha256 === undefined ? null : await loadRecord(sha256);
        if (disk === null || sha256 === undefined || (await statOrNull(store.path(disk.sha256))) === null) await rm(join(records, name), { force: true });
        else if (images.has(sha256)) kept.add(disk.sha256);
      }
      return kept;
    },
  };
}

async function* hashed(source: AsyncIterable<Buffer>, hash: ReturnType<typeof createHash>): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    hash.update(chunk);
    yield chunk;
  }
}

type Compression = 'none' | 'gzip' | 'zstd';

/** By content: what a media type says of it is often wrong. */
async function compressionOf(path: string): Promise<Compression> {
  const file = await open(path, 'r');
  try {
    const { buffer } = await file.read(Buffer.alloc(4), 0, 4, 0);
    const magic = buffer.readUInt32BE(0);
    if (magic >>> 16 === 0x1f8b) return 'gzip';
    return magic === 0x28b52ffd || (magic & 0xf0ffffff) >>> 0 === 0x502a4d18 ? 'zstd' : 'none';
  } finally {
    await file.close();
  }
}

async function* decompress(path: string, compression: Compression, signal: AbortSignal): AsyncGenerator<Buffer> {
  if (compression === 'none') return yield* read(createReadStream(path, { highWaterMark: readBytes, signal }), null, signal);
  if (compression === 'gzip') return yield* read(createReadStream(path, { highWaterMark: readBytes, signal }), createGunzip({ chunkSize: readBytes }), signal);
  for await (const { start, end } of zstdFrames(path, signal)) {
    const frame = createReadStream(path, { start, end: end - 1, highWaterMark: readBytes, signal });
    yield* read(frame, createZstdDecompress({ chunkSize: readBytes, params: { [constants.ZSTD_d_windowLogMax]: zstdWindowLogMax } }), signal);
  }
}

async function* read(source: ReadStream, stage: Gunzip | ZstdDecompress | null, signal: AbortSignal): AsyncGenerator<Buffer> {
  const end = stage === null ? source : pipeline(source, stage, () => {}); // Its failure comes out of the loop below.
  try {
    for await (const chunk of end) yield chunk as Buffer; // A stream without an encoding yields buffers.
  } catch (error) {
    signal.throwIfAborted();
    if (stage !== null && error instanceof Error && 'code' in error && /^(Z_|ZSTD_|ERR_ZSTD)/.test(String(error.code))) throw new AppError('IMAGE_REFUSED', 'the image has content that can not be decompressed', { cause: error });
    throw error;
  } finally {
    source.destroy();
    stage?.destroy();
  }
}

/** As KubeVirt has them: nothing but one file in `/disk`. */
function findDisk({ root }: LayerTree): FileNode | null {
  const [[name, directory] = [], ...others] = root.children;
  if (name !== 'disk' || directory?.kind !== 'directory' || others.length > 0) return null;
  const [file, ...more] = directory.children.values();
  return file?.kind === 'file' && more.length === 0 ? file : null;
}
