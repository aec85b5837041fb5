import { describe, expect, it } from 'vitest';
import { compareVersions, isVersion, judgeRelease, type ReleaseManifest } from './release.ts';

const artifact = { name: 'nkudo-edge', architecture: 'x86_64', fileName: 'nkudo-edge-0.3.0-x86_64', bytes: 1, sha256: 'ab' } as const;
const manifest: ReleaseManifest = { version: '0.3.0', createdAtMs: 1_000, expiresAtMs: 2_000, mayReplace: [], artifacts: [artifact] };
const situation = { runningVersion: '0.2.0', previousVersion: '0.1.0', architecture: 'x86_64', nowMs: 1_500 };

describe('versions', () => {
  it('are ordered as semver says', () => {
    const ordered = ['0.1.0-alpha', '0.1.0-alpha.1', '0.1.0-alpha.beta', '0.1.0-beta.2', '0.1.0-beta.11', '0.1.0-rc.1', '0.1.0', '0.2.0', '0.10.0', '1.0.0'];
    for (const [index, version] of ordered.entries()) {
      for (const [other, otherVersion] of ordered.entries()) expect(Math.sign(compareVersions(version, otherVersion)), `${version} ${otherVersion}`).toBe(Math.sign(index - other));
    }
  });

  it('are nothing that could be a path', () => {
    expect(['1.2.3', '0.4.1-rc.1'].every(isVersion)).toBe(true);
    expect(['', '1.2', '01.2.3', '1.2.3/..', '1.2.3-', '1.2.3+x', `1.2.3-${'a'.repeat(64)}`].some(isVersion)).toBe(false);
  });
});

describe('a release whose signature is good', () => {
  it('is installed when it is newer', () => expect(judgeRelease(manifest, situation)).toEqual({ kind: 'install', artifact }));
  it('is refused from the moment on that it expires', () => expect(judgeRelease(manifest, { ...situation, nowMs: 2_000 })).toMatchObject({ code: 'RELEASE_EXPIRED' }));
  it('is refused for a machine of another kind', () => expect(judgeRelease(manifest, { ...situation, architecture: 'aarch64' })).toMatchObject({ code: 'RELEASE_UNSUITABLE' }));
  it('is nothing new when it runs already, also after it expired', () => expect(judgeRelease(manifest, { ...situation, runningVersion: '0.3.0', nowMs: 9_000 })).toEqual({ kind: 'present' }));

  it('is refused when it is older, but for the version that ran last here and one that names what it may replace', () => {
    const newer = { ...situation, runningVersion: '0.4.0' };
    expect(judgeRelease(manifest, newer)).toMatchObject({ code: 'RELEASE_OLDER' });
    expect(judgeRelease(manifest, { ...newer, previousVersion: '0.3.0' }).kind).toBe('install');
    expect(judgeRelease({ ...manifest, mayReplace: ['0.4.0'] }, newer).kind).toBe('install');
    expect(judgeRelease({ ...manifest, mayReplace: ['0.5.0'] }, newer)).toMatchObject({ code: 'RELEASE_OLDER' });
  });
});
