/**
 * Whether the host has the huge pages that a spec asks for. The VMM maps them without a word and its guest
 * dies by SIGBUS when they run out, so this is looked at before anything is made.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import type { VmSpec } from '../../ports/hypervisor.ts';

/** Source: Linux Documentation/admin-guide/mm/hugetlbpage.rst. */
const kernelDirectory = '/sys/kernel/mm/hugepages';

/** Null when there are enough, or none are needed. What the guest may be given later counts as well: then nobody could refuse it. */
export async function findHugepageProblem({ hugepageBytes, memoryBytes, memoryMaxBytes = memoryBytes }: VmSpec, directory: string = kernelDirectory): Promise<AppError | null> {
  if (hugepageBytes === undefined) return null;
  const needed = Math.ceil(memoryMaxBytes / hugepageBytes);
  const free = await readFree(join(directory, `hugepages-${hugepageBytes / 1024}kB`, 'free_hugepages'));
  if (free >= needed) return null;
  return new AppError('HUGEPAGES_UNAVAILABLE', `the memory of the microVM needs ${needed} huge pages of ${hugepageBytes / 2 ** 20} MiB, the host has ${free} free`);
}

/** 0 on a host that has no pages of that size. */
async function readFree(path: string): Promise<number> {
  const text = await readFile(path, 'utf8').catch(() => '0');
  return Number.parseInt(text, 10) || 0;
}
