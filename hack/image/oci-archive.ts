/**
 * Writes a folder as an OCI image of one layer in an archive that containerd, docker, podman and skopeo read. Needs nothing
 * but GNU tar. Owns that the same folder gives the same bytes: sorted names, one time, owners root.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, mkdirSync, mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';

/** Settings of a container of the image; names are those of the OCI image specification. */
export interface ImageConfig {
  readonly User?: string;
  readonly Env?: readonly string[];
  readonly Entrypoint: readonly string[];
  readonly Cmd?: readonly string[];
  readonly StopSignal?: string;
}

export interface OciImage {
  /** The root file system. */
  readonly root: string;
  /** Such as `nkudo/controller:0.1.0`; a registry in front of it is taken as it is. */
  readonly name: string;
  readonly config: ImageConfig;
  /** Seconds since 1970, for the image and for every file. */
  readonly createdAt: number;
  /** Smaller and slower; not worth it for an image that stays on this machine. */
  readonly isCompressed: boolean;
}

/** @throws Error when tar fails; leaves no half archive then */
export async function writeOciArchive(archive: string, image: OciImage): Promise<void> {
  mkdirSync(dirname(archive), { recursive: true });
  const work = mkdtempSync(`${archive}.staging-`);
  try {
    const layout = join(work, 'layout');
    const blobs = join(layout, 'blobs', 'sha256');
    mkdirSync(blobs, { recursive: true });
    const keep = (content: object): { digest: string; size: number } => {
      const bytes = Buffer.from(JSON.stringify(content));
      const hash = createHash('sha256').update(bytes).digest('hex');
      writeFileSync(join(blobs, hash), bytes);
      return { digest: `sha256:${hash}`, size: bytes.length };
    };
    const layer = await writeLayer(work, blobs, image);
    const created = new Date(image.createdAt * 1000).toISOString();
    const config = keep({
      created,
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: image.config,
      rootfs: { type: 'layers', diff_ids: [layer.contentDigest] },
      history: [{ created, created_by: 'nkudo' }],
    });
    const manifest = keep({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
      layers: [{ mediaType: layer.mediaType, digest: layer.digest, size: layer.size }],
    });
    const name = fullName(image.name);
    const annotations = { 'io.containerd.image.name': name, 'org.opencontainers.image.ref.name': name };
    writeFileSync(join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
    writeFileSync(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType: 'application/vnd.oci.image.manifest.v1+json', ...manifest, annotations }] }));
    const packed = join(work, 'packed.tar');
    tar(layout, packed, image.createdAt);
    renameSync(packed, archive);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** As a container runtime names it: with its registry. */
export function fullName(name: string): string {
  const [first = '', ...rest] = name.split('/');
  if (rest.length > 0 && (/[.:]/.test(first) || first === 'localhost')) return name;
  return `docker.io/${rest.length === 0 ? 'library/' : ''}${name}`;
}

function tar(directory: string, output: string, createdAt: number): void {
  execFileSync('tar', ['--create', '--format=gnu', '--sort=name', '--owner=0', '--group=0', '--numeric-owner', `--mtime=@${createdAt}`, `--file=${output}`, `--directory=${directory}`, '.'], { stdio: ['ignore', 'inherit', 'inherit'] });
}

interface Layer {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  /** Of the layer as it is unpacked. */
  readonly contentDigest: string;
}

async function writeLayer(work: string, blobs: string, image: OciImage): Promise<Layer> {
  const plain = join(work, 'layer.tar');
  tar(image.root, plain, image.createdAt);
  const contentDigest = await digestOf(plain);
  const mediaType = 'application/vnd.oci.image.layer.v1.tar';
  const store = (file: string, digest: string, type: string): Layer => {
    const { size } = statSync(file);
    renameSync(file, join(blobs, digest.slice('sha256:'.length)));
    return { mediaType: type, digest, size, contentDigest };
  };
  if (!image.isCompressed) return store(plain, contentDigest, mediaType);
  const packed = join(work, 'layer.tar.gz');
  await pipeline(createReadStream(plain), createGzip({ level: 9 }), createWriteStream(packed));
  return store(packed, await digestOf(packed), `${mediaType}+gzip`);
}

async function digestOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return `sha256:${hash.digest('hex')}`;
}
