/**
 * Builds the `netbird` command of mock-netbird (test/simulators/mock-netbird/command, Go, standard library only) into
 * the user's cache, and knows how its management program is started. As a command it prints both.
 */
import { join } from 'node:path';
import { buildOnce, hashSources, runTool } from './compile-cache.ts';

const simulatorDirectory = join(import.meta.dirname, '..', 'test', 'simulators', 'mock-netbird');
const binaryName = 'netbird';

export interface MockNetbirdPrograms {
  /** Path of the `netbird` command; it needs MOCK_NETBIRD_STATE in its environment. */
  readonly netbird: string;
  /** The management program: `command` with `args`; tokens in MOCK_NETBIRD_TOKENS. */
  readonly management: { readonly command: string; readonly args: readonly string[] };
}

/** Builds what changed. Needs Go 1.19 or newer. */
export async function buildMockNetbird(): Promise<MockNetbirdPrograms> {
  const source = join(simulatorDirectory, 'command');
  const key = await hashSources(source, 'go build -trimpath -ldflags -s -w');
  const directory = await buildOnce('mock-netbird', key, (scratch) =>
    runTool('go', ['build', '-trimpath', '-ldflags', '-s -w', '-o', join(scratch, binaryName), '.'], {
      cwd: source,
      env: { ...process.env, GOTOOLCHAIN: 'local', GOFLAGS: '-buildvcs=false', GOWORK: 'off', CGO_ENABLED: '0' },
    }),
  );
  return {
    netbird: join(directory, binaryName),
    management: { command: process.execPath, args: [join(simulatorDirectory, 'main.ts')] },
  };
}

if (import.meta.main) process.stdout.write(`${JSON.stringify(await buildMockNetbird())}\n`);
