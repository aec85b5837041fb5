/**
 * Pure decisions about images and disks: what a file is by its first bytes, which servers are allowed,
 * how a broken transfer goes on, what leaves a full cache first, and how coarsely progress is told.
 */
import { AppError } from '#api/model/error-codes.ts';
import type { DesiredMicroVM, DiskSpec } from '#api/model/microvm.ts';
import type { MicroVMRecord } from './microvm-record.ts';

export type ImageFormat = 'raw' | 'qcow2';

/** Bytes from the beginning of a file that {@link readImageFormat} looks at. */
export const imageHeadBytes = 104;

/**
 * Source: QEMU docs/interop/qcow2.rst. A qcow2 file may name a backing file, or keep its data in another
 * file (incompatible feature bit 2): opened by a VMM it would show the guest any file of the host.
 * @throws IMAGE_REFUSED
 */
export function readImageFormat(head: Uint8Array): { readonly format: ImageFormat; readonly virtualBytes?: number } {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (head.byteLength < 72 || view.getUint32(0) !== qcow2Magic) return { format: 'raw' };
  if (view.getBigUint64(8) !== 0n || view.getUint32(16) !== 0) throw new AppError('IMAGE_REFUSED', 'the qcow2 file has a backing file');
  if (view.getUint32(4) >= 3 && head.byteLength >= 80 && (view.getBigUint64(72) & externalDataBit) !== 0n) {
    throw new AppError('IMAGE_REFUSED', 'the qcow2 file keeps its data in another file');
  }
  return { format: 'qcow2', virtualBytes: Number(view.getBigUint64(24)) };
}

/** `QFI\xfb`. */
const qcow2Magic = 0x514649fb;
const externalDataBit = 4n;

/** @param allowed `host`, `host:port`, or either with the beginning of a path; empty: every server */
export function isAllowedServer(url: URL, allowed: readonly string[]): boolean {
  return allowed.length === 0 || allowed.some((entry) => matchesServer(url, entry));
}

function matchesServer(url: URL, entry: string): boolean {
  const slash = entry.indexOf('/');
  const server = slash < 0 ? entry : entry.slice(0, slash);
  const path = slash < 0 ? '' : entry.slice(slash).replace(/\/+$/, '');
  const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
  // An entry without a port means the usual one, so that nothing else on that machine is meant.
  const isServer = server === `${url.hostname}:${port}` || (server === url.hostname && url.port === '');
  return isServer && (url.pathname === path || url.pathname.startsWith(`${path}/`));
}

/** What the answer to a request from byte `have` on means. */
export type TransferStart = { readonly kind: 'append' } | { readonly kind: 'anew' } | { readonly kind: 'refused'; readonly error: AppError };

export function readTransferStart(answer: { readonly status: number; readonly contentRange: string | undefined }, have: number): TransferStart {
  const { status, contentRange } = answer;
  if (status === 200) return { kind: 'anew' };
  if (status === 206) {
    const start = Number(/^bytes (\d+)-/.exec(contentRange ?? '')?.[1] ?? Number.NaN);
    return start === have ? { kind: 'append' } : { kind: 'refused', error: new AppError('IMAGE_UNAVAILABLE', 'the server sent another part of the image than was asked for') };
  }
  const isPassing = status === 408 || status === 429 || status >= 500;
  const isDenied = status === 401 || status === 403;
  return { kind: 'refused', error: new AppError(isPassing ? 'IMAGE_UNAVAILABLE' : isDenied ? 'IMAGE_ACCESS_DENIED' : 'IMAGE_NOT_FOUND', `the server answered ${status}`) };
}

export interface CachedImage {
  readonly sha256: string;
  readonly bytes: number;
  readonly usedAtMs: number;
}

/** The images that go so that `bytes` become free: the longest unused first, and never a pinned one. All that may go when it is not enough. */
export function chooseEvictions(images: readonly CachedImage[], pinned: ReadonlySet<string>, bytes: number): readonly CachedImage[] {
  const chosen: CachedImage[] = [];
  let freed = 0;
  for (const image of [...images].filter(({ sha256 }) => !pinned.has(sha256)).sort((a, b) => a.usedAtMs - b.usedAtMs)) {
    if (freed >= bytes) break;
    chosen.push(image);
    freed += image.bytes;
  }
  return chosen;
}

/** Images that must stay, by the digest of the spec: those of microVMs that run or are being started. */
export function pinnedImages(records: Iterable<{ readonly record: MicroVMRecord; readonly isLive: boolean }>): ReadonlySet<string> {
  const pinned = new Set<string>();
  for (const { record, isLive } of records) {
    if (record.isTombstone || record.isDeleting || !(isLive || record.run.phase === 'starting')) continue;
    for (const { managed } of record.desired?.disks ?? []) {
      const sha256 = managed?.image?.sha256 ?? managed?.oci?.sha256;
      if (sha256 !== undefined) pinned.add(sha256);
    }
  }
  return pinned;
}

/** Steps in which progress is told; each one is a report to the control plane. */
const progressStepPercent = 25;

export function coarseProgress(done: number, total: number | undefined): string {
  if (total === undefined || total === 0) return 'under way';
  const percent = Math.floor((100 * done) / total / progressStepPercent) * progressStepPercent;
  return `${Math.min(100, percent)} % of ${Math.ceil(total / 2 ** 20)} MiB`;
}

/** Names the disks of one start: Ephemeral ones are made anew for each. */
export function disksKey({ run, desired }: MicroVMRecord): string {
  return `${run.incarnation} ${JSON.stringify([(desired?.disks ?? []).filter(isManaged), desired?.images ?? null])}`;
}

export function isManaged(disk: DiskSpec): boolean {
  return disk.managed !== undefined;
}

export function hasManagedDisks(desired: DesiredMicroVM | null): boolean {
  return desired !== null && desired.disks.some(isManaged);
}
