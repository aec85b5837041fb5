/**
 * Content-addressed cache for things the tests compile (guests, simulator). Owns where
 * they live and that a half-written result is never seen: a build happens in a private
 * directory that is renamed into place. Two builds at the same time end with one result.
 */
import { createHash, randomUUID } from 'node:crypto';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, relative } from 'node:path';

/**
 * `$XDG_CACHE_HOME/nkudo/<kind>`, or the same below `~/.cache`. For root it is below `/var/cache`: its home is closed
 * to others, and VMMs, which run as users of their own, have to open what lies here.
 */
export function cacheDirectory(kind: string): string {
  const xdg = process.env['XDG_CACHE_HOME'];
  const own = process.getuid?.() === 0 ? '/var/cache' : join(homedir(), '.cache');
  const base = xdg !== undefined && xdg.startsWith('/') ? xdg : own;
  return join(base, 'nkudo', kind);
}

/** Hash over names and contents of all regular files below `directory`, and of `salt`. */
export async function hashSources(directory: string, salt: string): Promise<string> {
  const hash = createHash('sha256');
  hash.update(salt);
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  for (const path of paths.toSorted()) {
    const content = await readFile(path);
    hash.update(`\0${relative(directory, path)}\0${content.length}\0`);
    hash.update(content);
  }
  return hash.digest('hex').slice(0, 24);
}

/** Runs `build` into a private directory unless `<kind>/<key>` exists; returns that directory. */
export async function buildOnce(kind: string, key: string, build: (directory: string) => Promise<void>): Promise<string> {
  const parent = cacheDirectory(kind);
  const finished = join(parent, key);
  if (existsSync(finished)) return finished;
  const scratch = join(parent, `.${key}.${randomUUID()}`);
  await mkdir(scratch, { recursive: true });
  try {
    await build(scratch);
    await openToAll(scratch);
    try {
      await rename(scratch, finished);
    } catch (error) {
      // A build at the same time won; its result is the same by its key.
      if (!existsSync(finished)) throw error;
    }
    return finished;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** Whatever the umask of the caller is. */
async function openToAll(directory: string): Promise<void> {
  await chmod(directory, 0o755);
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    await chmod(path, (await stat(path)).mode | (entry.isDirectory() ? 0o555 : 0o444 | ((await stat(path)).mode & 0o100 ? 0o111 : 0)));
  }
}

/** Runs a tool to its end; the error carries what it printed. */
export async function runTool(command: string, args: readonly string[], options: { cwd: string; env?: NodeJS.ProcessEnv }): Promise<void> {
  const child = spawn(command, args, { cwd: options.cwd, env: options.env ?? process.env, stdio: ['ignore', 'pipe', 'pipe'] });
  const output: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => output.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => output.push(chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${String(code)}:\n${Buffer.concat(output).toString('utf8')}`);
}
