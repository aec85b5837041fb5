/**
 * The images that a cluster without a registry gets: the controller's of this tree, a Postgres under the name that the chart
 * gives it, and the pause of a pod. Each an archive in the user's cache, named by what went into it.
 */
import { chmodSync, copyFileSync, cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parse } from 'yaml';
import { buildOnce, contentKey, repositoryRoot } from '../build-cache.ts';
import { buildPrograms } from '../build-programs.ts';
import { hashSources, runTool } from '../compile-cache.ts';
import { controllerConfig, imageRepository } from '../image/build-image.ts';
import { writeOciArchive } from '../image/oci-archive.ts';
import { assembleRootFileSystem, productVersion, unpackLibraries, unpackPackages } from '../image/root-file-system.ts';
import { findNativePackage } from '../stack/postgres.ts';

export interface ImageArchive {
  /** As pods name it. */
  readonly name: string;
  readonly file: string;
}

type Report = (line: string) => void;

const sources = join(repositoryRoot, 'hack', 'cluster');
/** Rises when what this file does to an image changes. */
const layoutVersion = '2';
/** Not the time of a build: the same image twice is the same bytes. */
const fixedTime = 1_700_000_000;
const keptArchives = 8;
/** User and group of postgres in the image of Docker Hub, which the chart expects. */
const postgresUserId = 999;

export const pauseImage = 'nkudo.local/pause:1';

export async function buildPauseImage(): Promise<ImageArchive> {
  const programs = await buildImagePrograms();
  return cached(pauseImage, [programs.key], async (root) => {
    copyFileSync(join(programs.directory, 'pause'), join(root, 'pause'));
    return { Entrypoint: ['/pause'], User: '65535:65535' };
  });
}

/**
 * Postgres from the npm package, behind an entry that takes the settings which the chart gives to the image of Docker Hub, and
 * under the name that the chart's values have.
 */
export async function buildPostgresImage(report: Report): Promise<ImageArchive> {
  const name = embeddedPostgresImage();
  const programs = await buildImagePrograms();
  const native = findNativePackage();
  const entry = readFileSync(join(sources, 'postgres-entry.sh'));
  return cached(name, [programs.key, native.version, entry], async (root) => {
    report(`image: ${name} from npm’s Postgres ${native.version}`);
    const [major = ''] = native.version.split('.');
    if (!name.endsWith(`:${major}`)) throw new Error(`the chart wants ${name}, and npm’s Postgres is ${native.version}`);
    for (const part of ['bin', 'lib', 'share']) cpSync(join(native.directory, part), join(root, 'usr/local', part), { recursive: true, verbatimSymlinks: true });
    await unpackLibraries(root);
    await unpackPackages(root, ['busybox-static'], /^\/bin\/busybox$/);
    for (const applet of ['sh', 'cat', 'chmod', 'mkdir', 'mv', 'rm']) symlinkSync('busybox', join(root, 'bin', applet));
    copyFileSync(join(programs.directory, 'pg_isready'), join(root, 'usr/local/bin/pg_isready'));
    mkdirSync(join(root, 'usr/local/sbin'), { recursive: true });
    writeFileSync(join(root, 'usr/local/sbin/postgres-entry'), entry, { mode: 0o755 });
    mkdirSync(join(root, 'etc'), { recursive: true });
    writeFileSync(join(root, 'etc/passwd'), `root:x:0:0::/root:/bin/sh\npostgres:x:${postgresUserId}:${postgresUserId}::/var/lib/postgresql:/bin/sh\n`);
    writeFileSync(join(root, 'etc/group'), `root:x:0:\npostgres:x:${postgresUserId}:\n`);
    for (const directory of ['tmp', 'var/run/postgresql', 'var/lib/postgresql/data']) {
      mkdirSync(join(root, directory), { recursive: true });
      chmodSync(join(root, directory), 0o1777);
    }
    return {
      Env: ['PATH=/usr/local/sbin:/usr/local/bin:/bin', 'LD_LIBRARY_PATH=/usr/local/lib', 'PGDATA=/var/lib/postgresql/data', 'LANG=C'],
      Entrypoint: ['/usr/local/sbin/postgres-entry'],
      Cmd: ['postgres'],
      // A fast shutdown, which ends the sessions.
      StopSignal: 'SIGINT',
    };
  });
}

function embeddedPostgresImage(): string {
  const values = parse(readFileSync(join(repositoryRoot, 'charts/nkudo/values.yaml'), 'utf8')) as { database: { embedded: { image: { repository: string; tag: string } } } }; // values.schema.json.
  const { repository, tag } = values.database.embedded.image;
  return `${repository}:${tag}`;
}

/** The controller of this tree, under the name that the chart gives it. */
export async function buildControllerArchive(): Promise<ImageArchive> {
  const programs = await buildPrograms();
  // The folder's name is its content; Node and the libraries come with the lock file and the machine's Debian.
  const key = [dirname(programs.controller), readFileSync(join(repositoryRoot, 'package-lock.json')), readFileSync('/etc/os-release')];
  return cached(`${imageRepository}:${productVersion()}`, key, async (root) => {
    await assembleRootFileSystem(root, fixedTime);
    return controllerConfig;
  });
}

async function buildImagePrograms(): Promise<{ readonly directory: string; readonly key: string }> {
  const source = join(sources, 'programs');
  const key = await hashSources(source, 'static');
  const directory = await buildOnce({
    kind: 'cluster-programs',
    key,
    build: (staging) =>
      runTool('go', ['build', '-trimpath', '-ldflags', '-s -w', '-o', `${staging}/`, './...'], { cwd: source, env: { ...process.env, CGO_ENABLED: '0', GOTOOLCHAIN: 'local', GOFLAGS: '-buildvcs=false', GOWORK: 'off' } }),
  });
  return { directory, key };
}

async function cached(name: string, inputs: readonly (string | Uint8Array)[], fill: (root: string) => Promise<Parameters<typeof writeOciArchive>[1]['config']>): Promise<ImageArchive> {
  const directory = await buildOnce({
    kind: 'cluster-images',
    key: contentKey([layoutVersion, name, ...inputs]),
    build: async (staging) => {
      const root = mkdtempSync(join(tmpdir(), 'nkudo-image-root-'));
      try {
        const config = await fill(root);
        chmodSync(root, 0o755);
        openToAll(root);
        await writeOciArchive(join(staging, 'image.tar'), { root, name, config, createdAt: fixedTime, isCompressed: false });
      } finally {
        rmSync(root, { recursive: true });
      }
    },
  });
  const file = join(directory, 'image.tar');
  const now = new Date();
  utimesSync(directory, now, now);
  forgetOld(dirname(directory));
  return { name, file };
}

/** Each change of the controller makes another archive of a hundred megabytes; those used last are kept. */
function forgetOld(parent: string): void {
  const archives = readdirSync(parent, { withFileTypes: true }).filter((entry) => entry.isDirectory() && /^[0-9a-f]{16}$/.test(entry.name)).map(({ name }) => join(parent, name));
  const byUse = archives.map((path) => ({ path, usedAt: statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0 })).toSorted((left, right) => right.usedAt - left.usedAt);
  for (const { path } of byUse.slice(keptArchives)) rmSync(path, { recursive: true, force: true });
}

/** Files of a package under root's home may be closed to others; in an image they are for every user. */
function openToAll(root: string): void {
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    if (entry.isSymbolicLink()) continue;
    const path = join(entry.parentPath, entry.name);
    const { mode } = statSync(path);
    chmodSync(path, mode | (entry.isDirectory() || (mode & 0o100) !== 0 ? 0o555 : 0o444));
  }
}
