/**
 * The Mesh port over the installed `netbird` command, run without a shell's interpretation. Owns the file that the key
 * passes through: 0600, in the state directory, gone when `join` returns and at every start of the agent. The service
 * itself is the host's: never started, stopped or limited here.
 *
 * Facts measured on NetBird v0.77: `up` with an unknown key hangs for good; a used key and an absent service end with 1;
 * `up` while connected changes nothing; `--setup-key` would be visible in the process list.
 */
import { constants, rmSync, writeFileSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { delimiter, isAbsolute, join as joinPath, resolve } from 'node:path';
import type { Mesh, MeshOutcome } from '../../ports/mesh.ts';
import type { MeshAnswer } from '../../domain/mesh.ts';
import { runBounded, type CommandEnd } from './bounded-command.ts';
import { createDaemonMemory } from './daemon-memory.ts';
import { parseNetbirdStatus } from './parse-status.ts';

export interface NetbirdOptions {
  /** Path or name of the command; a name is looked for on the PATH of the environment, anew each time. */
  readonly command: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly stateDirectory: string;
  /** Bound on `up`, `down` and `deregister`, milliseconds; a look has a quarter of it. */
  readonly commandDeadlineMs: number;
}

const keyFileName = 'mesh-setup-key';
/** Longest part of what a command printed that becomes part of a problem, characters. */
const quoteMax = 300;

export function createNetbird(options: NetbirdOptions): Mesh {
  const keyFile = joinPath(options.stateDirectory, keyFileName);
  const memory = createDaemonMemory({ procDirectory: '/proc' });
  // An agent that was killed while it joined left the file.
  rmSync(keyFile, { force: true });

  async function run(args: readonly string[], deadlineMs: number, signal: AbortSignal): Promise<CommandEnd | { readonly kind: 'missing' }> {
    const path = await findCommand(options);
    if (path === null) return { kind: 'missing' };
    memory.setCommand(path);
    return runBounded({ command: [path, ...args], environment: options.environment, deadlineMs }, signal);
  }

  async function act(args: readonly string[], signal: AbortSignal, secret = ''): Promise<MeshOutcome> {
    const end = await run(args, options.commandDeadlineMs, signal);
    if (end.kind === 'ended' && end.code === 0) return { kind: 'done' };
    return { kind: 'failed', problem: problemOf(`netbird ${args[0]}`, end, options.commandDeadlineMs, secret) };
  }

  return {
    async look(signal) {
      const deadlineMs = options.commandDeadlineMs / 4;
      const end = await run(['status', '--json'], deadlineMs, signal);
      return { ...lookOf(end, deadlineMs, options.command), daemonMemoryBytes: await memory.read() };
    },

    async join(order, revealKey, signal) {
      const args = ['up', '--management-url', order.managementUrl, '--hostname', order.hostName, '--disable-dns', '--no-browser'];
      if (revealKey === null) return act(args, signal);
      const key = revealKey();
      try {
        rmSync(keyFile, { force: true });
        writeFileSync(keyFile, `${key}\n`, { mode: 0o600, flag: 'wx' });
        return await act([...args.slice(0, 1), '--setup-key-file', keyFile, ...args.slice(1)], signal, key);
      } catch (error) {
        if (signal.aborted || !isErrno(error)) throw error;
        return { kind: 'failed', problem: `the key could not be handed over: ${error.code}` };
      } finally {
        rmSync(keyFile, { force: true });
      }
    },

    async leave(signal) {
      const down = await act(['down'], signal);
      const end = await run(['deregister'], options.commandDeadlineMs, signal);
      if (end.kind === 'ended' && end.code === 0) return { kind: 'done' };
      // Versions without this command keep their registration; they are disconnected, and the peer is deleted elsewhere.
      if (end.kind === 'ended' && /unknown command/.test(end.err) && down.kind === 'done') return { kind: 'done' };
      return { kind: 'failed', problem: problemOf('netbird deregister', end, options.commandDeadlineMs) };
    },
  };
}

/** The executable as an absolute path; null when there is none. */
async function findCommand({ command, environment }: Pick<NetbirdOptions, 'command' | 'environment'>): Promise<string | null> {
  const places = command.includes('/') ? [resolve(command)] : (environment['PATH'] ?? '').split(delimiter).filter(isAbsolute).map((directory) => joinPath(directory, command));
  for (const path of places) {
    const isThere = await access(path, constants.X_OK).then(
      () => true,
      () => false, // Not there, or not for us.
    );
    if (isThere) return path;
  }
  return null;
}

function lookOf(end: CommandEnd | { readonly kind: 'missing' }, deadlineMs: number, command: string): MeshAnswer {
  if (end.kind === 'missing') return { kind: 'missing', problem: `no executable ${command} on this host: install netbird, or name it with --netbird` };
  const problem = problemOf('netbird status', end, deadlineMs);
  if (end.kind !== 'ended') return { kind: 'failed', problem };
  // The command has one status for every failure; nearly always its service does not answer.
  if (end.code !== 0) return end.code === 1 ? { kind: 'stopped', problem } : { kind: 'failed', problem };
  const status = parseNetbirdStatus(end.out);
  return status === null ? { kind: 'failed', problem: 'netbird status printed something that is not its JSON' } : { kind: 'seen', status };
}

function problemOf(what: string, end: CommandEnd | { readonly kind: 'missing' }, deadlineMs: number, secret = ''): string {
  switch (end.kind) {
    case 'missing':
      return `${what}: there is no such executable`;
    case 'notStarted':
      return `${what} could not be started: ${quote(end.problem)}`;
    case 'late':
      return `${what} did not end within ${deadlineMs / 1000} s and was killed`;
    case 'tooMuchOutput':
      return `${what} printed more than 1 MiB and was killed`;
    case 'ended':
      return `${what} ended with ${end.code}${end.err.trim() === '' ? '' : `: ${quote(withoutSecret(end.err, secret))}`}`;
  }
}

/** First lines in one, without control characters. */
function quote(text: string): string {
  return text.trim().replaceAll(/[\s\p{Cc}]+/gu, ' ').slice(0, quoteMax);
}

function withoutSecret(text: string, secret: string): string {
  return secret === '' ? text : text.replaceAll(secret, '[key]');
}

function isErrno(error: unknown): error is Error & { readonly code: string } {
  return error instanceof Error && 'code' in error && typeof error.code === 'string';
}
