/**
 * A release of `nkudo-edge`: what its signed manifest says, how versions are ordered, and whether one may take the
 * place of another on a host. Signatures, digests and files are looked at elsewhere, before anything here is believed.
 */

export const releaseManifestKind = 'nkudo.dev/release-manifest/v1';

/** As `uname -m` says it. */
export const releaseArchitectures = ['x86_64', 'aarch64'] as const;
export type ReleaseArchitecture = (typeof releaseArchitectures)[number];

/** One file of a release. */
export interface ReleaseArtifact {
  /** What it is, such as `nkudo-edge`. */
  readonly name: string;
  /** Null for files of any machine. */
  readonly architecture: ReleaseArchitecture | null;
  /** Beside the manifest; no path. */
  readonly fileName: string;
  readonly bytes: number;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
}

/** What parts of n-kudo that may run in different versions have between them. For people and tools; a host does not go by it. */
export interface ReleaseContract {
  /** Such as `agent-protocol`. */
  readonly name: string;
  /** Of the contract itself, by its own way of counting. */
  readonly version: string;
  /** Over the files that define it; equal where nothing changed. */
  readonly sha256: string;
  /** The oldest release whose parts may be on the other side. */
  readonly compatibleFrom: string;
}

export interface ReleaseManifest {
  readonly version: string;
  readonly createdAtMs: number;
  /** Nobody installs it from then on; what was installed goes on. */
  readonly expiresAtMs: number;
  /** Newer versions whose place this one may take; by default none, so that an old release can't be played again. */
  readonly mayReplace: readonly string[];
  readonly artifacts: readonly ReleaseArtifact[];
}

/** The program of the agent among the files of a release. */
export const agentArtifactName = 'nkudo-edge';

const versionPattern = /^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})(-[0-9A-Za-z]+(\.[0-9A-Za-z]+)*)?$/;
export const versionMax = 64;

export function isVersion(text: string): boolean {
  return text.length <= versionMax && versionPattern.test(text);
}

/** Below 0 when `left` is older, above when newer. Source: semver.org 2.0.0, point 11; both must be versions. */
export function compareVersions(left: string, right: string): number {
  const [leftCore, leftRest] = split(left);
  const [rightCore, rightRest] = split(right);
  const core = compareLists(leftCore.split('.'), rightCore.split('.'));
  if (core !== 0) return core;
  if (leftRest === undefined || rightRest === undefined) return Number(leftRest === undefined) - Number(rightRest === undefined);
  return compareLists(leftRest.split('.'), rightRest.split('.'));
}

function split(version: string): [string, string | undefined] {
  const at = version.indexOf('-');
  return at < 0 ? [version, undefined] : [version.slice(0, at), version.slice(at + 1)];
}

function compareLists(left: readonly string[], right: readonly string[]): number {
  for (let index = 0; index < Math.max(left.length, right.length); index += 1) {
    const [one, other] = [left[index], right[index]];
    if (one === undefined || other === undefined) return one === undefined ? -1 : 1;
    const order = comparePart(one, other);
    if (order !== 0) return order;
  }
  return 0;
}

function comparePart(left: string, right: string): number {
  const [isLeftNumber, isRightNumber] = [/^\d+$/.test(left), /^\d+$/.test(right)];
  if (isLeftNumber && isRightNumber) return Math.sign(Number(left) - Number(right));
  if (isLeftNumber !== isRightNumber) return isLeftNumber ? -1 : 1;
  return left === right ? 0 : left < right ? -1 : 1;
}

export type ReleaseVerdict =
  | { readonly kind: 'install'; readonly artifact: ReleaseArtifact }
  /** It runs already. */
  | { readonly kind: 'present' }
  | { readonly kind: 'refused'; readonly code: 'RELEASE_EXPIRED' | 'RELEASE_OLDER' | 'RELEASE_UNSUITABLE'; readonly message: string };

export interface ReleaseSituation {
  readonly runningVersion: string;
  /** The version that ran before this one and is kept; null when there is none. */
  readonly previousVersion: string | null;
  readonly architecture: string;
  /** The newest time that is known for certain. */
  readonly nowMs: number;
}

/** Whether a manifest whose signature is good may be installed here. */
export function judgeRelease(manifest: ReleaseManifest, { runningVersion, previousVersion, architecture, nowMs }: ReleaseSituation): ReleaseVerdict {
  if (manifest.version === runningVersion) return { kind: 'present' };
  if (nowMs >= manifest.expiresAtMs) return { kind: 'refused', code: 'RELEASE_EXPIRED', message: `the manifest of ${manifest.version} expired on ${new Date(manifest.expiresAtMs).toISOString()}` };
  const isOlder = isVersion(runningVersion) && compareVersions(manifest.version, runningVersion) < 0;
  if (isOlder && manifest.version !== previousVersion && !manifest.mayReplace.includes(runningVersion)) {
    return { kind: 'refused', code: 'RELEASE_OLDER', message: `${manifest.version} is older than ${runningVersion}, which runs here` };
  }
  const artifact = manifest.artifacts.find((each) => each.name === agentArtifactName && each.architecture === architecture);
  return artifact === undefined
    ? { kind: 'refused', code: 'RELEASE_UNSUITABLE', message: `the release ${manifest.version} has no ${agentArtifactName} for ${architecture}` }
    : { kind: 'install', artifact };
}

/** What a host is ordered to run. Equal orders have equal revisions. */
export interface AgentOrder {
  /** Empty: the order before is withdrawn, and what runs stays. */
  readonly version: string;
  /** Empty without a version. https or http: what it leads to is believed by its signature only. */
  readonly manifestUrl: string;
  /** Rises with every change, from 1. */
  readonly revision: number;
}

export const agentPhases = ['Current', 'Fetching', 'Starting', 'Refused', 'RolledBack'] as const;
/** `Current`: the ordered version runs. `Refused` and `RolledBack` are final for their order. */
export type AgentPhase = (typeof agentPhases)[number];

/** How far a host is with an order. */
export interface AgentReport {
  readonly phase: AgentPhase;
  readonly runningVersion: string;
  /** Empty when there is none. */
  readonly previousVersion: string;
  readonly orderRevision: number;
  /** Empty when nothing is wrong. */
  readonly errorCode: string;
  readonly problem: string;
}

export const agentProblemMax = 1024;
const manifestUrlMax = 2048;

export function isManifestUrl(text: string): boolean {
  return text.length <= manifestUrlMax && /^https?:\/\/[A-Za-z0-9.[\]:-]+\/[\x21-\x7e]*$/.test(text) && URL.canParse(text);
}

export function isAgentOrder(value: unknown): value is AgentOrder {
  if (typeof value !== 'object' || value === null) return false;
  const { version, manifestUrl, revision } = value as Record<string, unknown>; // Each field is checked here.
  const isText = typeof version === 'string' && typeof manifestUrl === 'string';
  return isText && ((version === '' && manifestUrl === '') || (isVersion(version) && isManifestUrl(manifestUrl))) && Number.isSafeInteger(revision) && Number(revision) >= 1;
}
