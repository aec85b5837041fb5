/**
 * Turns what a VMM refused into one of the product's error codes: by the HTTP status, by looking at
 * the files that the spec names, and only for a locked disk by the VMM's own words, since nothing
 * else tells it.
 */
import { open } from 'node:fs/promises';
import { AppError, type ErrorCode } from '#api/model/error-codes.ts';
import type { VmDisk, VmSpec } from '../../ports/hypervisor.ts';
import type { Refusal } from './api-client.ts';
import { isErrno } from '../system/errno.ts';

/** Pinned for v53 and v54, last in the chain; proven by the conformance suite on the real binary. */
const lockedDiskWords = 'The file is already locked';

const chainCharsMax = 500;

/** The error for a refusal of which nothing more is known. */
export function refusalError(call: string, refusal: Refusal, code?: ErrorCode): AppError {
  const words = refusal.chain.join(': ').slice(0, chainCharsMax);
  return new AppError(code ?? codeOf(refusal), `${call} was refused with ${refusal.status}: ${words}`, { details: { call, status: refusal.status } });
}

/** 400 and 409 are configuration validation; see the VMM's own mapping, complete since v53.0-246. */
function codeOf(refusal: Refusal): ErrorCode {
  if (refusal.chain.includes(lockedDiskWords)) return 'DISK_IN_USE';
  return refusal.status === 400 || refusal.status === 409 ? 'SPEC_REFUSED' : 'HYPERVISOR_FAILED';
}

/** The error for a refused boot, made more exact by what is wrong with the files now. */
export async function bootRefusalError(spec: VmSpec | null, refusal: Refusal): Promise<AppError> {
  const problem = spec === null ? null : await findFileProblem(spec);
  return problem ?? refusalError('vm.boot', refusal);
}

/**
 * What is wrong with the files that a spec names: missing ones, and a kernel of no known format. The
 * error's details name the file as `path`, so that a caller can wait for it.
 * The VMM checks them at boot only, and then boots without a missing disk when asked again.
 */
export async function findFileProblem(spec: VmSpec): Promise<AppError | null> {
  const kernelHead = await readHead(spec.boot.path);
  if (kernelHead === null) return fileError('KERNEL_NOT_FOUND', spec.boot.path, 'no such file');
  if (spec.boot.kind === 'kernel') {
    if (!isKernel(kernelHead)) return fileError('KERNEL_NOT_BOOTABLE', spec.boot.path, 'neither an ELF file nor a bzImage');
    const initramfs = spec.boot.initramfsPath;
    if (initramfs !== undefined && (await readHead(initramfs)) === null) return fileError('INITRAMFS_NOT_FOUND', initramfs, 'no such file');
  }
  for (const disk of spec.disks) {
    const problem = await findDiskProblem(disk);
    if (problem !== null) return problem;
  }
  return null;
}

export async function findDiskProblem({ name, path }: Pick<VmDisk, 'name' | 'path'>): Promise<AppError | null> {
  return (await readHead(path)) === null ? fileError('DISK_NOT_FOUND', path, `disk ${name}: no such file`) : null;
}

function fileError(code: ErrorCode, path: string, words: string, cause?: unknown): AppError {
  return new AppError(code, `${words}: ${path}`, { details: { path }, cause });
}

const headBytes = 0x206;

/** The first bytes of a file; null when there is none. A directory counts as none. */
async function readHead(path: string): Promise<Buffer | null> {
  let file;
  try {
    file = await open(path, 'r');
    const { bytesRead, buffer } = await file.read(Buffer.alloc(headBytes), 0, headBytes, 0);
    return buffer.subarray(0, bytesRead);
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR') || isErrno(error, 'EISDIR')) return null;
    throw fileError('HYPERVISOR_FAILED', path, 'can not be read', error);
  } finally {
    await file?.close();
  }
}

/** ELF magic, or `HdrS` at 0x202. Source: Linux Documentation/arch/x86/boot.rst. */
function isKernel(head: Buffer): boolean {
  return head.subarray(0, 4).equals(Buffer.from('\x7fELF', 'latin1')) || head.subarray(0x202, 0x206).toString('latin1') === 'HdrS';
}
