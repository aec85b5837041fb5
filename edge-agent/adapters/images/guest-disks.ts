/**
 * The GuestDisks port on the file system: `<vm directory>/disks/<name>.<format>`, with the number of the
 * start in the name of an Ephemeral one. A disk appears under its name only when it is whole, right and
 * durable, so a crash leaves at most a hidden file that the next start replaces.
 */
import { lchown, link, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { DiskSpec, SecretValue } from '#api/model/microvm.ts';
import { credentialsOf, type Credentials } from '../../domain/image-credentials.ts';
import { isManaged, readImageFormat, type ImageFormat } from '../../domain/images.ts';
import type { EnsuredDisks, GuestDisks, MadeDisk } from '../../ports/images.ts';
import type { VmDirectories } from '../../ports/vm-directories.ts';
import { ensureDirectory, syncDirectory, writeFileDurably } from '../system/durable-file.ts';
import { copySparse, growFile, hashFile, readHead, statOrNull, syncFile, writeError } from './files.ts';
import { sourceOf, type FoundImage, type ImageCache } from './image-cache.ts';
import { growFileSystem } from './unpack/file-system.ts';

export interface GuestDisksOptions {
  readonly stateDirectory: string;
  readonly directories: Pick<VmDirectories, 'path'>;
  readonly cache: ImageCache;
  /** Where the programs that make file systems larger are looked for. */
  readonly path: string | undefined;
  /** The values of Secrets that the host has of a microVM. */
  readonly secrets: (id: MicroVMId) => readonly SecretValue[];
}

type Source = FoundImage & { readonly kind: 'cached' };

/** In the directory of the disks: which of them are retained, for a deletion by a journal that lost the spec. */
const policyFile = 'retained.json';
/** Disks are whole sectors; a shorter last one is filled up with zeros. */
const sectorBytes = 512;
const formats: readonly ImageFormat[] = ['raw', 'qcow2'];

interface Making {
  readonly folder: string;
  readonly incarnation: number;
  readonly signal: AbortSignal;
}

export function createGuestDisks({ stateDirectory, directories, cache, path: programs, secrets }: GuestDisksOptions): GuestDisks {
  /** Images whose copy was wrong and which were fetched anew for it: once without a word, since then the file system is at fault, or the memory. */
  const distrusted = new Set<string>();
  const folderOf = (id: MicroVMId): string => join(directories.path(id), 'disks');

  async function ensure(vm: Parameters<GuestDisks['ensure']>[0], onNews: () => void, signal: AbortSignal): Promise<EnsuredDisks> {
    const { microvmId, desired, incarnation, only } = vm;
    const all = desired.disks.filter(isManaged);
    const disks = only === undefined ? all : all.filter(({ name }) => only.has(name));
    const making: Making = { folder: folderOf(microvmId), incarnation, signal };
    ensureDirectory(making.folder);
    await savePolicies(making.folder, all);
    await removeStale(making, all);
    const sources = new Map<string, Source>();
    for (const disk of disks) {
      const image = imageOf(disk);
      if (image === undefined || (await hasKeptDisk(making.folder, disk))) continue;
      const { managed } = disk;
      const credentials = (): Credentials | undefined => (managed === undefined ? undefined : credentialsOf(managed, secrets(microvmId)));
      const found = await cache.find({ ...image, credentials }, desired.images, microvmId, onNews);
      if (found.kind === 'pending') return { kind: 'pending', progress: `disk ${disk.name}: ${found.progress}` };
      sources.set(disk.name, found);
    }
    const made: MadeDisk[] = [];
    for (const disk of disks) {
      const one = await make(disk, sources.get(disk.name), making).catch((error: unknown) => {
        throw writeError(error, `disk ${disk.name}`);
      });
      // The image was not right any more and is gone: it is fetched again.
      if (one === null) return ensure(vm, onNews, signal);
      made.push(one);
    }
    syncDirectory(making.folder);
    return { kind: 'made', disks: made };
  }

  /** @returns null when the image does not have its digest any more */
  async function make(disk: DiskSpec, source: Source | undefined, making: Making): Promise<MadeDisk | null> {
    const kept = await findKept(making.folder, disk);
    if (kept !== null && (await isAsImage(disk, kept, source, making.signal))) return adjust(disk, kept);
    const temporary = join(making.folder, `.${disk.name}.new`);
    await rm(temporary, { force: true });
    const image = imageOf(disk);
    if (image === undefined) await makeBlank(temporary);
    else if (source === undefined) return null;
    else {
      const isShared = disk.readOnly && disk.sizeBytes === undefined && ((await statOrNull(source.path))?.size ?? 1) % sectorBytes === 0;
      if (isShared) await link(source.path, temporary);
      else {
        await cache.makeRoom(((await statOrNull(source.path))?.blocks ?? 0) * 512, `disk ${disk.name}`, making.folder);
        await copySparse(source.path, temporary, making.signal);
      }
      // The copy is what the guest gets, so the copy is hashed.
      if ((await hashFile(temporary, making.signal)) !== source.sha256) {
        await rm(temporary, { force: true });
        await cache.discard(source.sha256);
        if (distrusted.delete(source.sha256)) throw new AppError('IMAGE_DIGEST_MISMATCH', `the copy of the image of disk ${disk.name} is not what was fetched, for the second time: look at the storage and the memory of this host`);
        distrusted.add(source.sha256);
        return null;
      }
      distrusted.delete(source.sha256);
    }
    // A blank disk begins with zeros whatever its guest writes later: its format is never guessed again.
    const { format, virtualBytes } = image === undefined ? { format: 'raw' as const } : readImageFormat(await readHead(temporary));
    await checkSize(disk, temporary, virtualBytes);
    if (format === 'raw' && (await resize(disk, temporary)) && source?.isFileSystem === true) await growFileSystem(temporary, programs, making.signal);
    const path = join(making.folder, nameOf(disk, making.incarnation, format));
    await rename(temporary, path);
    syncDirectory(making.folder);
    return { name: disk.name, path, format };
  }

  return {
    ensure,
    forgo: (microvmId) => cache.forgo(microvmId),
    async release(microvmId, desired) {
      const folder = folderOf(microvmId);
      if ((await statOrNull(folder)) === null) return;
      const retained = new Set(await loadPolicies(folder));
      for (const { name, managed } of desired?.disks ?? []) {
        if (managed?.isRetained === true) retained.add(name);
        else retained.delete(name);
      }
      const target = join(stateDirectory, 'retained-disks', microvmId);
      for (const file of await readdir(folder)) {
        const [name = '', format = '', ...more] = file.split('.');
        if (more.length > 0 || !retained.has(name) || !isFormat(format)) continue;
        ensureDirectory(target);
        // The user of the VMM goes to another microVM when the directory is gone, and must not find a file of its own there.
        await lchown(join(folder, file), process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
        await rename(join(folder, file), join(target, file));
        syncDirectory(target);
      }
      syncDirectory(folder);
    },
    stop: () => cache.stop(),
  };
}

function imageOf({ managed }: DiskSpec): ReturnType<typeof sourceOf> {
  return managed === undefined ? undefined : sourceOf(managed);
}

function isFormat(text: string): text is ImageFormat {
  return formats.some((format) => format === text);
}

function nameOf({ name, managed }: DiskSpec, incarnation: number, format: ImageFormat): string {
  return managed?.persistence === 'Ephemeral' ? `${name}.${incarnation}.${format}` : `${name}.${format}`;
}

/** The file of a Persistent disk that was made before. */
async function findKept(folder: string, { name, managed }: DiskSpec): Promise<MadeDisk | null> {
  if (managed?.persistence !== 'Persistent') return null;
  for (const format of formats) {
    const path = join(folder, `${name}.${format}`);
    if ((await statOrNull(path)) !== null) return { name, path, format };
  }
  return null;
}

/** A disk that its guest may have written needs no image again. */
async function hasKeptDisk(folder: string, disk: DiskSpec): Promise<boolean> {
  return !disk.readOnly && (await findKept(folder, disk)) !== null;
}

/** What a guest can't write must still be the image; with a size of its own it has other bytes than the image, and is made anew. */
async function isAsImage(disk: DiskSpec, kept: MadeDisk, source: Source | undefined, signal: AbortSignal): Promise<boolean> {
  return !disk.readOnly || imageOf(disk) === undefined || (await hashFile(kept.path, signal)) === source?.sha256;
}

async function adjust(disk: DiskSpec, kept: MadeDisk): Promise<MadeDisk> {
  const { format, virtualBytes } = readImageFormat(await readHead(kept.path));
  // Measured on cloud-hypervisor v53: it goes by the content of the file, whatever format it is told. A guest
  // that made its raw disk look like another one would choose what the VMM opens.
  if (format !== kept.format) throw new AppError('IMAGE_REFUSED', `disk ${disk.name} was made ${kept.format}, and its guest has made it look ${format}`);
  if (format === 'qcow2') await checkSize(disk, kept.path, virtualBytes);
  else if (disk.sizeBytes !== undefined) await growFile(kept.path, disk.sizeBytes);
  return kept;
}

async function makeBlank(path: string): Promise<void> {
  await writeFile(path, '', { mode: 0o600 });
  await syncFile(path);
}

/** @returns whether it is larger now */
async function resize({ sizeBytes }: DiskSpec, path: string): Promise<boolean> {
  const length = (await statOrNull(path))?.size ?? 0;
  const wanted = Math.ceil(Math.max(length, sizeBytes ?? 0) / sectorBytes) * sectorBytes;
  await growFile(path, wanted);
  return wanted > length;
}

/** @throws IMAGE_REFUSED */
async function checkSize(disk: DiskSpec, path: string, virtualBytes: number | undefined): Promise<void> {
  const { name, sizeBytes } = disk;
  if (sizeBytes === undefined || imageOf(disk) === undefined) return;
  const imageBytes = virtualBytes ?? (await statOrNull(path))?.size ?? 0;
  if (sizeBytes < imageBytes) throw new AppError('IMAGE_REFUSED', `disk ${name} has ${sizeBytes} bytes, its image needs ${imageBytes}`);
  if (virtualBytes !== undefined && sizeBytes > virtualBytes) throw new AppError('IMAGE_REFUSED', `disk ${name}: a qcow2 image of ${virtualBytes} bytes can not be grown here; leave size out, or convert the image to raw`);
}

/** Hidden files of a broken start, and Ephemeral disks of all starts but this one. */
async function removeStale({ folder, incarnation }: Making, disks: readonly DiskSpec[]): Promise<void> {
  const persistent = new Set(disks.filter(({ managed }) => managed?.persistence === 'Persistent').map(({ name }) => name));
  for (const file of await readdir(folder)) {
    const [name = '', middle, ...more] = file.split('.');
    const isOldStart = more.length === 1 && !persistent.has(name) && middle !== String(incarnation);
    if (file.startsWith('.') || isOldStart) await rm(join(folder, file), { force: true });
  }
}

async function savePolicies(folder: string, disks: readonly DiskSpec[]): Promise<void> {
  const known = await loadPolicies(folder);
  const retained = new Set(known);
  for (const { name, managed } of disks) {
    if (managed?.isRetained === true) retained.add(name);
    else retained.delete(name);
  }
  const next = [...retained].sort();
  if (next.join() !== [...known].sort().join()) writeFileDurably(join(folder, policyFile), JSON.stringify(next));
}

async function loadPolicies(folder: string): Promise<readonly string[]> {
  const path = join(folder, policyFile);
  if ((await statOrNull(path)) === null) return [];
  try {
    const parsed: unknown = JSON.parse(await readFile(path, 'utf8'));
    return Array.isArray(parsed) ? parsed.filter((name) => typeof name === 'string') : [];
  } catch (error) {
    // It is written whole or not at all; a damaged one says nothing.
    if (error instanceof SyntaxError) return [];
    throw error;
  }
}
