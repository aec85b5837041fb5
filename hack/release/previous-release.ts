/**
 * The release before this tree, as upgrades are tested from it: built from the commit that CHANGELOG.md names. Owns finding
 * it, its tree, its two programs and its image in the user's cache, and what of the contracts between the two has changed.
 */
import { execFile, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { buildOnce, contentKey, repositoryRoot } from '../build-cache.ts';
import { controllerConfig, imageRepository } from '../image/build-image.ts';
import { writeOciArchive } from '../image/oci-archive.ts';

const run = promisify(execFile);

/** What two versions have to agree on, or change with care. */
const contractFolders = ['api/proto', 'crds/v1alpha1', 'db/migrations'] as const;
/** Rises when what is kept of a release changes. */
const layoutVersion = '1';

export interface ReleaseName {
  readonly version: string;
  /** Full hash. */
  readonly commit: string;
}

export interface PreviousRelease extends ReleaseName {
  /** Its sources. */
  readonly tree: string;
  readonly node: string;
  /** Bundle of the agent. */
  readonly edge: string;
  /** Of the controller, as the chart of that version names it. */
  readonly image: { readonly name: string; readonly file: string };
}

/** The newest version of the change log that says which commit it is. @throws Error when none does */
export function nameInChangelog(text: string): ReleaseName {
  for (const section of text.split(/^## /m).slice(1)) {
    const version = /^(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)\b/.exec(section)?.[1];
    const commit = /^Commit `([0-9a-f]{40})`\.?$/m.exec(section)?.[1];
    if (version !== undefined && commit !== undefined) return { version, commit };
  }
  throw new Error('CHANGELOG.md names no commit of an earlier version: a section "## 1.2.3" with a line "Commit `<40 digits>`."');
}

/** Files of contracts that differ between two trees, relative to both. */
export function contractChanges(before: string, after: string): readonly string[] {
  const read = (tree: string, file: string): string | null => (existsSync(join(tree, file)) ? readFileSync(join(tree, file), 'utf8') : null);
  const files = new Set([before, after].flatMap((tree) => contractFolders.flatMap((folder) => listFiles(tree, folder))));
  return [...files].filter((file) => read(before, file) !== read(after, file)).toSorted();
}

function listFiles(tree: string, folder: string): readonly string[] {
  if (!existsSync(join(tree, folder))) return [];
  return readdirSync(join(tree, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(tree.length + 1));
}

/** Builds it, or takes it from the cache. @throws Error when this clone has no such commit */
export async function preparePreviousRelease(report: (line: string) => void): Promise<PreviousRelease> {
  const { version, commit } = nameInChangelog(readFileSync(join(repositoryRoot, 'CHANGELOG.md'), 'utf8'));
  const directory = await buildOnce({
    kind: 'previous-release',
    key: contentKey([layoutVersion, version, commit]),
    build: async (staging) => {
      report(`previous release: building ${version} from ${commit}`);
      await buildRelease(staging, { version, commit });
    },
  });
  return { version, commit, tree: join(directory, 'tree'), node: process.execPath, edge: join(directory, 'programs', 'nkudo-edge.mjs'), image: { name: `${imageRepository}:${version}`, file: join(directory, 'image.tar') } };
}

async function buildRelease(staging: string, { version, commit }: ReleaseName): Promise<void> {
  const tree = join(staging, 'tree');
  mkdirSync(tree);
  const packed = join(staging, 'tree.tar');
  await run('git', ['archive', `--output=${packed}`, commit], { cwd: repositoryRoot }).catch((cause: unknown) => {
    throw new Error(`this clone has no commit ${commit}, from which CHANGELOG.md says ${version} is built: git fetch --unshallow`, { cause });
  });
  await run('tar', ['--extract', `--file=${packed}`, `--directory=${tree}`]);
  rmSync(packed);
  const modules = join(tree, 'node_modules');
  if (hasSamePackages(tree)) symlinkSync(join(repositoryRoot, 'node_modules'), modules);
  else await run('npm', ['ci', '--no-audit', '--no-fund'], { cwd: tree, maxBuffer: 2 ** 26 });
  const root = mkdtempSync(join(tmpdir(), 'nkudo-image-root-'));
  try {
    // By its own sources: nothing of this tree takes part but the packing of the image.
    const { programs, time } = await askTree(tree, root, commit);
    cpSync(dirname(programs.edge), join(staging, 'programs'), { recursive: true });
    await writeOciArchive(join(staging, 'image.tar'), { root, name: `${imageRepository}:${version}`, config: controllerConfig, createdAt: time, isCompressed: false });
  } finally {
    rmSync(root, { recursive: true, force: true });
    rmSync(modules, { recursive: true, force: true });
  }
}

/** Whether this tree's packages are the ones that the other was locked to. */
function hasSamePackages(tree: string): boolean {
  const lockOf = (directory: string): Readonly<Record<string, { version?: string }>> => (JSON.parse(readFileSync(join(directory, 'package-lock.json'), 'utf8')) as { packages: Record<string, { version?: string }> }).packages; // npm's format.
  const own = lockOf(repositoryRoot);
  return Object.entries(lockOf(tree)).every(([path, { version }]) => path === '' || own[path]?.version === version);
}

async function askTree(tree: string, root: string, commit: string): Promise<{ programs: { edge: string }; time: number }> {
  const { stdout } = await run('git', ['log', '-1', '--format=%ct', commit], { cwd: repositoryRoot });
  const time = Number(stdout.trim());
  const script = `
    import { buildPrograms } from './hack/build-programs.ts';
    import { assembleRootFileSystem } from './hack/image/root-file-system.ts';
    await assembleRootFileSystem(${JSON.stringify(root)}, ${time});
    console.log(JSON.stringify(await buildPrograms()));`;
  const ran = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script], { cwd: tree, encoding: 'utf8' });
  if (ran.status !== 0) throw new Error(`the tree of the previous release did not build:\n${ran.stderr.slice(-4_000)}`);
  return { programs: JSON.parse(ran.stdout.trim().split('\n').at(-1) ?? '') as { edge: string }, time }; // Printed by the script above.
}
