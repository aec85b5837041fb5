/**
 * `vm console`: the keys of a person's terminal go to the serial port of a microVM, and what it prints comes back, through
 * the running agent. Owns how one comes in and out; the guest goes on whichever way this ends.
 */
import { resolve } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import type { ReadStream } from 'node:tty';
import { AppError } from '#api/model/error-codes.ts';
import { microVMId } from '#api/model/ids.ts';
import { createControlClient, type ConsoleConnection } from '../adapters/control-socket/control-client.ts';
import { endingSignals, openRawTerminal, type RawTerminal, type Screen } from '../adapters/system/raw-terminal.ts';
import type { EscapeKey } from './console-keys.ts';
import { findMicroVM } from './inspect.ts';
import { orExplain, whoAsks } from './vm-order.ts';

export interface ConsoleOptions {
  readonly stateDir: string;
  readonly named: string;
  readonly takesOver: boolean;
  /** False: keys are not passed on. */
  readonly types: boolean;
  readonly escape: EscapeKey;
  /** Lines of what was printed before, 0 to 1000. */
  readonly historyLines: number;
  readonly input: ReadStream;
  readonly output: Screen;
}

/** Enough for the longest history with lines of 64 bytes. */
const historyBytes = 64 * 1024;
const bell = Uint8Array.of(7);
const ctrlC = 3;

/**
 * @returns the exit code: 0 when the person left or the microVM ended, 128 and the number of a signal that ended it
 * @throws NOT_FOUND, CONSOLE_UNAVAILABLE; CONSOLE_IN_USE, also when somebody else took over; AGENT_NOT_RUNNING, also when it ended meanwhile
 */
export async function openVmConsole(options: ConsoleOptions): Promise<number> {
  const { input, output, types, takesOver, escape, named } = options;
  const vm = await findMicroVM(options.stateDir, named);
  if (!input.isTTY || !output.isTTY) {
    throw new AppError('INVALID_REQUEST', 'a console needs a terminal for its input and its output', { remedy: `run it in one, from afar with ssh -t; without one, read what the guest prints: nkudo-edge vm logs ${named} --follow` });
  }
  const name = `${vm.namespace}/${vm.name}`;
  const stateDirectory = resolve(options.stateDir);
  const early: Uint8Array[] = [];
  const screen: { terminal?: RawTerminal } = {};
  const print = (bytes: Uint8Array): void => void (screen.terminal === undefined ? early.push(bytes) : screen.terminal.write(bytes));
  const request = { types, takesOver, by: whoAsks(), historyBytes: options.historyLines === 0 ? 0 : historyBytes };
  const connection = await orExplain(stateDirectory, () =>
    createControlClient(stateDirectory).console(microVMId(vm.microvmId), request, { history: (bytes) => print(Buffer.from(newestLines(bytes, options.historyLines), 'latin1')), output: print }),
  );
  const paused = vm.state === 'paused' ? '; it is paused, and takes no input until it is resumed' : '';
  const way = types ? `leave with ${escape.label}` : `read only, leave with ${escape.label} or Ctrl-C`;
  const left = Promise.withResolvers<'left'>();
  const terminal = openRawTerminal(input, output, (keys) => typed(keys, connection, options, () => left.resolve('left'), print));
  // Who reads this is heard by the guest already.
  terminal.write(Buffer.from(`connected to the console of ${name}: ${way}; the guest goes on${paused}\r\n`));
  screen.terminal = terminal;
  for (const bytes of early.splice(0)) terminal.write(bytes);
  const end = await Promise.race([left.promise, connection.ended, terminal.ended]);
  connection.leave();
  terminal.restore();
  if (end === 'left') return say(output, `left the console of ${name}; it goes on`);
  if (end === 'gone') return 128 + endingSignals.SIGHUP;
  if (typeof end === 'string') return say(output, `left the console of ${name}: ${end}`, 128 + endingSignals[end]);
  switch (end.reason) {
    case 'takenOver':
      output.write('\n');
      throw new AppError('CONSOLE_IN_USE', `${end.by} took this console over`, { remedy: `ask them; watch: nkudo-edge vm console ${named} --read-only; or take it back: --take-over` });
    case 'agentEnds':
    case 'lost':
      output.write('\n');
      throw new AppError('AGENT_NOT_RUNNING', 'the agent ended; the microVM goes on', { remedy: 'systemctl status nkudo-edge; then open the console again: what is printed meanwhile is kept' });
    case 'gone':
    case 'closed':
      return say(output, `the console of ${name} has ended: the microVM was stopped, or started anew; see nkudo-edge vm show ${named}`);
  }
}

function say(output: Screen, text: string, code = 0): number {
  output.write(`\n${text}\n`);
  return code;
}

/** What comes before the key that leaves is still the guest's. */
function typed(keys: Uint8Array, connection: ConsoleConnection, { types, escape }: ConsoleOptions, leave: () => void, print: (bytes: Uint8Array) => void): void {
  const at = keys.findIndex((key) => key === escape.byte || (!types && key === ctrlC));
  const forGuest = at === -1 ? keys : keys.subarray(0, at);
  if (types && forGuest.length > 0 && !connection.type(forGuest)) print(bell);
  if (at !== -1) leave();
}

/** As plain text: an old question to the terminal would be answered anew, into the guest. */
export function newestLines(bytes: Uint8Array, lines: number): string {
  const text = stripVTControlCharacters(Buffer.from(bytes).toString('latin1')).replaceAll(/[^\t\n\r\u0020-\u007e\u00a0-\u00ff]/g, '');
  const all = text.split('\n');
  return all.slice(-Math.max(1, lines)).join('\n');
}
