/** What a host installs and what it refuses, on real files and signatures. The launcher's part has tests of its own. */
import { createHash, createPublicKey } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { encodeReleaseManifest } from '#api/codec/release-codec.ts';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import type { ReleaseManifest } from '#api/model/release.ts';
import { makeReleaseKey, readReleaseKey, signContent } from '#hack/release/sign.ts';
import { createAgentSlots } from '../adapters/agent-slots/agent-slots.ts';
import { createReleases } from '../adapters/releases/releases.ts';
import { createSystemClock, systemEntropy as entropy } from '../adapters/system/clock.ts';
import { encodeSelection, parseSelection, type SlotSelection } from '../domain/slot-selection.ts';
import { installRelease } from './install-release.ts';

const pair = makeReleaseKey();
const key = readReleaseKey(pair.privateKeyPem);
const otherKey = readReleaseKey(makeReleaseKey().privateKeyPem);
const program = Buffer.from('the program of version 0.3.0');
const nowMs = Date.parse('2026-06-01T00:00:00Z');
const good: ReleaseManifest = {
  version: '0.3.0',
  createdAtMs: nowMs - 1_000,
  expiresAtMs: nowMs + 1_000,
  mayReplace: [],
  artifacts: [{ name: 'nkudo-edge', architecture: 'x86_64', fileName: 'nkudo-edge-0.3.0', bytes: program.length, sha256: createHash('sha256').update(program).digest('hex') }],
};

let root: string;
const at = (...names: string[]): string => join(root, ...names);
const selection = (): SlotSelection => parseSelection(existsSync(at('agent/selection')) ? readFileSync(at('agent/selection'), 'utf8') : '');

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'nkudo-install-'));
  mkdirSync(at('agent'));
  mkdirSync(at('package'));
  writeFileSync(at('package/version'), '0.1.0\n');
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

interface Trick {
  readonly manifest?: Partial<ReleaseManifest>;
  readonly signedBy?: typeof key;
  readonly afterSigning?: (text: string) => string;
  readonly content?: Uint8Array;
  readonly signature?: string;
  readonly runningVersion?: string;
  readonly version?: string;
}

function install(trick: Trick = {}): Promise<unknown> {
  const text = encodeReleaseManifest({ ...good, ...trick.manifest });
  writeFileSync(at('manifest.json'), trick.afterSigning?.(text) ?? text);
  writeFileSync(at('manifest.json.sigstore.json'), trick.signature ?? signContent(Buffer.from(text), trick.signedBy ?? key));
  writeFileSync(at('nkudo-edge-0.3.0'), trick.content ?? program);
  const openTransfer = (): never => {
    throw new Error('nothing is fetched here');
  };
  return installRelease(
    {
      releases: createReleases({ keys: () => [createPublicKey(pair.publicKeyPem)], openTransfer, clock: createSystemClock(), entropy }),
      versions: createAgentSlots({ directory: at('agent'), packageDirectory: at('package'), startId: undefined }),
      runningVersion: trick.runningVersion ?? '0.2.0',
      architecture: 'x86_64',
      nowMs: () => nowMs,
      faults: inertFaultPoints(),
    },
    { location: at('manifest.json'), version: trick.version ?? '', trial: { needs: 'start', deadlineSeconds: 90 } },
    new AbortController().signal,
  );
}

