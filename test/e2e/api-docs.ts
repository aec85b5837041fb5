/**
 * docs/api.md as a script: its blocks for a shell, in order, run as they stand. What a block exports is there for the next
 * one, as in the shell of a reader. Owns reading and running; what must come out is the test's.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from '#hack/build-cache.ts';

export interface DocBlock {
  /** Line of the first command, from 1. */
  readonly line: number;
  readonly text: string;
  /** Ends only when its reader goes. */
  readonly isStream: boolean;
}

export function readBlocks(path = 'docs/api.md'): readonly DocBlock[] {
  const blocks: DocBlock[] = [];
  let open: { readonly line: number; readonly isStream: boolean; readonly lines: string[] } | null = null;
  for (const [index, line] of readFileSync(join(repositoryRoot, path), 'utf8').split('\n').entries()) {
    if (open === null) {
      if (/^```sh( stream)?$/.test(line)) open = { line: index + 2, isStream: line.endsWith('stream'), lines: [] };
    } else if (line === '```') {
      blocks.push({ line: open.line, isStream: open.isStream, text: open.lines.join('\n') });
      open = null;
    } else open.lines.push(line);
  }
  return blocks;
}

/** Commands of a block: a line that ends in a backslash goes on, and so does one with a here document. */
export function commandsOf(block: DocBlock): readonly string[] {
  const commands: string[] = [];
  let command: string[] = [];
  let isInDocument = false;
  for (const line of block.text.split('\n')) {
    command.push(line);
    if (isInDocument) isInDocument = line !== 'EOF';
    else isInDocument = line.includes('<<EOF');
    if (isInDocument || line.endsWith('\\') || command[0]?.startsWith('(') === true && line !== ')') continue;
    commands.push(command.join('\n'));
    command = [];
  }
  return commands;
}

/** Methods of nkudo.v1.FleetService that grpcurl calls in the text. */
export function methodsIn(text: string): readonly string[] {
  return text.includes('grpcurl ') ? [...text.matchAll(/nkudo\.v1\.FleetService\/(\w+)/g)].map((match) => match[1] ?? '') : [];
}

export interface CurlCall {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
}

/** Requests that curl makes in a command. */
export function requestsIn(command: string): readonly CurlCall[] {
  if (!command.includes('curl ') || command.includes('grpcurl ')) return [];
  return [...command.matchAll(/https:\/\/nkudo-controller(\/[^\s"?]*)/g)].map((match) => ({ method: /-X POST|--data /.test(command) ? 'POST' : 'GET', path: match[1] ?? '' }));
}

export interface ShellEnvironment {
  readonly directory: string;
  readonly variables: Readonly<Record<string, string>>;
}

export interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command by bash with what earlier ones exported. A stream is interrupted, as by Ctrl-C, once `isEnough` of its output. */
export function runCommand(shell: ShellEnvironment, command: string, isEnough: ((stdout: string) => boolean) | null): Promise<Ran> {
  const wrapper = '. ./exported; eval "$1"; code=$?; export -p > ./exported; exit $code';
  const child = spawn('bash', ['-o', 'pipefail', '-c', wrapper, 'bash', command], { cwd: shell.directory, env: { ...shell.variables }, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  let stdout = '';
  let stderr = '';
  return new Promise((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (piece: string) => {
      stdout += piece;
      if (isEnough?.(stdout) === true && child.pid !== undefined) process.kill(-child.pid, 'SIGINT');
    });
    child.stderr.setEncoding('utf8').on('data', (piece: string) => (stderr += piece));
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });
}
