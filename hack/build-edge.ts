/**
 * Builds `nkudo-edge` as one executable file: the bundled agent inside a stripped Node (a "single executable
 * application"). Owns the options of bundler and runtime, and that two builds of one tree are equal byte for byte.
 * Packages, manifests and signatures of a release are made elsewhere.
 */
import { build } from 'esbuild';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, copyFile, mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildOnce, contentKey, repositoryRoot } from './build-cache.ts';
import { inputsOf } from './build-programs.ts';
import { runTool } from './compile-cache.ts';

export type EdgeArchitecture = 'x64' | 'arm64';

export interface EdgeBuildOptions {
  /** What the program says of itself; default: that of package.json. */
  readonly version?: string;
  readonly architecture?: EdgeArchitecture;
  /** Public keys (PEM, one after another) whose signatures the program accepts on releases, beside those on the host. */
  readonly releaseKeysPem?: string;
  /** Builds it anew into this directory, which must exist, instead of taking it from the cache. */
  readonly directory?: string;
  /** Statements put before the program; for tests of versions that fail. */
  readonly preamble?: string;
}

export interface BuiltEdge {
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
  /** Symbols of the runtime were removed; false where no tool for that architecture was found. */
  readonly isStripped: boolean;
  /** Source files of which the program holds anything, relative to the source tree; those of npm packages are below node_modules. */
  readonly inputs: readonly string[];
}

/**
 * What the runtime is told, also instead of NODE_OPTIONS, which it ignores. A small young generation and no
 * optimizing compilers save 10 MB of resident memory and more with many microVMs; what is heavy is native code anyway:
 * docs/adr/0015-one-executable-file.md.
 */
const runtimeOptions = ['--max-semi-space-size=1', '--no-maglev', '--no-opt'];
/** Source: https://nodejs.org/docs/latest-v24.x/api/single-executable-applications.html */
const fuse = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2';
const resource = 'NODE_SEA_BLOB';
const name = 'nkudo-edge';
/** Builds that stay in the cache whatever their age, and how long one counts as in use, milliseconds. */
const buildsKept = 6;
const buildUsedMs = 3_600_000;
/** What `nkudo-edge install` writes, by the name under which the program finds it. */
const assets = { launcher: 'launcher.sh', unit: 'nkudo-edge.service' } as const;
const stripTools = { x64: ['strip', 'x86_64-linux-gnu-strip', 'llvm-strip'], arm64: ['aarch64-linux-gnu-strip', 'llvm-strip'] } as const;

/** Builds the program for this machine unless it is there already (about 5 s). Needs binutils. */
export async function buildEdge(options: EdgeBuildOptions = {}): Promise<BuiltEdge> {
  const architecture = options.architecture ?? (process.arch === 'arm64' ? 'arm64' : 'x64');
  const { program, inputs } = await bundleEdge(options);
  const runtime = await nodeFor(architecture);
  const strip = stripTools[architecture].find(isThere) ?? null;
  if (options.directory !== undefined) await assemble(options.directory, program, { runtime: runtime.path, strip });
  const directory = options.directory ?? (await buildOnce({
    kind: 'edge-executable',
    key: contentKey([program, ...(await Promise.all(Object.values(assets).map((file) => readFile(join(repositoryRoot, 'edge-agent', 'packaging', file))))), JSON.stringify([runtime.version, architecture, runtimeOptions, strip !== null])]),
    build: (staging) => assemble(staging, program, { runtime: runtime.path, strip }),
  }));
  if (options.directory === undefined) await removeOldBuilds(directory);
  const path = join(directory, name);
  const content = await readFile(path);
  return { path, bytes: content.length, sha256: createHash('sha256').update(content).digest('hex'), isStripped: strip !== null, inputs };
}

/** Each is 110 MB, and every change of the source makes another. What another process may be using stays. */
async function removeOldBuilds(newest: string): Promise<void> {
  const parent = dirname(newest);
  await utimes(newest, new Date(), new Date());
  const builds = await Promise.all((await readdir(parent)).filter((entry) => /^[0-9a-f]{16}$/.test(entry)).map(async (entry) => ({ path: join(parent, entry), usedAtMs: await stat(join(parent, entry)).then(({ mtimeMs }) => mtimeMs, () => Date.now()) })));
  const old = builds.toSorted((left, right) => right.usedAtMs - left.usedAtMs).slice(buildsKept).filter(({ usedAtMs }) => usedAtMs < Date.now() - buildUsedMs);
  await Promise.all(old.map(({ path }) => rm(path, { recursive: true, force: true })));
}

