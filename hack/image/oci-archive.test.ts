import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { repositoryRoot } from '../build-cache.ts';
import { controllerConfig } from './build-image.ts';
import { fullName, writeOciArchive } from './oci-archive.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'nkudo-oci-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function makeRoot(name: string, order: readonly string[]): string {
  const root = join(directory, name);
  mkdirSync(root);
  chmodSync(root, 0o755);
  for (const file of order) {
    writeFileSync(join(root, file), `content of ${file}`, { mode: 0o644 });
    utimesSync(join(root, file), Math.random() * 1e9, Math.random() * 1e9);
  }
  return root;
}

const write = (archive: string, root: string, isCompressed: boolean): Promise<void> =>
  writeOciArchive(join(directory, archive), { root, name: 'nkudo/controller:1', config: controllerConfig, createdAt: 1_700_000_000, isCompressed });

/** A file of the archive. */
const read = (archive: string, path: string): Buffer => execFileSync('tar', ['--extract', '--to-stdout', `--file=${join(directory, archive)}`, `./${path}`], { maxBuffer: 2 ** 26 });
const readJson = (archive: string, path: string): unknown => JSON.parse(read(archive, path).toString('utf8'));
const blob = (digest: string): string => `blobs/sha256/${digest.replace('sha256:', '')}`;
const sha256 = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

describe('an OCI archive that is written here', () => {
  it('is the same bytes for the same files, whenever and in whatever order they were made', async () => {
    await write('first.tar', makeRoot('first', ['b', 'a']), true);
    await write('second.tar', makeRoot('second', ['a', 'b']), true);
    expect(sha256(readFileSync(join(directory, 'first.tar')))).toBe(sha256(readFileSync(join(directory, 'second.tar'))));
  });

  it.each([true, false])('names every part by the hash of what is there, compressed: %s', async (isCompressed) => {
    await write('image.tar', makeRoot('root', ['a']), isCompressed);
    const index = readJson('image.tar', 'index.json') as { manifests: { digest: string; size: number; annotations: Record<string, string> }[] }; // Written a line above.
    const [entry] = index.manifests;
    expect(entry?.annotations['io.containerd.image.name']).toBe('docker.io/nkudo/controller:1');
    const manifest = readJson('image.tar', blob(entry?.digest ?? '')) as { config: { digest: string; size: number }; layers: { digest: string; size: number; mediaType: string }[] };
    const [layer] = manifest.layers;
    for (const part of [entry, manifest.config, layer]) {
      const bytes = read('image.tar', blob(part?.digest ?? ''));
      expect([sha256(bytes), bytes.length]).toEqual([part?.digest, part?.size]);
    }
    expect(layer?.mediaType.endsWith('+gzip')).toBe(isCompressed);
    const config = readJson('image.tar', blob(manifest.config.digest)) as { rootfs: { diff_ids: string[] }; config: object };
    expect(config.config).toEqual(controllerConfig);
    const stored = read('image.tar', blob(layer?.digest ?? ''));
    const unpacked = isCompressed ? execFileSync('gzip', ['-dc'], { input: stored }) : stored;
    expect(config.rootfs.diff_ids).toEqual([sha256(unpacked)]);
    expect(execFileSync('tar', ['--list', '--verbose', '--numeric-owner', '--full-time', '--utc'], { input: unpacked }).toString('utf8')).toMatch(/-rw-r--r-- 0\/0 +12 2023-11-14 22:13:20 \.\/a/);
  });

  it('says of the controller what its Dockerfile says', () => {
    const dockerfile = readFileSync(join(repositoryRoot, 'hack/image/controller.Dockerfile'), 'utf8');
    const line = (instruction: string): string => new RegExp(`^${instruction} (.+)$`, 'm').exec(dockerfile)?.[1] ?? '';
    expect(controllerConfig).toEqual({ User: line('USER'), Env: [line('ENV')], Entrypoint: JSON.parse(line('ENTRYPOINT')) as unknown, Cmd: JSON.parse(line('CMD')) as unknown });
  });

  it.each([
    ['postgres:18', 'docker.io/library/postgres:18'],
    ['nkudo/controller:1', 'docker.io/nkudo/controller:1'],
    ['nkudo.local/pause:1', 'nkudo.local/pause:1'],
    ['localhost/x:1', 'localhost/x:1'],
  ])('takes %s for %s', (name, full) => {
    expect(fullName(name)).toBe(full);
  });
});
