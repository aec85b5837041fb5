/**
 * The terminal of a person, whose keys go elsewhere for a while. Owns that it is as it was afterwards, whichever way the
 * program ends (but for SIGKILL, which nothing can see): its modes, and what the output of a guest may have switched on.
 */
import { writeSync } from 'node:fs';
import type { ReadStream } from 'node:tty';
import { createScreenModes } from './screen-modes.ts';

export interface RawTerminal {
  write(bytes: Uint8Array): void;
  /** Gives the terminal back. Idempotent. */
  restore(): void;
  /** A signal that ends the program, or `gone` when the terminal was taken away. Never rejects. */
  readonly ended: Promise<EndingSignal | 'gone'>;
}

export type Screen = NodeJS.WriteStream & { readonly fd: number };

export const endingSignals = { SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGTERM: 15 } as const;
export type EndingSignal = keyof typeof endingSignals;

export function openRawTerminal(input: ReadStream, output: Screen, onKeys: (bytes: Uint8Array) => void): RawTerminal {
  const ended = Promise.withResolvers<EndingSignal | 'gone'>();
  const modes = createScreenModes();
  let isOpen = true;

  const onGone = (): void => ended.resolve('gone');
  const onSignal = (signal: NodeJS.Signals): void => ended.resolve(signal as EndingSignal); // Listened to for these only.
  const onStop = (): void => {
    setRaw(false);
    process.kill(process.pid, 'SIGSTOP');
  };
  const onContinue = (): void => setRaw(true);

  function setRaw(isRaw: boolean): void {
    if (!input.destroyed) input.setRawMode(isRaw);
  }

  function restore(): void {
    if (!isOpen) return;
    isOpen = false;
    input.off('data', onKeys);
    setRaw(false);
    input.pause();
    process.off('SIGTSTP', onStop).off('SIGCONT', onContinue).off('exit', restore);
    for (const signal of Object.keys(endingSignals)) process.off(signal, onSignal);
    try {
      writeSync(output.fd, modes.reset());
    } catch {
      // It is gone, and nobody sees its modes.
    }
  }

  process.on('exit', restore);
  for (const signal of Object.keys(endingSignals)) process.on(signal, onSignal);
  process.on('SIGTSTP', onStop).on('SIGCONT', onContinue);
  for (const stream of [input, output]) stream.on('error', onGone);
  input.once('end', onGone).once('close', onGone);
  setRaw(true);
  input.on('data', onKeys);
  return {
    write(bytes) {
      if (!isOpen) return;
      modes.see(bytes);
      output.write(bytes);
    },
    restore,
    ended: ended.promise,
  };
}
