/** Makes the manifest of a release from its files. Owns digests and sizes; which files those are is left to the caller. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { encodeReleaseManifest } from '#api/codec/release-codec.ts';
import type { ReleaseArchitecture, ReleaseArtifact, ReleaseContract } from '#api/model/release.ts';

export interface ReleaseFile {
  readonly path: string;
  /** What it is, such as `nkudo-edge`. */
  readonly name: string;
  /** Null for files of any machine. */
  readonly architecture: ReleaseArchitecture | null;
}

export interface ManifestInput {
  readonly version: string;
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
  /** Newer versions that hosts may leave for this one. */
  readonly mayReplace?: readonly string[];
  readonly contracts?: readonly ReleaseContract[];
  readonly files: readonly ReleaseFile[];
}

/** The text to be signed. The same input gives the same text. */
export async function makeManifest({ version, createdAtMs, expiresAtMs, mayReplace = [], contracts = [], files }: ManifestInput): Promise<string> {
  const artifacts = await Promise.all(files.map(describeFile));
  artifacts.sort((left, right) => (left.fileName < right.fileName ? -1 : 1));
  return encodeReleaseManifest({ version, createdAtMs, expiresAtMs, mayReplace, artifacts }, contracts);
}

export async function describeFile({ path, name, architecture }: ReleaseFile): Promise<ReleaseArtifact> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(path)) {
    const block = chunk as Uint8Array; // Without an encoding a stream of a file yields buffers.
    hash.update(block);
    bytes += block.length;
  }
  return { name, architecture, fileName: basename(path), bytes, sha256: hash.digest('hex') };
}
