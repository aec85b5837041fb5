/** `nkudo-edge` with a terminal (a pty of util-linux's `script`) for its input and output, as a person at the site has it. */
import { stripVTControlCharacters } from 'node:util';
import { spawn } from 'node:child_process';
import { join } from 'node:path';

export interface Terminal {
  /** The text has no carriage returns and no colours. */
  readonly ended: Promise<{ readonly code: number | null; readonly text: string; readonly raw: string }>;
  /** Resolves when the screen shows it; rejects when the command ends without. */
  shows(text: string): Promise<void>;
  /** All that came so far, as it came. */
  screen(): string;
  type(keys: string): void;
  /** Takes the terminal away. */
  close(): void;
}

const mainFile = join(import.meta.dirname, '..', '..', '..', 'edge-agent', 'main.ts');
const quote = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`;

export function openTerminal(stateDirectory: string, args: readonly string[], environment: Readonly<Record<string, string>> = {}): Terminal {
  return openShell(stateDirectory, commandOf(args), environment);
}

/** The same between two looks at the modes of the terminal, and with the process id of the command. */
export function openWatchedTerminal(stateDirectory: string, args: readonly string[], environment: Readonly<Record<string, string>> = {}): Terminal {
  return openShell(stateDirectory, `stty -g; sh -c 'echo pid=$$.; exec ${commandOf(args).replaceAll("'", `'"'"'`)}'; code=$?; stty -g; exit $code`, environment);
}

function commandOf(args: readonly string[]): string {
  return [process.execPath, mainFile, ...args].map(quote).join(' ');
}

function openShell(stateDirectory: string, command: string, environment: Readonly<Record<string, string>>): Terminal {
  const child = spawn('script', ['-qec', command, '/dev/null'], { env: { PATH: process.env['PATH'], SHELL: '/bin/sh', TERM: 'xterm', NKUDO_EDGE_STATE_DIR: stateDirectory, ...environment }, stdio: 'pipe' });
  let text = '';
  let onText = (): void => {};
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => ((text += chunk.toString()), onText()));
  const ended = new Promise<Awaited<Terminal['ended']>>((resolve) =>
    child.once('close', (code) => resolve({ code, text: stripVTControlCharacters(text.replaceAll('\r\n', '\n')), raw: text })),
  );
  return {
    ended,
    shows: (wanted) =>
      new Promise((resolve, reject) => {
        onText = () => void (text.includes(wanted) && resolve());
        onText();
        void ended.then(() => reject(new Error(`ended without ${JSON.stringify(wanted)}:\n${text}`)));
      }),
    screen: () => text,
    type: (keys) => void child.stdin.write(keys),
    close: () => void (child.exitCode === null && child.kill('SIGKILL')),
  };
}
