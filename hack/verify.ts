/**
 * Fails when a generated file differs from what its generator writes now: compares the tree before and after
 * generating. On a difference the new files stay, to be looked at and committed.
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from './build-cache.ts';
import { generateAll, generators } from './generate.ts';

function snapshot(): Map<string, string> {
  const files = [...new Set(generators.flatMap((generator) => generator.writes).flatMap(listFiles))];
  return new Map(files.map((file) => [file, readFileSync(join(repositoryRoot, file), 'utf8')]));
}

function listFiles(path: string): string[] {
  const full = join(repositoryRoot, path);
  if (!existsSync(full)) {
    return [];
  }
  return statSync(full).isDirectory()
    ? readdirSync(full, { recursive: true, encoding: 'utf8' })
        .map((name) => join(path, name))
        .filter((file) => statSync(join(repositoryRoot, file)).isFile())
    : [path];
}

const before = snapshot();
await generateAll(() => {});
const after = snapshot();
const stale = [...new Set([...before.keys(), ...after.keys()])].filter((file) => before.get(file) !== after.get(file)).sort();
process.stdout.write(`${after.size} generated files\n`);
for (const file of stale) {
  process.stdout.write(`stale: ${file}\n`);
}
if (stale.length > 0) {
  process.stdout.write('they were generated anew now; look at the difference and commit it\n');
  process.exitCode = 1;
}
