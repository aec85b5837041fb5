/** Runs a program of the host for images: argument lists, never a shell, a bounded end, and only what it complains about is kept. */
import { spawn } from 'node:child_process';
import { AppError } from '#api/model/error-codes.ts';

export interface ProgramRun {
  readonly program: string;
  readonly args: readonly string[];
  /** PATH to find it on; `sbin` directories are added, which a user's PATH mostly lacks. */
  readonly path: string | undefined;
  readonly input?: string;
  readonly signal: AbortSignal;
}

export interface ProgramEnd {
  readonly status: number | null;
  /** Its last lines on standard error. */
  readonly complaint: string;
}

const complaintBytesMax = 4_096;

/** Rejects with the signal's reason, after the program's end. @throws IMAGE_TOOL_MISSING */
export async function runHostProgram({ program, args, path, input = '', signal }: ProgramRun): Promise<ProgramEnd> {
  signal.throwIfAborted();
  const environment = { PATH: `${path ?? ''}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`, LC_ALL: 'C' };
  const child = spawn(program, args, { env: environment, stdio: ['pipe', 'ignore', 'pipe'], signal, killSignal: 'SIGKILL' });
  let complaint = '';
  child.stderr.setEncoding('latin1');
  child.stderr.on('data', (chunk: string) => (complaint = (complaint + chunk).slice(-complaintBytesMax)));
  // A program that ends without reading its input is judged by its end.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const closed = new Promise<number | null>((resolve) => child.once('close', resolve));
  const problem = await new Promise<Error | null>((resolve) => {
    child.once('error', resolve);
    child.once('spawn', () => void closed.then(() => resolve(null)));
  });
  signal.throwIfAborted();
  if (problem !== null) throw new AppError('IMAGE_TOOL_MISSING', `${program} can not be run`, { details: { program }, cause: problem });
  return { status: await closed, complaint: complaint.trim() };
}
