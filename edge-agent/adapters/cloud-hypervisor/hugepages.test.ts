import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { VmSpec } from '../../ports/hypervisor.ts';
import { findHugepageProblem } from './hugepages.ts';

const mebibyte = 2 ** 20;
const directory = mkdtempSync(join(tmpdir(), 'nkudo-hugepages-'));
mkdirSync(join(directory, 'hugepages-2048kB'));
writeFileSync(join(directory, 'hugepages-2048kB', 'free_hugepages'), '128\n');
afterAll(() => rmSync(directory, { recursive: true }));

const spec = (change: Partial<VmSpec>): VmSpec => ({ cpuCount: 1, cpuMax: 1, memoryBytes: 256 * mebibyte, boot: { kind: 'kernel', path: '/k', cmdline: '' }, disks: [], serialLog: true, ...change });
const codeOf = async (change: Partial<VmSpec>): Promise<string | undefined> => (await findHugepageProblem(spec(change), directory))?.code;

test('[E2] memory in huge pages needs enough free ones of that size for all that the guest may be given', async () => {
  expect(await codeOf({})).toBe(undefined);
  expect(await codeOf({ hugepageBytes: 2 * mebibyte })).toBe(undefined);
  expect(await codeOf({ hugepageBytes: 2 * mebibyte, memoryBytes: 258 * mebibyte })).toBe('HUGEPAGES_UNAVAILABLE');
  expect(await codeOf({ hugepageBytes: 2 * mebibyte, memoryMaxBytes: 384 * mebibyte })).toBe('HUGEPAGES_UNAVAILABLE');
  // A size that the host has none of.
  expect((await findHugepageProblem(spec({ hugepageBytes: 1024 * mebibyte }), directory))?.message).toBe('the memory of the microVM needs 1 huge pages of 1024 MiB, the host has 0 free');
});
