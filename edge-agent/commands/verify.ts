/** `verify`: who signed a file. Needs no state, no network and no right but to read; the same answer as cosign's. */
import { createHash } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import type { KeyObject } from 'node:crypto';
import { AppError } from '#api/model/error-codes.ts';
import { createReleases, signatureSuffix } from '../adapters/releases/releases.ts';
import { loadReleaseKeys } from '../adapters/releases/release-keys.ts';
import { checkSignature, readPublicKeys } from '../adapters/releases/signature.ts';
import { createSystemClock, systemEntropy as entropy } from '../adapters/system/clock.ts';

export interface VerifyOptions {
  readonly file: string;
  readonly manifest: string | undefined;
  readonly signature: string | undefined;
  readonly key: string | undefined;
  readonly keysDirectory: string;
}

/** @throws RELEASE_UNSIGNED, RELEASE_INVALID, RELEASE_DIGEST_MISMATCH, RELEASE_EXPIRED, RELEASE_UNAVAILABLE */
export async function verifyFile({ file, manifest, signature, key, keysDirectory }: VerifyOptions): Promise<string> {
  const keys = key === undefined ? loadReleaseKeys(keysDirectory) : readPublicKeys(read(key), key);
  if (manifest !== undefined) return verifyByManifest(file, manifest, keys);
  checkSignature(readFile(file), read(signature ?? file + signatureSuffix), keys, file);
  return `${file}: signed by a key that is trusted here`;
}

async function verifyByManifest(file: string, location: string, keys: readonly KeyObject[]): Promise<string> {
  const openTransfer = (): never => {
    throw new AppError('RELEASE_UNAVAILABLE', 'only files are verified', { remedy: 'get the manifest and its signature first' });
  };
  const clock = createSystemClock();
  const { manifest } = await createReleases({ keys: () => keys, openTransfer, clock, entropy }).load(location, new AbortController().signal);
  const { bytes, sha256 } = await digestOf(file);
  const named = manifest.artifacts.find((artifact) => artifact.sha256 === sha256 && artifact.bytes === bytes);
  if (named === undefined) throw new AppError('RELEASE_DIGEST_MISMATCH', `${basename(file)} is not among the files of the release ${manifest.version}`);
  if (clock.now().wallMs >= manifest.expiresAtMs) throw new AppError('RELEASE_EXPIRED', `the manifest of ${manifest.version} expired on ${new Date(manifest.expiresAtMs).toISOString()}`);
  return `${file}: ${named.fileName} of release ${manifest.version}, signed by a key that is trusted here`;
}

async function digestOf(path: string): Promise<{ readonly bytes: number; readonly sha256: string }> {
  const hash = createHash('sha256');
  let bytes = 0;
  try {
    for await (const chunk of createReadStream(path)) {
      const block = chunk as Uint8Array; // Without an encoding a stream of a file yields buffers.
      hash.update(block);
      bytes += block.length;
    }
  } catch (cause) {
    throw unreadable(path, cause);
  }
  return { bytes, sha256: hash.digest('hex') };
}

function readFile(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

const read = (path: string): string => readFile(path).toString('utf8');

function unreadable(path: string, cause: unknown): AppError {
  return new AppError('RELEASE_UNAVAILABLE', `${path} can not be read`, { cause, remedy: 'correct the path; a signature lies beside its file' });
}
