/**
 * Builds the test guests (test/guest) with gcc and ld into the user's cache.
 * As a command it prints the path of the default guest (guest64) and of guest32.
 */
import { join } from 'node:path';
import { buildOnce, hashSources, runTool } from './compile-cache.ts';

const sourceDirectory = join(import.meta.dirname, '..', 'test', 'guest');

const cFlags = [
  '-O1',
  '-m64',
  '-ffreestanding',
  '-fno-pic',
  '-fno-stack-protector',
  '-mno-red-zone',
  '-mgeneral-regs-only',
  '-fcf-protection=none',
  '-fno-builtin',
  '-fno-asynchronous-unwind-tables',
  '-fno-jump-tables',
  '-fno-tree-loop-distribute-patterns',
];
const linkFlags = ['-nostdlib', '-static', '-z', 'max-page-size=4096', '--no-warn-rwx-segments'];

/** Paths of both guests; `guest64` is the one to use unless a test is about the other. */
export async function buildGuest(): Promise<{ guest32: string; guest64: string }> {
  const key = await hashSources(sourceDirectory, [...cFlags, ...linkFlags].join(' '));
  const directory = await buildOnce('guest', key, async (scratch) => {
    const gcc = (args: string[]) => runTool('gcc', args, { cwd: sourceDirectory });
    const ld = (script: string, output: string, objects: string[]) =>
      runTool('ld', [...linkFlags, '-T', script, '-o', join(scratch, output), ...objects.map((object) => join(scratch, object))], { cwd: sourceDirectory });
    await gcc([...cFlags, '-c', 'guest64.c', '-o', join(scratch, 'guest64-c.o')]);
    await gcc(['-m64', '-c', 'guest64.S', '-o', join(scratch, 'guest64-s.o')]);
    await gcc(['-m64', '-c', 'guest32.S', '-o', join(scratch, 'guest32.o')]);
    await ld('guest64.ld', 'guest64.elf', ['guest64-s.o', 'guest64-c.o']);
    await ld('guest32.ld', 'guest32.elf', ['guest32.o']);
  });
  return { guest32: join(directory, 'guest32.elf'), guest64: join(directory, 'guest64.elf') };
}

if (import.meta.main) {
  const { guest32, guest64 } = await buildGuest();
  process.stdout.write(`${guest64}\n${guest32}\n`);
}
