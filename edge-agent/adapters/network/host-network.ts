/**
 * How the adapter reaches the host: programs by argument lists, never through a shell, and the kernel's
 * switches as files. Translates their failures once; leaves what to run to the callers.
 */
import { spawn } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { AppError } from '#api/model/error-codes.ts';

export interface RunOptions {
  readonly signal: AbortSignal;
  /** Text for the program's standard input; default: none. */
  readonly input?: string;
}

export interface HostNetwork {
  /**
   * Runs a program to its end and returns what it printed.
   * @throws NETWORK_UNAVAILABLE when there is no such program, NETWORK_FAILED when it ends with another status than 0
   */
  run(program: string, args: readonly string[], options: RunOptions): Promise<string>;
  /** Names of all network devices; costs no process. */
  deviceNames(): Promise<readonly string[]>;
  /** A file of /proc/sys, without the white space around its value. @throws NETWORK_UNAVAILABLE */
  readSwitch(path: string): Promise<string>;
  /** @throws NETWORK_UNAVAILABLE */
  writeSwitch(path: string, value: string): Promise<void>;
}

/** The programs end in milliseconds; a host that is out of memory or holds the rtnl lock needs longer. */
const programDeadlineMs = 30_000;
/** The rules of 2,000 guests have about 2 MB; more is not ours. */
const outputBytesMax = 64 * 2 ** 20;

/** @param path the PATH to find programs on; `sbin` directories are added, which a user's PATH mostly lacks */
export function createHostNetwork(path: string | undefined): HostNetwork {
  const environment = { PATH: `${path ?? ''}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`, LC_ALL: 'C' };
  return {
    run: (program, args, options) => runProgram(program, args, environment, options),
    deviceNames: () => readdir('/sys/class/net'),
    async readSwitch(switchPath) {
      return (await guardSwitch(switchPath, () => readFile(switchPath, 'utf8'))).trim();
    },
    writeSwitch: (switchPath, value) => guardSwitch(switchPath, () => writeFile(switchPath, value)),
  };
}

async function guardSwitch<Value>(path: string, use: () => Promise<Value>): Promise<Value> {
  try {
    return await use();
  } catch (error) {
    throw new AppError('NETWORK_UNAVAILABLE', `${path} can not be used; guest networks need root`, { cause: error });
  }
}

async function runProgram(program: string, args: readonly string[], environment: Readonly<Record<string, string>>, options: RunOptions): Promise<string> {
  options.signal.throwIfAborted();
  const deadline = AbortSignal.timeout(programDeadlineMs);
  const child = spawn(program, args, { env: environment, stdio: ['pipe', 'pipe', 'pipe'], signal: AbortSignal.any([options.signal, deadline]), killSignal: 'SIGKILL' });
  const printed = collect(child.stdout);
  const complained = collect(child.stderr);
  // A program that ends without reading its input is judged by its status.
  child.stdin.on('error', () => {});
  child.stdin.end(options.input ?? '');
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  }).catch((error: unknown) => {
    options.signal.throwIfAborted();
    if (deadline.aborted) throw new AppError('NETWORK_FAILED', `${program} did not end in ${programDeadlineMs} ms`, { cause: error });
    throw new AppError('NETWORK_UNAVAILABLE', `${program} can not be run`, { details: { program }, cause: error });
  });
  if (status !== 0) {
    const reason = complained().trim().split('\n').slice(0, 3).join('; ').slice(0, 400);
    throw new AppError('NETWORK_FAILED', `${program} ${args.slice(0, 6).join(' ')}: ${reason}`, { details: { program, status: status ?? -1 } });
  }
  return printed();
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= outputBytesMax) chunks.push(chunk);
  });
  return () => Buffer.concat(chunks).toString('utf8');
}
