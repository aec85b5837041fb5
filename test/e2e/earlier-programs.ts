/**
 * The two programs of an earlier release, bundled from the tree that CHANGELOG.md names with the packages that are
 * installed here: seconds, and no network, where hack/release/previous-release.ts builds all of that release by its own
 * packages. A clone that does not have the commit says so, and the caller prints it.
 */
import { build } from 'esbuild';
import { execFileSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rename, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildOnce, contentKey, repositoryRoot } from '#hack/build-cache.ts';

export interface EarlierPrograms extends NamedRelease {
  /** Scripts for this machine's Node. */
  readonly controller: string;
  readonly edge: string;
}

export interface NamedRelease {
  readonly version: string;
  readonly commit: string;
}

/** The versions that the change log names a commit of, newest first. */
export async function earlierReleases(): Promise<readonly NamedRelease[]> {
  const changes = await readFile(join(repositoryRoot, 'CHANGELOG.md'), 'utf8');
  return [...changes.matchAll(/^## (\d+\.\d+\.\d+\S*),[^\n]*\n\nCommit `?([0-9a-f]{40})/gm)].map(([, version = '', commit = '']) => ({ version, commit }));
}

/** The reason instead where the tree can't be had. */
export async function buildEarlierPrograms({ version, commit }: NamedRelease): Promise<EarlierPrograms | { readonly missing: string }> {
  try {
    git(['cat-file', '-e', `${commit}^{tree}`]);
  } catch {
    return { missing: `this clone does not have ${commit}, the commit of ${version}` };
  }
  const directory = await buildOnce({
    kind: 'previous-programs',
    key: contentKey([commit, await readFile(join(repositoryRoot, 'package-lock.json'))]),
    build: (staging) => bundleTree(commit, staging),
  });
  return { version, commit, controller: join(directory, 'nkudo-controller.mjs'), edge: join(directory, 'nkudo-edge.mjs') };
}

/** CommonJS dependencies inside an ES module bundle still call `require`. */
const banner = "import { createRequire as nkudoCreateRequire } from 'node:module'; const require = nkudoCreateRequire(import.meta.url);";
const archiveMax = 2 ** 28;

async function bundleTree(commit: string, staging: string): Promise<void> {
  const tree = await mkdtemp(join(tmpdir(), 'nkudo-previous-'));
  try {
    execFileSync('tar', ['-x', '-C', tree], { input: git(['archive', commit]) });
    await symlink(join(repositoryRoot, 'node_modules'), join(tree, 'node_modules'));
    const out = join(tree, 'bundled');
    await build({
      absWorkingDir: tree,
      entryPoints: [{ in: 'controller/main.ts', out: 'nkudo-controller' }, { in: 'edge-agent/main.ts', out: 'nkudo-edge' }],
      outdir: out, outExtension: { '.js': '.mjs' }, bundle: true, platform: 'node', format: 'esm', target: 'node24', external: ['pg-native'], banner: { js: banner }, logLevel: 'silent',
    });
    await mkdir(staging, { recursive: true });
    for (const file of ['nkudo-controller.mjs', 'nkudo-edge.mjs']) await rename(join(out, file), join(staging, file)).catch(() => cp(join(out, file), join(staging, file)));
    await cp(join(tree, 'db', 'migrations'), join(staging, 'migrations'), { recursive: true });
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}

function git(args: readonly string[]): Buffer {
  return execFileSync('git', ['-C', repositoryRoot, ...args], { maxBuffer: archiveMax, stdio: ['ignore', 'pipe', 'ignore'] });
}
