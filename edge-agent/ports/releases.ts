/** Where releases of the agent come from: a file of a manifest, or a URL of one, with the other files beside it. */
import type { ReleaseArtifact, ReleaseManifest } from '#api/model/release.ts';

export interface LoadedRelease {
  readonly manifest: ReleaseManifest;
  /** The bytes that were signed, and the signature, word for word. */
  readonly text: string;
  readonly signature: string;
  /** The bytes of one file in order, going on where a transfer broke; the caller checks size and digest. @throws RELEASE_UNAVAILABLE */
  open(artifact: ReleaseArtifact, signal: AbortSignal): AsyncIterable<Uint8Array>;
}

export interface Releases {
  /**
   * Reads the manifest and its signature, and believes nothing before the signature is checked.
   * @param location path or http(s) URL of a manifest. @throws RELEASE_UNSIGNED, RELEASE_INVALID, RELEASE_UNAVAILABLE
   */
  load(location: string, signal: AbortSignal): Promise<LoadedRelease>;
}
