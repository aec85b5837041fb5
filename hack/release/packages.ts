/**
 * Writes the deb and the rpm of the agent with nfpm, so that the same input gives the same bytes. Owns what the packages
 * say of themselves and need from others; their files are package-files.ts's.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { stringify } from 'yaml';
import type { EdgeArchitecture } from '../build-edge.ts';
import { repositoryRoot } from '../build-cache.ts';
import { ensureGoTool } from '../build-go-tools.ts';
import { runTool } from '../compile-cache.ts';
import type { PackageFile } from './package-files.ts';

export type PackageFormat = 'deb' | 'rpm';

export interface PackageInput {
  readonly format: PackageFormat;
  readonly files: readonly PackageFile[];
  readonly version: string;
  readonly architecture: EdgeArchitecture;
  /** Time of everything inside. */
  readonly sourceDateEpoch: number;
  /** Off: for tests, where packing a program of 110 MB takes longer than all else. */
  readonly isCompressed?: boolean;
  readonly target: string;
}

/** As Debian and as rpm name a machine. */
const architectures = { x64: { deb: 'amd64', rpm: 'x86_64' }, arm64: { deb: 'arm64', rpm: 'aarch64' } } as const;

/** A version of ours as both formats order it: their `~` is what comes before a release. */
const packageVersion = (version: string): string => version.replace('-', '~');

export function packageFileName(format: PackageFormat, version: string, architecture: EdgeArchitecture): string {
  const name = packageVersion(version);
  return format === 'deb' ? `nkudo-edge_${name.replace('~', '-')}_${architectures[architecture].deb}.deb` : `nkudo-edge-${name.replace('~', '-')}.${architectures[architecture].rpm}.rpm`;
}

export async function buildPackage({ format, files, version, architecture, sourceDateEpoch, isCompressed = true, target }: PackageInput): Promise<void> {
  const nfpm = await ensureGoTool('nfpm');
  const staging = mkdtempSync(join(tmpdir(), 'nkudo-package-'));
  try {
    const contents = files.map((file, index) => contentOf(file, join(staging, String(index)), new Date(sourceDateEpoch * 1_000).toISOString()));
    const script = (name: string): string => join(repositoryRoot, 'edge-agent', 'packaging', format, name);
    const scripts = format === 'deb' ? { postinstall: script('postinst'), preremove: script('prerm'), postremove: script('postrm') } : { postinstall: script('post'), preremove: script('preun'), postremove: script('postun') };
    const description = {
      name: 'nkudo-edge',
      arch: architectures[architecture][format],
      platform: 'linux',
      version: packageVersion(version),
      version_schema: 'none',
      section: 'admin',
      priority: 'optional',
      maintainer: 'n-kudo maintainers <maintainers@nkudo.dev>',
      vendor: 'n-kudo',
      homepage: 'https://nkudo.dev',
      license: 'Apache-2.0',
      description: ['edge agent of n-kudo: runs the microVMs of this host', 'Starts, watches and ends microVMs on Cloud Hypervisor as the control plane in', 'Kubernetes asks, and goes on by itself while that can not be reached. It starts', 'only after "nkudo-edge enroll". Cloud Hypervisor is not part of this package.'].join('\n'),
      mtime: new Date(sourceDateEpoch * 1_000).toISOString(),
      ...needs[format],
      contents,
      scripts,
      deb: { compression: isCompressed ? 'zstd' : 'none' },
      rpm: { compression: 'zstd', group: 'System Environment/Daemons', summary: 'edge agent of n-kudo: runs the microVMs of this host', buildhost: 'localhost' },
    };
    const file = join(staging, 'nfpm.yaml');
    writeFileSync(file, stringify(description));
    mkdirSync(dirname(target), { recursive: true });
    await runTool(nfpm, ['package', '--config', file, '--packager', format, '--target', target], { cwd: staging, env: { ...process.env, SOURCE_DATE_EPOCH: String(sourceDateEpoch) } });
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

/** What docs/edge.md asks of a host; the last ones only for some kinds of networks and disks. */
const needs = {
  deb: { depends: ['libc6 (>= 2.28)', 'libstdc++6 (>= 8)', 'systemd', 'util-linux', 'iproute2', 'nftables'], recommends: ['dnsmasq-base', 'e2fsprogs'], suggests: ['cloud-hypervisor', 'netbird'] },
  rpm: { depends: ['glibc >= 2.28', 'libstdc++ >= 8', 'systemd', 'util-linux', 'coreutils', 'iproute', 'nftables'], recommends: ['dnsmasq', 'e2fsprogs'], suggests: ['cloud-hypervisor', 'netbird'] },
} as const;

function contentOf(file: PackageFile, staged: string, mtime: string): object {
  const owner = { owner: 'root', group: 'root', mtime };
  switch (file.kind) {
    case 'link':
      return { src: file.to, dst: file.target, type: 'symlink', file_info: { mtime } };
    case 'directory':
      return { dst: file.target, type: 'dir', file_info: { ...owner, mode: file.mode } };
    case 'program':
      return { src: file.source, dst: file.target, file_info: { ...owner, mode: file.mode } };
    case 'file':
    case 'setting':
      writeFileSync(staged, file.content);
      return { src: staged, dst: file.target, ...(file.kind === 'setting' ? { type: 'config|noreplace' } : {}), file_info: { ...owner, mode: file.mode } };
  }
}
