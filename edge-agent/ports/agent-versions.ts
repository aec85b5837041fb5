/**
 * The versions of the agent on this host: the one that runs, the one before it, and one that is to be tried. The launcher
 * owns what is started; this puts a version at its disposal and asks for it.
 */
import type { ReleaseArtifact } from '#api/model/release.ts';
import type { TrialNeeds } from '../domain/slot-selection.ts';

export interface AgentVersions {
  /** False when no launcher started this agent: then nothing here changes anything. */
  readonly isSupported: boolean;
  /** Read anew each time. */
  state(): VersionsState;
  /**
   * Fills the free slot with the program and the manifest that it came by; `write` gives the bytes in order. Durable on
   * return; what does not have the size and the digest is removed. @throws RELEASE_DIGEST_MISMATCH, DISK_FULL, UPDATE_UNSUPPORTED
   */
  stage(release: StagedRelease, bytes: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<void>;
  /** Asks the launcher to try the staged version, or the one before, at the next start. Durable on return. @throws UPDATE_UNSUPPORTED */
  select(which: 'staged' | 'previous', trial: { readonly needs: TrialNeeds; readonly deadlineSeconds: number }): void;
  /** Tells the launcher that this start went well. Idempotent. */
  ready(): void;
}

export interface StagedRelease {
  readonly version: string;
  readonly artifact: ReleaseArtifact;
  /** The manifest and its signature, word for word. */
  readonly manifest: string;
  readonly signature: string;
}

export interface VersionsState {
  readonly previousVersion: string | null;
  /** In the slot that is neither running nor the previous one, or is on trial. */
  readonly stagedVersion: string | null;
  /** The version in the slot on trial; null: none is. */
  readonly trialVersion: string | null;
  readonly trialNeeds: TrialNeeds | null;
  /** A version that did not get ready, and why. */
  readonly failed: { readonly version: string; readonly reason: string } | null;
}
