/**
 * What the agent needs of the mesh software on its host: a look, joining with a key, and leaving. Whether to do any of
 * it is decided in `domain/mesh.ts`. The adapter bounds time, memory and output of everything that it starts, and never
 * touches what it did not start. No failure of the mesh software is an exception: it is part of the answer.
 */
import type { MeshOrder } from '#api/model/mesh.ts';
import type { MeshLook } from '../domain/mesh.ts';

export type MeshOutcome = { readonly kind: 'done' } | { readonly kind: 'failed'; readonly problem: string };

export interface Mesh {
  /** Looks, changes nothing. Rejects only when aborted. */
  look(signal: AbortSignal): Promise<MeshLook>;
  /**
   * Registers this host if it has to and connects it. Blocks until the command ended or its deadline passed; `done` does
   * not promise a connection: look afterwards. An unknown outcome (the agent died meanwhile) is found by a look as well.
   *
   * @param revealKey gives the secret one-off key; null: connect with the registration that exists. The value is in no
   *   argument, environment, log or answer, and in no file when this returns.
   */
  join(order: MeshOrder, revealKey: (() => string) | null, signal: AbortSignal): Promise<MeshOutcome>;
  /** Disconnects and gives the registration up. Idempotent; look afterwards. */
  leave(signal: AbortSignal): Promise<MeshOutcome>;
}
