/**
 * Lists of what is inside a program of a release: CycloneDX 1.6 and SPDX 2.3, of the same parts. Owns the two formats; what
 * the parts are comes from the bundler, from the runtime itself and from the packages that went into an image. The same
 * parts give the same text.
 */
import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { repositoryRoot } from '../build-cache.ts';
import { installedRuntime, type BundledPackage } from './bundled-packages.ts';

export interface Part {
  readonly name: string;
  readonly version: string;
  /** Source: https://github.com/package-url/purl-spec */
  readonly packageUrl: string;
  /** SPDX expression; empty when it is not known. */
  readonly license: string;
  /** Of the package as it is fetched, hexadecimal; null when there is none. */
  readonly sha512: string | null;
  /** Empty for a part of the product; else what it came in. */
  readonly within: string;
}

export interface BillOfMaterials {
  readonly name: string;
  readonly version: string;
  /** Of the file that it tells of. */
  readonly sha256: string;
  readonly createdAtMs: number;
  readonly parts: readonly Part[];
}

const npmUrl = (name: string, version: string): string => `pkg:npm/${name.replace('@', '%40')}@${version}`;
const hexOf = (integrity: string): string | null => (integrity.startsWith('sha512-') ? Buffer.from(integrity.slice('sha512-'.length), 'base64').toString('hex') : null);

export function npmParts(packages: readonly BundledPackage[]): readonly Part[] {
  return packages.map(({ name, version, license, integrity }) => ({ name, version, packageUrl: npmUrl(name, version), license, sha512: hexOf(integrity), within: '' }));
}

/** Libraries that Node carries; what else it tells are numbers of interfaces and of data. */
const runtimeLibraries = ['acorn', 'ada', 'amaro', 'ares', 'brotli', 'icu', 'llhttp', 'merve', 'nbytes', 'ncrypto', 'nghttp2', 'openssl', 'simdjson', 'simdutf', 'sqlite', 'undici', 'uv', 'uvwasi', 'v8', 'zlib', 'zstd'];

/** A runtime, and the libraries inside of it as that of this machine tells them. */
export function runtimeParts(runtime: BundledPackage): readonly Part[] {
  const installed = installedRuntime();
  if (installed.version !== runtime.version) throw new Error(`${runtime.name} is of another version than ${installed.name}, which is asked what is inside`);
  const text = execFileSync(join(repositoryRoot, installed.directory, 'bin', 'node'), ['-p', 'JSON.stringify(process.versions)'], { encoding: 'utf8', env: {} });
  const versions = JSON.parse(text) as Readonly<Record<string, string>>; // Of Node itself.
  const own: Part = { name: 'node', version: runtime.version, packageUrl: npmUrl(runtime.name, runtime.version), license: runtime.license, sha512: hexOf(runtime.integrity), within: '' };
  const libraries = runtimeLibraries.flatMap((name): readonly Part[] => {
    const version = versions[name] ?? '';
    return version === '' ? [] : [{ name, version, packageUrl: `pkg:generic/${name}@${encodeURIComponent(version)}`, license: '', sha512: null, within: 'node' }];
  });
  return [own, ...libraries];
}

export function debianParts(packages: readonly { readonly name: string; readonly version: string }[]): readonly Part[] {
  return packages.map(({ name, version }) => ({ name, version, packageUrl: `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=amd64`, license: '', sha512: null, within: '' }));
}

/** Source: https://cyclonedx.org/docs/1.6/json/ */
export function cycloneDx({ name, version, sha256, createdAtMs, parts }: BillOfMaterials): string {
  const own = `pkg:generic/${name}@${version}`;
  const document = {
    $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    serialNumber: `urn:uuid:${uuidOf(sha256)}`,
    version: 1,
    metadata: {
      timestamp: new Date(createdAtMs).toISOString(),
      component: { type: 'application', 'bom-ref': own, name, version, purl: own, licenses: [{ expression: 'Apache-2.0' }], hashes: [{ alg: 'SHA-256', content: sha256 }] },
    },
    components: parts.map((part) => ({
      type: part.name === 'node' ? 'platform' : 'library',
      'bom-ref': part.packageUrl,
      name: part.name,
      version: part.version,
      purl: part.packageUrl,
      ...(part.license === '' ? {} : { licenses: [{ expression: part.license }] }),
      ...(part.sha512 === null ? {} : { hashes: [{ alg: 'SHA-512', content: part.sha512 }] }),
    })),
    dependencies: [
      { ref: own, dependsOn: parts.filter(({ within }) => within === '').map(({ packageUrl }) => packageUrl) },
      ...parts.map((part) => ({ ref: part.packageUrl, dependsOn: parts.filter(({ within }) => within !== '' && within === part.name).map(({ packageUrl }) => packageUrl) })),
    ],
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

/** Source: https://spdx.github.io/spdx-spec/v2.3/ */
export function spdx({ name, version, sha256, createdAtMs, parts }: BillOfMaterials): string {
  const own = 'SPDXRef-Package-product';
  const idOf = (part: Part): string => `SPDXRef-Package-${`${part.name}-${part.version}`.replaceAll(/[^A-Za-z0-9.-]/g, '-')}`;
  const common = { downloadLocation: 'NOASSERTION', filesAnalyzed: false, copyrightText: 'NOASSERTION', licenseConcluded: 'NOASSERTION' };
  const document = {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `${name}-${version}`,
    documentNamespace: `https://nkudo.dev/spdx/${name}-${version}-${uuidOf(sha256)}`,
    creationInfo: { created: new Date(createdAtMs).toISOString().replace(/\.\d+Z$/, 'Z'), creators: ['Organization: n-kudo', 'Tool: n-kudo-release'] },
    documentDescribes: [own],
    packages: [
      { ...common, SPDXID: own, name, versionInfo: version, licenseDeclared: 'Apache-2.0', primaryPackagePurpose: 'APPLICATION', checksums: [{ algorithm: 'SHA256', checksumValue: sha256 }] },
      ...parts.map((part) => ({
        ...common,
        SPDXID: idOf(part),
        name: part.name,
        versionInfo: part.version,
        licenseDeclared: part.license === '' ? 'NOASSERTION' : part.license,
        ...(part.sha512 === null ? {} : { checksums: [{ algorithm: 'SHA512', checksumValue: part.sha512 }] }),
        externalRefs: [{ referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: part.packageUrl }],
      })),
    ],
    relationships: [
      { spdxElementId: 'SPDXRef-DOCUMENT', relationshipType: 'DESCRIBES', relatedSpdxElement: own },
      ...parts.map((part) => {
        const around = parts.find((other) => other.name === part.within);
        return { spdxElementId: around === undefined ? own : idOf(around), relationshipType: 'CONTAINS', relatedSpdxElement: idOf(part) };
      }),
    ],
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

/** A name that is the same for the same file. */
function uuidOf(sha256: string): string {
  const hex = createHash('sha256').update(`sbom of ${sha256}`).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
