/**
 * Builds mock-cloudhypervisor (test/simulators/mock-cloudhypervisor, Go, standard library
 * only) into the user's cache. As a command it prints the binary's path.
 */
import { join } from 'node:path';
import { buildOnce, hashSources, runTool } from './compile-cache.ts';

const sourceDirectory = join(import.meta.dirname, '..', 'test', 'simulators', 'mock-cloudhypervisor');
const binaryName = 'mock-cloudhypervisor';

/** Path of the simulator's binary, built when its sources changed. Needs Go 1.19 or newer. */
export async function buildSimulator(): Promise<string> {
  const key = await hashSources(sourceDirectory, 'go build -trimpath');
  const directory = await buildOnce('simulator', key, (scratch) =>
    runTool('go', ['build', '-trimpath', '-o', join(scratch, binaryName), '.'], {
      cwd: sourceDirectory,
      env: { ...process.env, GOTOOLCHAIN: 'local', GOFLAGS: '-buildvcs=false', GOWORK: 'off', CGO_ENABLED: '0' },
    }),
  );
  return join(directory, binaryName);
}

if (import.meta.main) process.stdout.write(`${await buildSimulator()}\n`);
