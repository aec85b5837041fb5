/** Time, randomness and ids as the agent sees them. Nothing below main.ts asks the machine itself. */
import type { Now } from '../domain/microvm-record.ts';

export interface Clock {
  /** Wall clock, boot clock and boot id, read together. */
  now(): Now;
  /** Calls back once after so many milliseconds, unless the returned function was called before. Keeps the process alive for nobody. */
  after(ms: number, callback: () => void): () => void;
}

export interface Entropy {
  /** A number from 0 (included) to 1 (excluded). */
  random(): number;
  /** A new UUID, version 4, lower case. */
  uuid(): string;
}
