/**
 * Builds kube-apiserver, etcd and kubectl from the pinned Go module in `hack/kubernetes`, once per content.
 *
 * Owns the build flags and the cache key; running the programs is left to `hack/stack`. The folder it returns holds
 * complete programs or does not exist (see `build-cache.ts`).
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { buildOnce, contentKey, repositoryRoot } from './build-cache.ts';

const moduleDirectory = join(repositoryRoot, 'hack', 'kubernetes');
const programs = ['etcd', 'kubectl', 'kube-apiserver'] as const;
/** How often a running build says that it is still running. */
const heartbeatMs = 20_000;

/** Absolute paths of the built programs. */
export interface KubernetesPrograms {
  readonly apiserver: string;
  readonly etcd: string;
  readonly kubectl: string;
}

/**
 * Returns the programs, building what the cache does not hold: 4 to 8 minutes on two cores the first time.
 * @throws when Go is missing or too old, with the sentence to show the user.
 */
export async function ensureKubernetes(report: (line: string) => void = printLine): Promise<KubernetesPrograms> {
  const version = kubernetesVersion();
  const goVersion = readGoVersion();
  const key = contentKey([version, goVersion, linkerFlags(version), ...moduleSources()]);
  const directory = await buildOnce({
    kind: 'kubernetes',
    key,
    onWait: (pid) => report(`kubernetes: process ${pid} is building the same programs, waiting for it`),
    build: async (staging) => {
      report(`kubernetes: building ${programs.join(', ')} ${version} with ${goVersion} (once; about 8 minutes on two cores)`);
      for (const program of programs) {
        await buildProgram(program, { staging, version, report });
      }
    },
  });
  return {
    apiserver: join(directory, 'kube-apiserver'),
    etcd: join(directory, 'etcd'),
    kubectl: join(directory, 'kubectl'),
  };
}

function moduleSources(): Uint8Array[] {
  const files = readdirSync(moduleDirectory, { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.(go|mod|sum)$/.test(file) && statSync(join(moduleDirectory, file)).isFile())
    .sort();
  if (files.length < programs.length + 2) {
    throw new Error(`hack/kubernetes holds only ${files.length} source files`);
  }
  return files.flatMap((file) => [Buffer.from(file), readFileSync(join(moduleDirectory, file))]);
}

/** The pinned version, read from go.mod so that it is written down once. */
function kubernetesVersion(): string {
  const goMod = readFileSync(join(moduleDirectory, 'go.mod'), 'utf8');
  const version = /^\s*k8s\.io\/kubernetes (v\d+\.\d+\.\d+)\s*$/m.exec(goMod)?.[1];
  if (version === undefined) {
    throw new Error('hack/kubernetes/go.mod requires no k8s.io/kubernetes version');
  }
  return version;
}

/** Without these kubectl and Helm can't parse the server's version. */
function linkerFlags(version: string): string {
  const [major, minor] = version.slice(1).split('.');
  const variable = 'k8s.io/component-base/version';
  return `-s -w -X ${variable}.gitVersion=${version} -X ${variable}.gitMajor=${major} -X ${variable}.gitMinor=${minor}`;
}

function readGoVersion(): string {
  const result = spawnSync('go', ['env', 'GOVERSION'], { cwd: moduleDirectory, encoding: 'utf8', env: { GOTOOLCHAIN: 'auto', ...process.env } });
  const version = result.stdout?.trim() ?? '';
  if (result.status !== 0 || version === '') {
    const reason = result.error === undefined ? result.stderr.trim() : 'go is not on PATH';
    throw new Error(`kube-apiserver can't be built: ${reason}. Install Go 1.21 or newer (it fetches the tool chain that go.mod asks for); Debian 12's golang is 1.19 and too old`);
  }
  return version;
}

interface BuildContext {
  readonly staging: string;
  readonly version: string;
  readonly report: (line: string) => void;
}

async function buildProgram(program: (typeof programs)[number], context: BuildContext): Promise<void> {
  const startedAt = performance.now();
  const seconds = (): string => `${Math.round((performance.now() - startedAt) / 1000)} s`;
  const heartbeat = setInterval(() => context.report(`kubernetes: still building ${program} (${seconds()})`), heartbeatMs);
  try {
    await runGo(['build', '-trimpath', '-ldflags', linkerFlags(context.version), '-o', join(context.staging, program), `./${program}`]);
  } finally {
    clearInterval(heartbeat);
  }
  context.report(`kubernetes: ${program} built in ${seconds()}`);
}

/** A C compiler without the C library's headers, as a bare `gcc` package is, makes Go's cgo packages fail. */
function cgoEnvironment(): NodeJS.ProcessEnv {
  return existsSync('/usr/include/stdlib.h') ? {} : { CGO_ENABLED: '0' };
}

async function runGo(args: readonly string[]): Promise<void> {
  const child = spawn('go', args, {
    cwd: moduleDirectory,
    stdio: ['ignore', 'inherit', 'pipe'],
    // Distributions switch the fetching of the tool chain that go.mod asks for off.
    env: { GOTOOLCHAIN: 'auto', ...process.env, ...cgoEnvironment() },
  });
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr = (stderr + chunk.toString()).slice(-8_000);
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  if (code !== 0) {
    throw new Error(`go ${args[0]} failed with exit code ${code}:\n${stderr}`);
  }
}

function printLine(line: string): void {
  process.stderr.write(`${line}\n`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const built = await ensureKubernetes();
  for (const path of Object.values(built)) {
    process.stdout.write(`${path}\n`);
  }
}
