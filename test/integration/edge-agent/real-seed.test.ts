/** The seed disk on a real Cloud Hypervisor: it is opened read-only, after the disks of the spec, and a guest reads it. */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { createCloudHypervisor } from '#edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { createSeeds } from '#edge-agent/adapters/seed/seeds.ts';
import { createVmDirectories } from '#edge-agent/adapters/vm-directories/vm-directories.ts';
import { deriveVmSpec } from '#edge-agent/steps/vm-spec.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { testDesired, testRecord } from '#test/builders/edge-microvm.ts';
import { until } from '#test/harness/until.ts';

const binary = process.env['NKUDO_TEST_HYPERVISOR'] ?? 'cloud-hypervisor';
const obstacle = findObstacle();
if (obstacle !== null) process.stdout.write(`skipped: the seed disk on a real cloud-hypervisor: ${obstacle}\n`);

function findObstacle(): string | null {
  try {
    execFileSync(binary, ['--version'], { stdio: 'ignore' });
  } catch {
    return 'no cloud-hypervisor on PATH';
  }
  try {
    closeSync(openSync('/dev/kvm', constants.O_RDWR));
    return null;
  } catch {
    return '/dev/kvm does not open';
  }
}

describe.skipIf(obstacle !== null)('a real VMM with a seed disk', () => {
  const id = microVMId('00000000-0000-4000-8000-000000000052');
  const signal = AbortSignal.timeout(120_000);
  const base = mkdtempSync(join(tmpdir(), 'nkudo-seed-'));
  const directories = createVmDirectories(base);
  const directory = directories.path(id);
  const hypervisor = createCloudHypervisor({ binaryPath: binary, environment: { PATH: process.env['PATH'] ?? '' } });
  const seeds = createSeeds({ directories, secrets: { load: () => [] }, nameServers: [] });
  const cloudInit = { hostName: 'guest', userData: '#cloud-config\n', sshAuthorizedKeys: [] };
  let guest: string;

  beforeAll(async () => {
    guest = (await buildGuest()).guest64;
    mkdirSync(directory, { recursive: true });
  });
  afterAll(async () => {
    await hypervisor.kill(directory, signal).catch(() => {});
    rmSync(base, { recursive: true, force: true });
  });

  async function boot(change: Partial<DesiredMicroVM>) {
    const desired = testDesired({ boot: { kind: 'kernel', path: guest, cmdline: 'tick' }, cloudInit, ...change });
    await seeds.ensure(id, desired);
    await hypervisor.spawn(directory, signal);
    await hypervisor.create(directory, deriveVmSpec(testRecord({ desired }), [], seeds.path(id)), signal);
    await hypervisor.boot(directory, signal);
    return hypervisor.info(directory, signal);
  }

  test('[E2] the guest reads it, can not write it, and finds it after all other disks', async () => {
    const info = await boot({});
    expect(info?.diskPaths).toEqual([seeds.path(id)]);
    const serialLog = hypervisor.paths(directory).serialLog;
    await until(() => /NKUDO-BLK read 0\b/.test(readFileSync(serialLog, 'latin1')), 'the guest to read its disk');
    await until(() => readFileSync(serialLog, 'latin1').includes('NKUDO-BLK write failed'), 'the guest to be refused a write');
    await hypervisor.shutdownVmm(directory, signal);
    const data = join(base, 'data.raw');
    writeFileSync(data, Buffer.alloc(2 ** 20));
    expect((await boot({ disks: [{ name: 'seed', path: data, readOnly: false }] }))?.diskPaths).toEqual([data, seeds.path(id)]);
    await hypervisor.shutdownVmm(directory, signal);
  });
});
