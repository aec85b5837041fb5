/**
 * What the mesh reconciler needs from a mesh account: one look at all of it, and single changes that are safe to
 * repeat. What should change is decided by `controller/domain/mesh/`; who stores ids and hands keys to hosts is the
 * reconciler's.
 *
 * All calls take an AbortSignal and have a deadline of their own. An aborted call rejects with the signal's reason and
 * its effect may or may not have happened. Every other failure is an AppError:
 * MESH_UNAUTHORIZED (the token is missing, wrong, expired or may not do this), MESH_RATE_LIMITED (with `retryAfterMs`),
 * MESH_UNAVAILABLE (no answer, half an answer, or a server error: the outcome is unknown, so list again first),
 * MESH_REFUSED (the account does not take the request as it is; `details.status` is the HTTP status).
 * No error and no log line holds the token or the value of a setup key.
 */
import type { MeshCall, MeshCallResult, MeshListing, MeshNames } from '#controller/domain/mesh/model.ts';
import type { MeshScope } from '#controller/domain/mesh/names.ts';

/** One account on one management server, with one token. */
export interface MeshAccount {
  /**
   * Reads the whole account. Parts of networks are read for the networks of `scope` only. Bounded: an account that is
   * larger than the limits of the adapter rejects with MESH_REFUSED instead of being read in part.
   */
  list(scope: MeshScope, signal: AbortSignal): Promise<MeshListing>;
  /**
   * Performs one call. Idempotent: a create first looks for an object with that name and marker and returns its id, a
   * delete of what is gone succeeds. The one exception is `createSetupKey`: the value of a key that exists can not be
   * read again, so keys with that name are deleted and one is made anew.
   *
   * @throws MESH_REFUSED with `details.status` 409 when a group of that name exists and could not be found, and when
   * `names` lacks a group or network that the call needs
   */
  perform(call: MeshCall, names: MeshNames, signal: AbortSignal): Promise<MeshCallResult>;
}

/** How to reach an account. The token is a secret: it lives in memory only. */
export interface MeshAccountAddress {
  /** `https://…`, or `http://` on loopback, without a path. */
  readonly managementUrl: string;
  readonly token: string;
}

/**
 * Opens an account; no request is made. Accounts with the same address and token share their limits on concurrency
 * and request rate.
 */
export type OpenMeshAccount = (address: MeshAccountAddress) => MeshAccount;
