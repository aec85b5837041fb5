/**
 * Pure decisions about OCI images: what a manifest says, which manifest of an index is this host's, what
 * kind of disk an image holds, and what a registry asks for before it answers.
 *
 * Sources: OCI image-spec v1.1 (manifest.md, image-index.md, layer.md), Docker image manifest v2 schema 2,
 * OCI distribution-spec v1.1 and the token authentication of distribution/distribution.
 */
import { AppError } from '#api/model/error-codes.ts';

/** Manifests, indexes and configurations are small; a registry can't make the agent read more. Source: distribution-spec, 4 MiB. */
export const documentBytesMax = 4 * 2 ** 20;
/** Source: the overlay driver of Docker takes 127. */
const layersMax = 128;
const manifestsMax = 256;

export const manifestTypes = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
] as const;

const configTypes: readonly string[] = ['application/vnd.oci.image.config.v1+json', 'application/vnd.docker.container.image.v1+json'];
const layerTypePattern = /^application\/vnd\.(oci\.image\.layer(\.nondistributable)?\.v1\.tar|docker\.image\.rootfs\.diff\.tar|docker\.image\.rootfs\.foreign\.diff\.tar)([.+](gzip|zstd))?$/;
const diskTitlePattern = /\.(img|raw|qcow2)(\.(gz|zst))?$/;
const digestPattern = /^sha256:([0-9a-f]{64})$/;

/** Content of a registry by its digest. */
export interface Descriptor {
  readonly sha256: string;
  readonly bytes: number;
  readonly mediaType: string;
}

export type OciManifest =
  | { readonly kind: 'index'; readonly manifests: readonly (Descriptor & { readonly os: string; readonly architecture: string })[] }
  /** Layers of files, lowest first; the configuration names the digests of their content. */
  | { readonly kind: 'container'; readonly config: Descriptor; readonly layers: readonly Descriptor[] }
  /** One file that is the disk, perhaps compressed. */
  | { readonly kind: 'artifact'; readonly disk: Descriptor };

/** @throws IMAGE_REFUSED */
export function parseManifest(text: string): OciManifest {
  const manifest = parseObject(text, 'manifest');
  const manifests = manifest['manifests'];
  if (Array.isArray(manifests)) {
    if (manifests.length > manifestsMax) throw refused(`an index of ${manifests.length} manifests`);
    return {
      kind: 'index',
      manifests: manifests.map((entry) => {
        const platform = objectOr(field(entry, 'platform'));
        return { ...parseDescriptor(entry), os: textOf(platform['os']), architecture: textOf(platform['architecture']) };
      }),
    };
  }
  const listed = manifest['layers'];
  if (!Array.isArray(listed) || listed.length === 0) throw refused('a manifest without layers');
  if (listed.length > layersMax) throw refused(`${listed.length} layers`);
  const config = parseDescriptor(manifest['config']);
  if (configTypes.includes(config.mediaType) && textOf(manifest['artifactType']) === '') {
    const layers = listed.map(parseDescriptor);
    const strange = layers.find(({ mediaType }) => !layerTypePattern.test(mediaType));
    if (strange !== undefined) throw refused(`a layer of the type ${strange.mediaType}`);
    return { kind: 'container', config, layers };
  }
  return { kind: 'artifact', disk: chooseDisk(listed) };
}

/** The one layer, or the one whose title names a disk image: `oras push … disk.qcow2` sets the title. */
function chooseDisk(listed: readonly unknown[]): Descriptor {
  const titled = listed.filter((layer) => diskTitlePattern.test(textOf(objectOr(field(layer, 'annotations'))['org.opencontainers.image.title'])));
  const candidates = listed.length === 1 ? listed : titled;
  const [only] = candidates;
  if (only === undefined || candidates.length > 1) throw refused(`an artifact in which ${candidates.length} of ${listed.length} files are disk images; it must be one, by a title that ends in .img, .raw or .qcow2`);
  return parseDescriptor(only);
}

/** The manifest for this machine. @param architecture as Node names it. @throws IMAGE_REFUSED */
export function chooseManifest(index: OciManifest & { readonly kind: 'index' }, architecture: string): Descriptor {
  const wanted = architecture === 'x64' ? 'amd64' : architecture;
  const found = index.manifests.find(({ os, architecture: its }) => os === 'linux' && its === wanted) ?? (index.manifests.length === 1 && index.manifests[0]?.architecture === '' ? index.manifests[0] : undefined);
  if (found === undefined) throw refused(`no image for linux/${wanted}, only for ${index.manifests.map(({ os, architecture: its }) => `${os}/${its}`).join(', ').slice(0, 200)}`);
  return found;
}

/** Digests of the uncompressed layers, in order. @throws IMAGE_REFUSED */
export function parseLayerContents(text: string, layers: number): readonly string[] {
  const listed = objectOr(parseObject(text, 'configuration')['rootfs'])['diff_ids'];
  const contents = Array.isArray(listed) ? listed.map((digest) => digestPattern.exec(textOf(digest))?.[1] ?? '') : [];
  if (contents.length !== layers || contents.includes('')) throw refused(`a configuration that does not name the content of its ${layers} layers`);
  return contents;
}

/** What a registry asks for in `WWW-Authenticate`. Null: nothing that is known here. */
export type Challenge = { readonly scheme: 'basic' } | { readonly scheme: 'bearer'; readonly realm: string; readonly service: string; readonly scope: string };

export function parseChallenge(header: string): Challenge | null {
  const [, scheme = '', rest = ''] = /^\s*([A-Za-z]+)\s*(.*)$/s.exec(header) ?? [];
  if (scheme.toLowerCase() === 'basic') return { scheme: 'basic' };
  if (scheme.toLowerCase() !== 'bearer') return null;
  const parameters = new Map([...rest.matchAll(/([a-z_]+)="([^"]*)"/gi)].map(([, key = '', value = '']) => [key.toLowerCase(), value] as const));
  const realm = parameters.get('realm') ?? '';
  return URL.canParse(realm) ? { scheme: 'bearer', realm, service: parameters.get('service') ?? '', scope: parameters.get('scope') ?? '' } : null;
}

/** Like a URL's server: `host`, `host:port`, or either with the beginning of the repository. Empty: every registry. */
export function isAllowedRegistry(image: { readonly registry: string; readonly repository: string }, allowed: readonly string[]): boolean {
  const name = `${image.registry}/${image.repository}`;
  return allowed.length === 0 || allowed.some((entry) => `${name}/`.startsWith(`${entry.replace(/\/+$/, '')}/`));
}

function parseDescriptor(value: unknown): Descriptor {
  const descriptor = objectOr(value);
  const sha256 = digestPattern.exec(textOf(descriptor['digest']))?.[1];
  const bytes = descriptor['size'];
  if (sha256 === undefined || typeof bytes !== 'number' || !Number.isSafeInteger(bytes) || bytes < 0) throw refused('content without a sha256 digest and a size');
  return { sha256, bytes, mediaType: textOf(descriptor['mediaType']) };
}

function parseObject(text: string, what: string): Readonly<Record<string, unknown>> {
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) return parsed as Readonly<Record<string, unknown>>; // Checked just before; each field is checked where it is used.
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw refused(`a ${what} that is no JSON object`);
}

function objectOr(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {}; // Each field is checked where it is used.
}

function field(value: unknown, name: string): unknown {
  return objectOr(value)[name];
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function refused(what: string): AppError {
  return new AppError('IMAGE_REFUSED', `the image has ${what}`);
}
