import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { buildOnce, contentKey, processStartTime, withFileLock } from './build-cache.ts';

let cache: string;

beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'nkudo-cache-'));
  vi.stubEnv('XDG_CACHE_HOME', cache);
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true, force: true });
});

describe('the build cache', () => {
  it('builds one artefact once for callers at the same time', async () => {
    let builds = 0;
    const request = {
      kind: 'thing',
      key: 'k',
      build: (folder: string) => {
        builds += 1;
        writeFileSync(join(folder, 'out'), 'built');
        return Promise.resolve();
      },
    };

    const folders = await Promise.all([buildOnce(request), buildOnce(request)]);

    expect(builds).toBe(1);
    expect(new Set(folders).size).toBe(1);
    expect(readFileSync(join(folders[0], 'out'), 'utf8')).toBe('built');
  });

  it('leaves nothing of a build that failed', async () => {
    const failing = { kind: 'thing', key: 'k', build: () => Promise.reject(new Error('no compiler')) };

    await expect(buildOnce(failing)).rejects.toThrow('no compiler');

    expect(readdirSync(join(cache, 'nkudo', 'thing'))).toEqual([]);
  });

  it('takes over the lock of a process that died', async () => {
    const lock = join(cache, 'lock');
    writeFileSync(lock, `${process.pid} 1`); // This pid lives, but it started at another time.

    const result = await withFileLock(lock, () => {}, () => Promise.resolve('done'));

    expect(result).toBe('done');
    expect(existsSync(lock)).toBe(false);
  });

  it('gives other keys to other content, also when the parts are cut differently', () => {
    expect(contentKey(['ab', 'c'])).not.toBe(contentKey(['a', 'bc']));
    expect(contentKey(['ab', 'c'])).toBe(contentKey(['ab', 'c']));
  });

  it('knows when a process started, and that there is no such process', () => {
    expect(processStartTime(process.pid)).toMatch(/^\d+$/);
    expect(processStartTime(2 ** 22 + 1)).toBeNull();
  });
});
