/** The rpm of the agent, read without rpm's own tools: what it says of itself, its files and what its scripts do. It was installed nowhere. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { agentFiles, settingsFile } from '#hack/release/package-files.ts';
import { buildPackage } from '#hack/release/packages.ts';
import { readRpmHeader } from './rpm-header.ts';

test('the rpm says what it needs, keeps the settings, and its scripts never touch a microVM', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'nkudo-rpm-'));
  try {
    const program = join(directory, 'program');
    writeFileSync(program, 'the program', { mode: 0o600 });
    const target = join(directory, 'nkudo-edge.rpm');
    const files = agentFiles({ path: program, inputs: ['node_modules/pino/lib/proto.js'] }, '0.4.0-rc.1');
    await buildPackage({ format: 'rpm', files, version: '0.4.0-rc.1', architecture: 'x64', sourceDateEpoch: 1_750_000_000, target });
    const header = readRpmHeader(readFileSync(target));
    expect(header).toMatchObject({ name: 'nkudo-edge', version: '0.4.0~rc.1', release: '1', architecture: 'x86_64', license: 'Apache-2.0' });
    expect(header.requires).toEqual(expect.arrayContaining(['systemd', 'util-linux', 'nftables', 'iproute', 'glibc']));
    expect(header.files.map(({ path }) => path)).toEqual(files.map((file) => file.target));
    const fileOf = (path: string) => header.files.find((file) => file.path === path);
    expect(fileOf(settingsFile)).toEqual({ path: settingsFile, mode: 0o640, isSetting: true, isKept: true });
    expect(fileOf('/usr/lib/nkudo-edge/nkudo-edge')).toEqual({ path: '/usr/lib/nkudo-edge/nkudo-edge', mode: 0o755, isSetting: false, isKept: false });
    expect(header.scripts.post).toContain('try-restart nkudo-edge.service');
    expect(header.scripts.preun).toContain('stop nkudo-edge.service');
    for (const script of Object.values(header.scripts)) {
      execFileSync('sh', ['-n'], { input: script });
      expect(script).not.toMatch(/nkudo-vmm|nkudo\.slice|\/var\/lib\/nkudo-edge\/vms/);
    }
    // The payload, by another reader.
    expect(execFileSync('bsdtar', ['-xPOf', target, '/usr/lib/nkudo-edge/nkudo-edge'], { encoding: 'utf8' })).toBe('the program');
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
