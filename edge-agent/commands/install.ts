/**
 * `install`: what the package does, by the program itself: program, launcher and unit, from what lies inside the single
 * executable. Repeating it with a newer program is an upgrade. It starts nothing and touches no state.
 */
import { chmodSync, copyFileSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { getAsset, isSea } from 'node:sea';
import { AppError } from '#api/model/error-codes.ts';
import { agentVersion } from '../config.ts';

export function install(root: string): Promise<string> {
  if (!isSea()) throw new AppError('NOT_IMPLEMENTED', 'this is not the single executable', { remedy: 'run: npm run build:edge' });
  const at = (path: string): string => join(root, path);
  // Others may start commands of it and read the unit.
  process.umask(0o022);
  try {
    writeWhole(at('usr/lib/nkudo-edge/nkudo-edge'), 0o755, (path) => copyFileSync(process.execPath, path));
    writeWhole(at('usr/lib/nkudo-edge/launcher'), 0o755, (path) => writeFileSync(path, getAsset('launcher', 'utf8')));
    writeWhole(at('usr/lib/systemd/system/nkudo-edge.service'), 0o644, (path) => writeFileSync(path, getAsset('unit', 'utf8')));
    writeWhole(at('usr/bin/nkudo-edge'), null, (path) => symlinkSync('../lib/nkudo-edge/launcher', path));
    // Last: the launcher takes a change of this file as another package.
    writeWhole(at('usr/lib/nkudo-edge/version'), 0o644, (path) => writeFileSync(path, `${agentVersion}\n`));
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
    if (code === '') throw cause;
    throw new AppError('PERMISSION_DENIED', `it can not be installed below ${root} (${code})`, { cause, remedy: 'run it as root, on a file system that can be written' });
  }
  return Promise.resolve(
    [
      `installed nkudo-edge ${agentVersion}`,
      'next:  nkudo-edge enroll --token-file FILE',
      '       systemctl daemon-reload && systemctl enable --now nkudo-edge    (an agent that runs already: systemctl restart nkudo-edge)',
    ].join('\n'),
  );
}

/** A program that runs may be replaced only by another file of that name. */
function writeWhole(path: string, mode: number | null, write: (path: string) => void): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  rmSync(`${path}.new`, { force: true });
  write(`${path}.new`);
  if (mode !== null) chmodSync(`${path}.new`, mode);
  renameSync(`${path}.new`, path);
}
