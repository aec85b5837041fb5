/** Files that grow while somebody else writes them. */
export interface LogFiles {
  /** Bytes; null when there is no file. */
  size(path: string): Promise<number | null>;
  /** At most `max` bytes from `offset` on; empty at or behind the end, or without a file. */
  read(path: string, offset: number, max: number): Promise<Uint8Array>;
  /** Calls back whenever the file may have changed, also when it is made or truncated. Null when its directory does not exist. */
  watch(path: string, callback: () => void): (() => void) | null;
}

/** Frees what nobody needs any more of a file that somebody else goes on writing. */
export interface LogSpace {
  /**
   * Frees the bytes from `from` to `to`: they read as zeros from then on, and the size stays. Idempotent. Does nothing to
   * a file that ends before. @returns false where the file system or the host can not
   */
  free(path: string, from: number, to: number): Promise<boolean>;
}
