/** Files that grow while somebody else writes them. */
export interface LogFiles {
  /** Bytes; null when there is no file. */
  size(path: string): Promise<number | null>;
  /** At most `max` bytes from `offset` on; empty at or behind the end, or without a file. */
  read(path: string, offset: number, max: number): Promise<Uint8Array>;
  /** Calls back whenever the file may have changed, also when it is made or truncated. Null when its directory does not exist. */
  watch(path: string, callback: () => void): (() => void) | null;
}
