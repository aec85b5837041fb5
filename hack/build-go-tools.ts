/**
 * Builds foreign programs that tests call from the pinned Go modules in `hack/tools/<name>`, once per content, into the
 * user's cache. One module each, since their dependencies do not agree with each other. No user needs them.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { buildOnce, cacheRoot, contentKey, repositoryRoot } from './build-cache.ts';

/** Package of each program, and what a first build takes on two cores. */
const goTools = {
  actionlint: { package: 'github.com/rhysd/actionlint/cmd/actionlint', takes: 'half a minute' },
  coredns: { package: '.', takes: 'one to three minutes' },
  cosign: { package: 'github.com/sigstore/cosign/v3/cmd/cosign', takes: 'three to ten minutes' },
  grpcurl: { package: 'github.com/fullstorydev/grpcurl/cmd/grpcurl', takes: 'about a minute' },
  helm: { package: 'helm.sh/helm/v4/cmd/helm', takes: 'two to five minutes' },
  kubeconform: { package: 'github.com/yannh/kubeconform/cmd/kubeconform', takes: 'half a minute' },
  nfpm: { package: 'github.com/goreleaser/nfpm/v2/cmd/nfpm', takes: 'about a minute' },
} as const;

export type GoTool = keyof typeof goTools;

/** Path of the program. @throws when Go is missing, with the sentence to show the user. */
export async function ensureGoTool(name: GoTool, report: (line: string) => void = (line) => process.stderr.write(`${line}\n`)): Promise<string> {
  const directory = await buildOnce({
    kind: name,
    key: toolKey(name),
    onWait: (pid) => report(`${name}: process ${pid} is building it, waiting`),
    build: async (staging) => {
      report(`${name}: building it (once; ${goTools[name].takes})`);
      await goBuild(name, join(staging, name));
    },
  });
  return join(directory, name);
}

/** Whether the cache holds it, so that nobody has to wait for a build. */
export function isGoToolBuilt(name: GoTool): boolean {
  return existsSync(join(cacheRoot(), name, toolKey(name)));
}

function toolKey(name: GoTool): string {
  const version = spawnSync('go', ['env', 'GOVERSION'], { cwd: moduleOf(name), encoding: 'utf8' });
  if (version.status !== 0) throw new Error(`${name} can't be built: go is not on PATH. Install Go 1.21 or newer`);
  return contentKey([version.stdout, ...sourcesOf(name)]);
}

/** A program of our own `main` is made from that too. */
function sourcesOf(name: GoTool): Buffer[] {
  const files = ['go.mod', 'go.sum', ...(goTools[name].package === '.' ? ['main.go'] : [])];
  return files.map((file) => readFileSync(join(moduleOf(name), file)));
}

function moduleOf(name: GoTool): string {
  return join(repositoryRoot, 'hack', 'tools', name);
}

async function goBuild(name: GoTool, output: string): Promise<void> {
  const child = spawn('go', ['build', '-trimpath', '-ldflags', '-s -w', '-o', output, goTools[name].package], { cwd: moduleOf(name), stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(-8_000)));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`go build of ${name} failed with exit code ${code}:\n${stderr}`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const wanted = process.argv.slice(2);
  for (const name of Object.keys(goTools) as GoTool[]) { // The table's own keys.
    if (wanted.length === 0 || wanted.includes(name)) process.stdout.write(`${await ensureGoTool(name)}\n`);
  }
}
