/**
 * Reads a seed image with bsdtar (libarchive), which knows nothing of the code that wrote it. Whoever has no bsdtar gets
 * the reason of the skip.
 */
import { execFileSync, spawnSync } from 'node:child_process';

export const hasSeedReader = spawnSync('bsdtar', ['--version']).status === 0;
if (!hasSeedReader) console.log('skipped: seed images are not read back, as there is no bsdtar here (Debian: apt-get install libarchive-tools)');

/** Content by name. */
export function readSeed(path: string): Readonly<Record<string, string>> {
  const list = execFileSync('bsdtar', ['-tf', path], { encoding: 'utf8' });
  const names = list.split('\n').filter((name) => name !== '' && name !== '.');
  return Object.fromEntries(names.map((name) => [name, execFileSync('bsdtar', ['-xOf', path, name], { encoding: 'utf8' })]));
}
