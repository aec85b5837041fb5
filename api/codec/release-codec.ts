/**
 * The text of a release manifest: JSON with dates as RFC 3339, so that people and other tools can read what they sign.
 * What is not known here is ignored; what is known must be right to the letter, since file names and digests lead to a
 * program that runs as root. Whoever parses has checked the signature over the very bytes before.
 */
import { AppError } from '../model/error-codes.ts';
import { isVersion, releaseArchitectures, releaseManifestKind, type ReleaseArtifact, type ReleaseContract, type ReleaseManifest } from '../model/release.ts';

export const manifestBytesMax = 262_144;
const artifactsMax = 256;
const replacedMax = 256;
/** A file of a release may have so many bytes. */
export const artifactBytesMax = 2 ** 31;

/** @param contracts are told and not read back: no host goes by them */
export function encodeReleaseManifest(manifest: ReleaseManifest, contracts: readonly ReleaseContract[] = []): string {
  const { version, createdAtMs, expiresAtMs, mayReplace, artifacts } = manifest;
  const told = contracts.length === 0 ? {} : { contracts };
  const text = { kind: releaseManifestKind, version, createdAt: new Date(createdAtMs).toISOString(), expiresAt: new Date(expiresAtMs).toISOString(), mayReplace, ...told, artifacts };
  return `${JSON.stringify(text, null, 2)}\n`;
}

/** @throws RELEASE_INVALID */
export function parseReleaseManifest(text: string): ReleaseManifest {
  if (text.length > manifestBytesMax) throw invalid(`is larger than ${manifestBytesMax} bytes`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw invalid('is no JSON');
  }
  const { kind, version, createdAt, expiresAt, mayReplace = [], artifacts } = fieldsOf('', parsed);
  if (kind !== releaseManifestKind) throw invalid(`has a kind other than ${releaseManifestKind}`);
  return {
    version: parseVersion('version', version),
    createdAtMs: parseTime('createdAt', createdAt),
    expiresAtMs: parseTime('expiresAt', expiresAt),
    mayReplace: listOf('mayReplace', mayReplace, replacedMax).map((each) => parseVersion('mayReplace', each)),
    artifacts: listOf('artifacts', artifacts, artifactsMax).map((each, index) => parseArtifact(`artifacts[${index}]`, each)),
  };
}

function parseArtifact(where: string, value: unknown): ReleaseArtifact {
  const { name, architecture, fileName, bytes, sha256 } = fieldsOf(where, value);
  const known = releaseArchitectures.find((each) => each === architecture) ?? null;
  if (known === null && architecture !== null) throw invalid(`${where}.architecture must be ${releaseArchitectures.join(', ')} or null`);
  if (typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < 1 || bytes > artifactBytesMax) throw invalid(`${where}.bytes must be a number of bytes`);
  return {
    name: parseText(`${where}.name`, name, /^[a-z0-9][a-z0-9.-]{0,62}$/),
    architecture: known,
    fileName: parseText(`${where}.fileName`, fileName, /^[A-Za-z0-9][A-Za-z0-9._+-]{0,126}$/),
    bytes,
    sha256: parseText(`${where}.sha256`, sha256, /^[0-9a-f]{64}$/),
  };
}

const parseVersion = (where: string, value: unknown): string => {
  if (typeof value !== 'string' || !isVersion(value)) throw invalid(`${where} must be a version such as 0.4.1`);
  return value;
};

function parseTime(where: string, value: unknown): number {
  const ms = typeof value === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z$/.test(value) ? Date.parse(value) : Number.NaN;
  if (!Number.isFinite(ms)) throw invalid(`${where} must be a time such as 2027-01-31T12:00:00Z`);
  return ms;
}

function parseText(where: string, value: unknown, pattern: RegExp): string {
  if (typeof value !== 'string' || !pattern.test(value)) throw invalid(`${where} must match ${pattern.source}`);
  return value;
}

function listOf(where: string, value: unknown, max: number): readonly unknown[] {
  if (!Array.isArray(value) || value.length > max) throw invalid(`${where} must be a list of at most ${max}`);
  return value;
}

function fieldsOf(where: string, value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(`${where} must be an object`.trim());
  return value as Record<string, unknown>; // Each field is checked where it is read.
}

function invalid(why: string): AppError {
  return new AppError('RELEASE_INVALID', `the release manifest ${why}`);
}