/** One CommonJS file, which Node runs as it is; names are kept, so that a stack trace from a site can be read. */
export async function bundleEdge({ version, releaseKeysPem = '', preamble }: EdgeBuildOptions): Promise<{ readonly program: Uint8Array; readonly inputs: readonly string[] }> {
  const result = await build({
    absWorkingDir: repositoryRoot,
    entryPoints: ['edge-agent/main.ts'],
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node24',
    minifyWhitespace: true,
    minifySyntax: true,
    legalComments: 'none',
    define: {
      NKUDO_EDGE_RELEASE_KEYS: JSON.stringify(releaseKeysPem),
      ...(version === undefined ? {} : { NKUDO_EDGE_VERSION: JSON.stringify(version) }),
    },
    ...(preamble === undefined ? {} : { banner: { js: preamble } }),
    write: false,
    metafile: true,
    logLevel: 'silent',
  });
  const [file] = result.outputFiles;
  if (file === undefined) throw new Error('the bundler wrote nothing');
  return { program: file.contents, inputs: inputsOf(result.metafile) };
}

async function assemble(staging: string, program: Uint8Array, { runtime, strip }: { readonly runtime: string; readonly strip: string | null }): Promise<void> {
  const main = `${name}.cjs`;
  await writeFile(join(staging, main), program);
  for (const file of Object.values(assets)) await copyFile(join(repositoryRoot, 'edge-agent', 'packaging', file), join(staging, file));
  // Paths become part of the result, so they are relative.
  const config = { main, output: 'sea.blob', disableExperimentalSEAWarning: true, useCodeCache: false, useSnapshot: false, execArgv: runtimeOptions, execArgvExtension: 'none', assets };
  await writeFile(join(staging, 'sea.json'), JSON.stringify(config));
  await runTool(process.execPath, ['--experimental-sea-config', 'sea.json'], { cwd: staging });
  const path = join(staging, name);
  await copyFile(runtime, path);
  await chmod(path, 0o755);
  // Before the program goes in: a stripped result does not start.
  if (strip !== null) await runTool(strip, [path], { cwd: staging });
  const injector = join(repositoryRoot, 'node_modules', 'postject', 'dist', 'cli.js');
  await runTool(process.execPath, [injector, name, resource, 'sea.blob', '--sentinel-fuse', fuse], { cwd: staging });
  await chmod(path, 0o755);
}

/** The pinned runtime: that of this machine is installed; another one comes from the same lock file. */
async function nodeFor(architecture: EdgeArchitecture): Promise<{ readonly path: string; readonly version: string }> {
  const wanted = `node_modules/node-linux-${architecture}`;
  const lock = JSON.parse(await readFile(join(repositoryRoot, 'package-lock.json'), 'utf8')) as { packages: Record<string, { version: string; integrity: string }> }; // Written by npm.
  const locked = lock.packages[wanted];
  if (locked === undefined) throw new Error(`package-lock.json has no ${wanted}`);
  const installed = join(repositoryRoot, wanted, 'bin', 'node');
  if (await isFile(installed)) return { path: installed, version: locked.version };
  const directory = await buildOnce({
    kind: 'node-runtime',
    key: contentKey([wanted, locked.version, locked.integrity]),
    build: async (staging) => {
      const packed = spawnSync('npm', ['pack', '--silent', `node-linux-${architecture}@${locked.version}`], { cwd: staging, encoding: 'utf8' });
      if (packed.status !== 0) throw new Error(`npm pack of the runtime for ${architecture} ended with ${String(packed.status)}: ${packed.stderr}`);
      const archive = join(staging, packed.stdout.trim());
      const digest = `sha512-${createHash('sha512').update(await readFile(archive)).digest('base64')}`;
      if (digest !== locked.integrity) throw new Error(`the runtime for ${architecture} is not the one of package-lock.json`);
      await runTool('tar', ['-xzf', archive, 'package/bin/node'], { cwd: staging });
    },
  });
  return { path: join(directory, 'package', 'bin', 'node'), version: locked.version };
}

const isFile = (path: string): Promise<boolean> => stat(path).then((found) => found.isFile(), () => false);
const isThere = (program: string): boolean => spawnSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' }).status === 0;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { help: { type: 'boolean' }, version: { type: 'string' }, arch: { type: 'string' }, out: { type: 'string' }, 'release-key': { type: 'string', multiple: true } },
  });
  if (values.help === true) {
    process.stdout.write('npm run build:edge -- [--version 1.2.3] [--arch x64|arm64] [--release-key FILE.pub]... [--out dist/nkudo-edge]\n');
    return;
  }
  if (values.arch !== undefined && values.arch !== 'x64' && values.arch !== 'arm64') throw new Error('--arch is x64 or arm64');
  const keys = await Promise.all((values['release-key'] ?? []).map((file) => readFile(file, 'utf8')));
  const built = await buildEdge({
    releaseKeysPem: keys.join('\n'),
    ...(values.version === undefined ? {} : { version: values.version }),
    ...(values.arch === undefined ? {} : { architecture: values.arch }),
  });
  const target = values.out ?? join(repositoryRoot, 'dist', values.arch === undefined || values.arch === process.arch ? name : `${name}-${values.arch}`);
  await mkdir(join(target, '..'), { recursive: true });
  await copyFile(built.path, `${target}.new`);
  await rename(`${target}.new`, target);
  process.stdout.write(`${target}\n  ${(built.bytes / 1e6).toFixed(1)} MB${built.isStripped ? '' : ', with symbols: no strip for that architecture here'}, sha256 ${built.sha256}\n`);
}

if (import.meta.main) await main();
