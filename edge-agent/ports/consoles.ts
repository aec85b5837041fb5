/**
 * What the agent needs of an interactive serial console: the line to the VMM, and the file that keeps
 * what came over it. Owns the contract; sockets and files are the adapter's. Nothing here may make a
 * guest or its VMM wait: what is not read in time is lost, and said to be.
 */

/** One connection to the serial port of a guest. */
export interface SerialLine {
  /** Pieces as they come; ends with the connection, never rejects. Asking for the next one is the flow control. */
  readonly output: AsyncIterable<Uint8Array>;
  /** Passes input on. @returns false when the guest has not taken what it was given before; then nothing was passed. */
  write(bytes: Uint8Array): boolean;
  /** Idempotent. */
  close(): void;
}

export interface SerialLines {
  /** Null when nobody listens there. A VMM has one line; the newest connection has it. */
  connect(path: string): Promise<SerialLine | null>;
}

/** The file of one boot's output. */
export interface SerialSpool {
  /** The boot that the file holds output of; null without one. */
  bootOf(path: string): Promise<number | null>;
  /** Empties the file for another boot. */
  begin(path: string, boot: number): Promise<void>;
  append(path: string, bytes: Uint8Array): Promise<void>;
  /** The newest bytes of the file, at most so many; empty without one. */
  tail(path: string, bytesMax: number): Promise<Uint8Array>;
}

/** Why a session ended. closed: by its own end. takenOver: somebody else types now. gone: the VMM has ended, or the agent ends. */
export type ConsoleEnd = { readonly reason: 'closed' | 'gone' } | { readonly reason: 'takenOver'; readonly by: string };

export interface ConsoleRequest {
  /** Whether the session may write; one at a time. */
  readonly types: boolean;
  /** Ends the session of who types now. */
  readonly takesOver?: boolean;
  /** Who it is, for those who find the console in use or lose it. */
  readonly by?: string;
  /** How much of what was printed before comes first, bytes. Default: none. */
  readonly historyBytes?: number;
}

/** Somebody at a console. */
export interface ConsoleSession {
  /** What was printed before `output` begins: nothing is left out in between, and nothing is in both. */
  readonly history: Uint8Array;
  /** Never rejects. */
  readonly ended: Promise<ConsoleEnd>;
  /**
   * What the guest prints from now on. A reader that falls more than 256 KiB behind loses the oldest, with a
   * line in its place that says so. Ends when the session is closed, taken over, or the microVM is gone.
   */
  readonly output: AsyncIterable<Uint8Array>;
  /** @returns false when the guest does not take input now: ask again later. Always false for one that only reads. */
  write(bytes: Uint8Array): boolean;
  /** Idempotent. */
  close(): void;
}
