/**
 * The files of the agent on a host, once for deb, rpm and tarball: where each lies, its mode, and whether it is a setting
 * that an upgrade keeps. What packages do when they come and go is in edge-agent/packaging/{deb,rpm}.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { BuiltEdge } from '../build-edge.ts';
import { repositoryRoot } from '../build-cache.ts';
import { bundledPackages, installedRuntime, thirdPartyNotices } from './bundled-packages.ts';

export type PackageFile =
  | { readonly kind: 'file' | 'setting'; readonly target: string; readonly mode: number; readonly content: Uint8Array }
  | { readonly kind: 'program'; readonly target: string; readonly mode: number; readonly source: string }
  | { readonly kind: 'link'; readonly target: string; readonly to: string }
  | { readonly kind: 'directory'; readonly target: string; readonly mode: number };

export const settingsFile = '/etc/nkudo-edge/config.yaml';
const documents = '/usr/share/doc/nkudo-edge';

const source = (...path: readonly string[]): Uint8Array => readFileSync(join(repositoryRoot, ...path));
const packaging = (name: string): Uint8Array => source('edge-agent', 'packaging', name);
const text = (target: string, content: Uint8Array | string, mode = 0o644): PackageFile => ({ kind: 'file', target, mode, content: Buffer.from(content) });

/** Sorted by target. */
export function agentFiles(edge: Pick<BuiltEdge, 'path' | 'inputs'>, version: string): readonly PackageFile[] {
  const inside = [...bundledPackages(edge.inputs), installedRuntime()];
  const files: readonly PackageFile[] = [
    { kind: 'directory', target: '/etc/nkudo-edge', mode: 0o755 },
    { kind: 'setting', target: settingsFile, mode: 0o640, content: packaging('config.yaml') },
    { kind: 'directory', target: '/etc/nkudo-edge/release-keys.d', mode: 0o755 },
    { kind: 'link', target: '/usr/bin/nkudo-edge', to: '../lib/nkudo-edge/launcher' },
    text('/usr/lib/nkudo-edge/launcher', packaging('launcher.sh'), 0o755),
    { kind: 'program', target: '/usr/lib/nkudo-edge/nkudo-edge', mode: 0o755, source: edge.path },
    // The launcher takes a change of this file as another package.
    text('/usr/lib/nkudo-edge/version', `${version}\n`),
    text('/usr/lib/systemd/system/nkudo-edge.service', packaging('nkudo-edge.service')),
    text('/usr/lib/sysusers.d/nkudo-edge.conf', packaging('sysusers.conf')),
    text('/usr/lib/tmpfiles.d/nkudo-edge.conf', packaging('tmpfiles.conf')),
    text(`${documents}/changelog.gz`, gzipSync(source('CHANGELOG.md'), { level: 9 })),
    text(`${documents}/copyright`, copyright()),
    text(`${documents}/third-party.gz`, gzipSync(thirdPartyNotices(inside), { level: 9 })),
    text('/usr/share/man/man8/nkudo-edge.8.gz', gzipSync(packaging('nkudo-edge.8'), { level: 9 })),
  ];
  return files.toSorted((left, right) => (left.target < right.target ? -1 : 1));
}

/** Source: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/ */
function copyright(): string {
  return [
    'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/',
    'Upstream-Name: n-kudo',
    '',
    'Files: *',
    'Copyright: the authors of n-kudo',
    'License: Apache-2.0',
    'Comment: the program contains Node.js and npm packages under licences of their own; they are in third-party.gz.',
    '',
    'License: Apache-2.0',
    ' Licensed under the Apache License, Version 2.0; the text is in /usr/share/common-licenses/Apache-2.0 on Debian and',
    ' at https://www.apache.org/licenses/LICENSE-2.0.',
    '',
  ].join('\n');
}
