/**
 * A registry that speaks what the agent needs of the OCI distribution protocol (manifests and blobs by
 * digest, ranges, a token when asked for), and images made for it: layers from lists of entries, the
 * strange ones included. It stands for a real registry; what it answers is taken from distribution-spec v1.1.
 */
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';

export const sha256 = (content: Uint8Array): string => createHash('sha256').update(content).digest('hex');

export interface TestRegistry {
  readonly port: number;
  /** By digest. */
  readonly blobs: Map<string, Uint8Array>;
  readonly manifests: Map<string, { readonly type: string; readonly content: Uint8Array }>;
  /** `GET <path> <range>` of each request, in order. */
  readonly requests: string[];
  /** Set: only these credentials get a token, and only the token gets content. */
  login: { readonly username: string; readonly password: string } | undefined;
  /** Set: blobs are to be had there only, under the same path. */
  blobsAt: string | undefined;
  close(): void;
}

const repository = 'team/app';
const token = 'a-token-of-the-test';

export async function startTestRegistry(): Promise<TestRegistry> {
  const blobs: TestRegistry['blobs'] = new Map();
  const manifests: TestRegistry['manifests'] = new Map();
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const { url = '', headers } = request;
    const range = headers.range ?? '';
    requests.push(`${request.method} ${url} ${range}`.trim());
    const { login } = registry;
    if (url.startsWith('/token?')) {
      const query = new URL(url, 'http://registry').searchParams;
      const expected = `Basic ${Buffer.from(`${login?.username}:${login?.password}`).toString('base64')}`;
      if (headers.authorization !== expected || query.get('service') !== 'test' || query.get('scope') !== `repository:${repository}:pull`) return void response.writeHead(401).end();
      return void response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ token }));
    }
    if (login !== undefined && headers.authorization !== `Bearer ${token}`) {
      return void response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${headers.host}/token",service="test",scope="repository:${repository}:pull"` }).end();
    }
    const [, kind, digest = ''] = /^\/v2\/team\/app\/(manifests|blobs)\/sha256:([0-9a-f]{64})$/.exec(url) ?? [];
    const manifest = kind === 'manifests' ? manifests.get(digest) : undefined;
    const content = kind === 'blobs' ? blobs.get(digest) : manifest?.content;
    if (content === undefined) return void response.writeHead(404).end();
    if (manifest !== undefined && !(headers.accept ?? '').includes(manifest.type)) return void response.writeHead(404).end();
    if (kind === 'blobs' && registry.blobsAt !== undefined) return void response.writeHead(307, { location: `${registry.blobsAt}${url}` }).end();
    const from = Number(/^bytes=(\d+)-$/.exec(range)?.[1] ?? 0);
    if (range !== '' && from >= content.length) return void response.writeHead(416).end();
    const body = content.subarray(from);
    response
      .writeHead(range === '' ? 200 : 206, {
        'content-type': manifest?.type ?? 'application/octet-stream',
        'content-length': body.length,
        'docker-content-digest': `sha256:${digest}`,
        ...(range === '' ? {} : { 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` }),
      })
      .end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo; // A TCP server that listens.
  const registry: TestRegistry = { port, blobs, manifests, requests, login: undefined, blobsAt: undefined, close: () => (server.closeAllConnections(), server.close()) };
  return registry;
}

const ociManifest = 'application/vnd.oci.image.manifest.v1+json';
const ociIndex = 'application/vnd.oci.image.index.v1+json';

function putManifest({ manifests }: TestRegistry, type: string, manifest: object): string {
  const content = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: type, ...manifest }));
  manifests.set(sha256(content), { type, content });
  return sha256(content);
}

function putBlob({ blobs }: TestRegistry, content: Uint8Array): { readonly digest: string; readonly size: number } {
  blobs.set(sha256(content), content);
  return { digest: `sha256:${sha256(content)}`, size: content.length };
}

/** As `oras push` makes it. @returns the digest of the manifest */
export function pushArtifact(registry: TestRegistry, content: Uint8Array, title = 'disk.raw'): string {
  const config = { mediaType: 'application/vnd.oci.empty.v1+json', ...putBlob(registry, Buffer.from('{}')) };
  const layer = { mediaType: 'application/vnd.nkudo.disk', ...putBlob(registry, content), annotations: { 'org.opencontainers.image.title': title } };
  return putManifest(registry, ociManifest, { artifactType: 'application/vnd.nkudo.disk', config, layers: [layer] });
}

export interface PushedImage {
  /** Digest of the manifest. */
  readonly manifest: string;
  readonly config: string;
  readonly layers: readonly string[];
}

/** @param layers tar archives, lowest first */
export function pushContainer(registry: TestRegistry, layers: readonly Uint8Array[], change: { readonly compress?: (layer: Uint8Array) => Uint8Array; readonly contents?: readonly string[] } = {}): PushedImage {
  const { compress = gzipSync, contents = layers.map(sha256) } = change;
  const pushed = layers.map((layer) => putBlob(registry, compress(layer)));
  const config = putBlob(registry, Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: contents.map((digest) => `sha256:${digest}`) } })));
  const manifest = putManifest(registry, ociManifest, {
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
    layers: pushed.map((layer) => ({ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...layer })),
  });
  return { manifest, config: config.digest.slice(7), layers: pushed.map(({ digest }) => digest.slice(7)) };
}

/** An index of the manifest for amd64 and of one for another machine that is not there. */
export function pushIndex(registry: TestRegistry, manifest: string): string {
  const entry = (architecture: string, sha: string): object => ({ mediaType: ociManifest, digest: `sha256:${sha}`, size: 10_000, platform: { os: 'linux', architecture } });
  return putManifest(registry, ociIndex, { manifests: [entry('riscv64', '0'.repeat(64)), entry('amd64', manifest)] });
}

export interface TestEntry {
  readonly path: string;
  /** As tar has it: '0' file, '1' hard link, '2' symbolic link, '3' device, '5' directory. */
  readonly type?: string;
  readonly content?: Uint8Array | string;
  readonly link?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  /** Records of an extended header. */
  readonly pax?: Readonly<Record<string, Uint8Array | string>>;
}

const blockBytes = 512;

/** A tar archive; what does not fit a header goes into an extended one. */
export function makeLayer(entries: readonly TestEntry[]): Buffer {
  return Buffer.concat([...entries.flatMap(renderEntry), Buffer.alloc(2 * blockBytes)]);
}

function renderEntry({ path, type = '0', content = '', link = '', mode = type === '5' ? 0o755 : 0o644, uid = 0, gid = 0, mtime = 1_700_000_000, pax = {} }: TestEntry): Buffer[] {
  const records = { ...(Buffer.byteLength(path) > 100 ? { path } : {}), ...(Buffer.byteLength(link) > 100 ? { linkpath: link } : {}), ...pax };
  const body = Buffer.from(content);
  const extended = Buffer.concat(Object.entries(records).map(([key, value]) => renderRecord(key, Buffer.from(value))));
  return [...(extended.length === 0 ? [] : [header({ path: 'pax', type: 'x' }, extended.length), padded(extended)]), header({ path, type, link, mode, uid, gid, mtime }, body.length), padded(body)];
}

function renderRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function header({ path, type = '0', link = '', mode = 0o644, uid = 0, gid = 0, mtime = 0 }: TestEntry, size: number): Buffer {
  const block = Buffer.alloc(blockBytes);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, '0')}\0`;
  block.write(path.slice(0, 100), 0, 'utf8');
  for (const [text, offset] of [[octal(mode, 7), 100], [octal(uid, 7), 108], [octal(gid, 7), 116], [octal(size, 11), 124], [octal(mtime, 11), 136], ['        ', 148], [type, 156], [link.slice(0, 100), 157], ['ustar\x0000', 257]] as const) block.write(text, offset, 'utf8');
  block.write(octal(block.reduce((sum, byte) => sum + byte, 0), 6), 148, 'latin1');
  return block;
}

function padded(body: Buffer): Buffer {
  return Buffer.concat([body, Buffer.alloc((blockBytes - (body.length % blockBytes)) % blockBytes)]);
}
