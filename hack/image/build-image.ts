/** `npm run image [-- FILE]`: the controller's image as an OCI archive, by buildah, docker or neither; FILE is dist/nkudo-controller-VERSION.oci.tar by default. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { repositoryRoot } from '../build-cache.ts';
import { writeOciArchive, type ImageConfig } from './oci-archive.ts';
import { assembleRootFileSystem, commitTime, imageUserId, productVersion, type PackageVersion } from './root-file-system.ts';

export const imageRepository = 'nkudo/controller';

const has = (program: string, ...args: readonly string[]): boolean => spawnSync(program, args, { stdio: 'ignore', timeout: 20_000 }).status === 0;
/** Docker's client may be there without its builder, or without an engine. */
const hasDocker = (): boolean => has('docker', 'version') && has('docker', 'buildx', 'version');

/** What controller.Dockerfile says, for a machine without docker and buildah; a test compares them. */
export const controllerConfig: ImageConfig = {
  User: `${imageUserId}:${imageUserId}`,
  Env: ['NODE_ENV=production'],
  Entrypoint: ['/usr/bin/node', '--enable-source-maps', '/usr/lib/nkudo/nkudo-controller.mjs'],
  Cmd: ['serve'],
};

/**
 * Writes the archive; returns the Debian packages of which something is inside.
 * @param writer `own`: the one that gives the same bytes on every machine, whatever engine there is
 */
export async function buildControllerImage(archive: string, report: (line: string) => void, writer: 'any' | 'own' = 'any'): Promise<readonly PackageVersion[]> {
  // Modes become part of the image.
  process.umask(0o022);
  const context = mkdtempSync(join(tmpdir(), 'nkudo-image-root-'));
  chmodSync(context, 0o755);
  const dockerfile = join(repositoryRoot, 'hack', 'image', 'controller.Dockerfile');
  const tag = `${imageRepository}:${productVersion()}`;
  try {
    const epoch = await commitTime();
    const packages = await assembleRootFileSystem(context, epoch);
    report(`image: libraries of ${packages.map(({ name, version }) => `${name} ${version}`).join(', ')}`);
    mkdirSync(dirname(archive), { recursive: true });
    rmSync(archive, { force: true });
    if (writer === 'any' && has('buildah', '--version')) {
      // vfs and chroot work also inside of containers and without user namespaces.
      const buildah = (...args: string[]): void => void execFileSync('buildah', ['--storage-driver', 'vfs', ...args], { stdio: ['ignore', 'inherit', 'inherit'] });
      buildah('build', '--isolation', 'chroot', '--timestamp', String(epoch), '--file', dockerfile, '--tag', tag, context);
      buildah('push', tag, `oci-archive:${archive}:${tag}`);
    } else if (writer === 'any' && hasDocker()) {
      execFileSync('docker', ['buildx', 'build', '--file', dockerfile, '--tag', tag, '--output', `type=oci,dest=${archive},rewrite-timestamp=true`, context], {
        stdio: ['ignore', 'inherit', 'inherit'],
        env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch) },
      });
    } else {
      await writeOciArchive(archive, { root: context, name: tag, config: controllerConfig, createdAt: epoch, isCompressed: true });
    }
    report(`image: ${archive}, ${Math.round(statSync(archive).size / 2 ** 20)} MiB`);
    return packages;
  } finally {
    rmSync(context, { recursive: true, force: true });
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const archive = resolve(process.argv[2] ?? join(repositoryRoot, 'dist', `nkudo-controller-${productVersion()}.oci.tar`));
  try {
    await buildControllerImage(archive, (line) => process.stdout.write(`${line}\n`));
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
