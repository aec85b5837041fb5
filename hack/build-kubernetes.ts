/**
 * Builds kube-apiserver, etcd and kubectl from the pinned Go module in `hack/kubernetes`, and what a node and its
 * controllers need from that in `hack/kubernetes-node`, once per content.
 *
 * Owns the build flags and the cache key; running the programs is left to `hack/stack` and `hack/cluster`. The folder it
 * returns holds complete programs or does not exist (see `build-cache.ts`).
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { buildOnce, cacheRoot, contentKey, repositoryRoot } from './build-cache.ts';

interface KubernetesModule {
  /** Folder of the Go module below `hack`, and of the cache. */
  readonly name: 'kubernetes' | 'kubernetes-node';
  readonly programs: readonly string[];
}

const serverModule: KubernetesModule = { name: 'kubernetes', programs: ['etcd', 'kubectl', 'kube-apiserver'] };
const nodeModule: KubernetesModule = { name: 'kubernetes-node', programs: ['kube-controller-manager', 'kube-proxy', 'kube-scheduler', 'kubelet'] };
/** How often a running build says that it is still running. */
const heartbeatMs = 20_000;

/** Absolute paths of the built programs. */
export interface KubernetesPrograms {
  readonly apiserver: string;
  readonly etcd: string;
  readonly kubectl: string;
}

/** Absolute paths of what makes an API server a cluster of one node. */
export interface NodePrograms {
  readonly controllerManager: string;
  readonly kubelet: string;
  readonly proxy: string;
  readonly scheduler: string;
}

type Report = (line: string) => void;

/**
 * Returns the programs, building what the cache does not hold: 4 to 8 minutes on two cores the first time.
 * @throws when Go is missing or too old, with the sentence to show the user.
 */
export async function ensureKubernetes(report: Report = printLine): Promise<KubernetesPrograms> {
  const directory = await ensureModule(serverModule, report);
  return {
    apiserver: join(directory, 'kube-apiserver'),
    etcd: join(directory, 'etcd'),
    kubectl: join(directory, 'kubectl'),
  };
}

/** The same for a node; 4 to 8 minutes too. @throws as `ensureKubernetes` */
export async function ensureKubernetesNode(report: Report = printLine): Promise<NodePrograms> {
  const directory = await ensureModule(nodeModule, report);
  return {
    controllerManager: join(directory, 'kube-controller-manager'),
    kubelet: join(directory, 'kubelet'),
    proxy: join(directory, 'kube-proxy'),
    scheduler: join(directory, 'kube-scheduler'),
  };
}

/** Whether the cache holds both, so that nobody has to wait for a build. */
export function areKubernetesAndNodeBuilt(): boolean {
  return [serverModule, nodeModule].every((module) => existsSync(join(cacheRoot(), module.name, moduleKey(module))));
}

async function ensureModule(module: KubernetesModule, report: Report): Promise<string> {
  const version = kubernetesVersion(module);
  return buildOnce({
    kind: module.name,
    key: moduleKey(module),
    onWait: (pid) => report(`kubernetes: process ${pid} is building the same programs, waiting for it`),
    build: async (staging) => {
      report(`kubernetes: building ${module.programs.join(', ')} ${version} with ${readGoVersion(module)} (once; about 8 minutes on two cores)`);
      for (const program of module.programs) {
        await buildProgram(program, { module, staging, version, report });
      }
    },
  });
}

function moduleKey(module: KubernetesModule): string {
  const version = kubernetesVersion(module);
  return contentKey([version, readGoVersion(module), linkerFlags(version), ...moduleSources(module)]);
}

const directoryOf = ({ name }: KubernetesModule): string => join(repositoryRoot, 'hack', name);

function moduleSources(module: KubernetesModule): Uint8Array[] {
  const directory = directoryOf(module);
  const files = readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.(go|mod|sum)$/.test(file) && statSync(join(directory, file)).isFile())
    .sort();
  if (files.length < module.programs.length + 2) {
    throw new Error(`hack/${module.name} holds only ${files.length} source files`);
  }
  return files.flatMap((file) => [Buffer.from(file), readFileSync(join(directory, file))]);
}

/** The pinned version, read from go.mod so that it is written down once. */
function kubernetesVersion(module: KubernetesModule): string {
  const goMod = readFileSync(join(directoryOf(module), 'go.mod'), 'utf8');
  const version = /^\s*k8s\.io\/kubernetes (v\d+\.\d+\.\d+)\s*$/m.exec(goMod)?.[1];
  if (version === undefined) {
    throw new Error(`hack/${module.name}/go.mod requires no k8s.io/kubernetes version`);
  }
  return version;
}

/** Without these kubectl and Helm can't parse the server's version. */
function linkerFlags(version: string): string {
  const [major, minor] = version.slice(1).split('.');
  const variable = 'k8s.io/component-base/version';
  return `-s -w -X ${variable}.gitVersion=${version} -X ${variable}.gitMajor=${major} -X ${variable}.gitMinor=${minor}`;
}

function readGoVersion(module: KubernetesModule): string {
  const result = spawnSync('go', ['env', 'GOVERSION'], { cwd: directoryOf(module), encoding: 'utf8', env: { GOTOOLCHAIN: 'auto', ...process.env } });
  const version = result.stdout?.trim() ?? '';
  if (result.status !== 0 || version === '') {
    const reason = result.error === undefined ? result.stderr.trim() : 'go is not on PATH';
    throw new Error(`kube-apiserver can't be built: ${reason}. Install Go 1.21 or newer (it fetches the tool chain that go.mod asks for); Debian 12's golang is 1.19 and too old`);
  }
  return version;
}

interface BuildContext {
  readonly module: KubernetesModule;
  readonly staging: string;
  readonly version: string;
  readonly report: Report;
}

async function buildProgram(program: string, context: BuildContext): Promise<void> {
  const startedAt = performance.now();
  const seconds = (): string => `${Math.round((performance.now() - startedAt) / 1000)} s`;
  const heartbeat = setInterval(() => context.report(`kubernetes: still building ${program} (${seconds()})`), heartbeatMs);
  try {
    await runGo(context.module, ['build', '-trimpath', '-ldflags', linkerFlags(context.version), '-o', join(context.staging, program), `./${program}`]);
  } finally {
    clearInterval(heartbeat);
  }
  context.report(`kubernetes: ${program} built in ${seconds()}`);
}

/** A C compiler without the C library's headers, as a bare `gcc` package is, makes Go's cgo packages fail. */
function cgoEnvironment(): NodeJS.ProcessEnv {
  return existsSync('/usr/include/stdlib.h') ? {} : { CGO_ENABLED: '0' };
}

async function runGo(module: KubernetesModule, args: readonly string[]): Promise<void> {
  const child = spawn('go', args, {
    cwd: directoryOf(module),
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
  const built = { ...(await ensureKubernetes()), ...(process.argv.includes('--node') ? await ensureKubernetesNode() : {}) };
  for (const path of Object.values(built)) {
    process.stdout.write(`${path}\n`);
  }
}