describe('[R5] a release on a host', () => {
  it('is staged and put on trial when all is right', async () => {
    expect(await install()).toEqual({ kind: 'selected', version: '0.3.0' });
    expect(selection()).toMatchObject({ running: 'base', trial: { slot: 'a', needs: 'start', deadlineSeconds: 90 } });
    expect(readFileSync(at('agent/slots/a/nkudo-edge'))).toEqual(program);
    expect(readFileSync(at('agent/slots/a/version'), 'utf8')).toBe('0.3.0\n');
    // While it is tried, nothing else is.
    await expect(install()).rejects.toMatchObject({ code: 'UPDATE_UNSUPPORTED' });
  });

  const refusals: readonly (readonly [string, string, Trick])[] = [
    ['nobody signed', 'RELEASE_INVALID', { signature: '' }],
    ['another key signed', 'RELEASE_UNSIGNED', { signedBy: otherKey }],
    ['was changed after it was signed', 'RELEASE_UNSIGNED', { afterSigning: (text) => text.replace('0.3.0', '0.3.1') }],
    ['has a signature of something else', 'RELEASE_UNSIGNED', { signature: signContent(Buffer.from('else'), key) }],
    ['has a signature of an unknown form', 'RELEASE_INVALID', { signature: JSON.stringify({ mediaType: 'application/json', messageSignature: { signature: 'AAAA' } }) }],
    ['has a flipped byte in its program', 'RELEASE_DIGEST_MISMATCH', { content: Buffer.from(program.toString().replace('program', 'Program')) }],
    ['has a byte too many in its program', 'RELEASE_DIGEST_MISMATCH', { content: Buffer.concat([program, Buffer.from('x')]) }],
    ['is cut off in its program', 'RELEASE_DIGEST_MISMATCH', { content: program.subarray(1) }],
    ['is past its date', 'RELEASE_EXPIRED', { manifest: { expiresAtMs: nowMs } }],
    ['is older', 'RELEASE_OLDER', { runningVersion: '0.4.0' }],
    ['is for another kind of machine', 'RELEASE_UNSUITABLE', { manifest: { artifacts: good.artifacts.map((artifact) => ({ ...artifact, architecture: 'aarch64' })) } }],
    ['is of another version than was ordered', 'RELEASE_INVALID', { version: '0.3.1' }],
    ['names a file elsewhere', 'RELEASE_INVALID', { manifest: { artifacts: good.artifacts.map((artifact) => ({ ...artifact, fileName: '../../etc/shadow' })) } }],
  ];
  it.each(refusals)('that %s is refused with %s, and changes nothing', async (_what, code, trick) => {
    await expect(install(trick)).rejects.toMatchObject({ code });
    expect(selection()).toMatchObject({ running: 'base', previous: null, trial: null });
    expect(existsSync(at('agent/slots/a/version'))).toBe(false);
    expect(existsSync(at('agent/slots/a/nkudo-edge'))).toBe(false);
  });

  it('that is older is installed when its manifest names the version that runs', async () => {
    expect(await install({ runningVersion: '0.4.0', manifest: { mayReplace: ['0.4.0'] } })).toMatchObject({ kind: 'selected' });
  });

  it('that is older and ran last here is gone back to without fetching anything', async () => {
    mkdirSync(at('agent/slots/b'), { recursive: true });
    writeFileSync(at('agent/slots/b/version'), '0.3.0\n');
    writeFileSync(at('agent/selection'), encodeSelection({ running: 'a', previous: 'b', trial: null, packaged: '0.1.0' }));
    expect(await install({ runningVersion: '0.4.0', content: Buffer.from('another file by now') })).toMatchObject({ kind: 'selected' });
    expect(selection().trial?.slot).toBe('b');
  });

  it('that ran last here is gone back to by its version alone, though nobody has its manifest any more', async () => {
    mkdirSync(at('agent/slots/b'), { recursive: true });
    writeFileSync(at('agent/slots/b/version'), '0.3.0\n');
    writeFileSync(at('agent/selection'), encodeSelection({ running: 'a', previous: 'b', trial: null, packaged: '0.1.0' }));
    expect(await install({ runningVersion: '0.4.0', version: '0.3.0', signature: '' })).toMatchObject({ kind: 'selected', version: '0.3.0' });
    expect(selection().trial?.slot).toBe('b');
  });

  it('that runs already changes nothing', async () => {
    expect(await install({ runningVersion: '0.3.0' })).toEqual({ kind: 'present', version: '0.3.0' });
    expect(selection().trial).toBeNull();
  });
});
