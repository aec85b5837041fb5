/**
 * The npm packages that are really inside a bundle: from what the bundler says that it used, not from what is installed.
 * Owns the way from a file to its package and to the lock file's entry, which says version, licence and digest.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from '../build-cache.ts';

export interface BundledPackage {
  readonly name: string;
  readonly version: string;
  /** SPDX expression as the package says it; empty when it says none. */
  readonly license: string;
  /** As in the lock file: `sha512-` and base64. */
  readonly integrity: string;
  /** Relative to the source tree. */
  readonly directory: string;
}

interface LockEntry {
  readonly version: string;
  readonly integrity: string;
  readonly license?: string;
}

/** @param inputs files relative to the source tree. @throws Error for one below node_modules that the lock file does not know */
export function bundledPackages(inputs: readonly string[]): readonly BundledPackage[] {
  const directories = new Set(inputs.flatMap((input) => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(input)?.[0] ?? []));
  return [...directories].map(lockedPackage).sort((left, right) => (left.name === right.name ? compare(left.version, right.version) : compare(left.name, right.name)));
}

/** @param directory as the lock file names it, such as `node_modules/pino` */
export function lockedPackage(directory: string): BundledPackage {
  const entry = lock()[directory];
  if (entry === undefined) throw new Error(`package-lock.json has no ${directory}`);
  const { version, integrity, license = '' } = entry;
  return { name: directory.slice(directory.lastIndexOf('node_modules/') + 'node_modules/'.length), version, integrity, license, directory };
}

/** The runtime of this machine: that of another one has the same version, libraries and licences. */
export function installedRuntime(): BundledPackage {
  return lockedPackage(`node_modules/node-linux-${process.arch}`);
}

let locked: Readonly<Record<string, LockEntry>> | undefined;

function lock(): Readonly<Record<string, LockEntry>> {
  locked ??= (JSON.parse(readFileSync(join(repositoryRoot, 'package-lock.json'), 'utf8')) as { packages: Record<string, LockEntry> }).packages; // Written by npm.
  return locked;
}

const licenseFiles = ['LICENSE', 'LICENSE.md', 'LICENSE.txt', 'LICENCE', 'LICENCE.md', 'license', 'License.md', 'LICENSE-MIT', 'LICENSE-APACHE', 'NOTICE', 'NOTICE.txt'];

/** The licences of everything that a program carries, as they have to be passed on with it. */
export function thirdPartyNotices(packages: readonly BundledPackage[]): string {
  const sections = packages.map(({ name, version, license, directory }) => {
    const texts = licenseFiles.map((file) => join(repositoryRoot, directory, file)).filter((path) => existsSync(path)).map((path) => readFileSync(path, 'utf8').trim());
    return [`${name} ${version}${license === '' ? '' : ` (${license})`}`, '', ...texts].join('\n');
  });
  return `${['This program contains what follows, under the licences that follow.', ...sections].join(`\n\n${'-'.repeat(80)}\n`)}\n`;
}

const compare = (left: string, right: string): number => (left < right ? -1 : left > right ? 1 : 0);
