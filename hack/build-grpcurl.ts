/**
 * Builds grpcurl, a foreign gRPC client, from the pinned Go module in `hack/tools/grpcurl`, once per content, into the
 * user's cache. Used by tests only.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { buildOnce, contentKey, repositoryRoot } from './build-cache.ts';

const moduleDirectory = join(repositoryRoot, 'hack', 'tools', 'grpcurl');
const program = 'github.com/fullstorydev/grpcurl/cmd/grpcurl';

/** Path of the program. @throws when Go is missing, with the sentence to show the user. */
export async function ensureGrpcurl(report: (line: string) => void = (line) => process.stderr.write(`${line}\n`)): Promise<string> {
  const version = spawnSync('go', ['env', 'GOVERSION'], { cwd: moduleDirectory, encoding: 'utf8' });
  if (version.status !== 0) throw new Error("grpcurl can't be built: go is not on PATH. Install Go 1.21 or newer");
  const directory = await buildOnce({
    kind: 'grpcurl',
    key: contentKey([version.stdout, ...['go.mod', 'go.sum'].map((file) => readFileSync(join(moduleDirectory, file)))]),
    onWait: (pid) => report(`grpcurl: process ${pid} is building it, waiting`),
    build: async (staging) => {
      report('grpcurl: building it (once; about a minute)');
      const run = spawnSync('go', ['build', '-trimpath', '-ldflags', '-s -w', '-o', join(staging, 'grpcurl'), program], { cwd: moduleDirectory, encoding: 'utf8' });
      if (run.status !== 0) throw new Error(`go build failed with exit code ${run.status}:\n${run.stderr}`);
    },
  });
  return join(directory, 'grpcurl');
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) process.stdout.write(`${await ensureGrpcurl()}\n`);
