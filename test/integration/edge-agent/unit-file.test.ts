/** The systemd unit as systemd itself reads it, without a running one. */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const unit = join(import.meta.dirname, '..', '..', '..', 'edge-agent', 'packaging', 'nkudo-edge.service');
const units = '/usr/lib/systemd/system';
const isThere = spawnSync('systemd-analyze', ['--version'], { stdio: 'ignore' }).status === 0 && existsSync(units);
if (!isThere) process.stdout.write('the unit was not verified: there is no systemd-analyze here\n');

test.skipIf(!isThere)('the unit is one that systemd takes without a word', () => {
  const root = mkdtempSync(join(tmpdir(), 'nkudo-unit-'));
  try {
    mkdirSync(join(root, units), { recursive: true });
    mkdirSync(join(root, 'usr/lib/nkudo-edge'), { recursive: true });
    for (const name of readdirSync(units)) if (name.endsWith('.target')) copyFileSync(join(units, name), join(root, units, name));
    copyFileSync(unit, join(root, units, 'nkudo-edge.service'));
    writeFileSync(join(root, 'usr/lib/nkudo-edge/launcher'), '', { mode: 0o755 });
    const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', `--root=${root}`, 'nkudo-edge.service'], { encoding: 'utf8' });
    // Of a target of the machine, not of the unit.
    expect([status, `${stdout}${stderr}`.split('\n').filter((line) => line.includes('nkudo'))]).toEqual([0, []]);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});

test.skipIf(!isThere)('the unit exposes the machine no more than docs/edge.md says', () => {
  const text = execFileSync('systemd-analyze', ['security', '--offline=true', '--threshold=45', unit], { encoding: 'utf8' });
  const level = Number(/Overall exposure level for nkudo-edge.service: ([\d.]+)/.exec(text)?.[1]);
  process.stdout.write(`exposure of nkudo-edge.service: ${level}\n`);
  expect(level).toBeLessThanOrEqual(4.5);
});
