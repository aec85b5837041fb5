/**
 * Versions of the agent for tests of rollouts: this source tree under other numbers, as signed releases on a web server, and
 * machines whose agent is started by the launcher that is shipped. Owns what is packaged there and where releases lie.
 */
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { machine } from 'node:os';
import { join } from 'node:path';
import type { ReleaseArchitecture } from '#api/model/release.ts';
import { bundleEdge } from '#hack/build-edge.ts';
import { repositoryRoot } from '#hack/build-cache.ts';
import { makeManifest } from '#hack/release/manifest.ts';
import { makeReleaseKey, readReleaseKey, signFile } from '#hack/release/sign.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import type { AgentExtras } from './world.ts';

const launcher = join(repositoryRoot, 'edge-agent', 'packaging', 'launcher.sh');
const dayMs = 86_400_000;

export interface AgentVersion {
  readonly version: string;
  /** Statements put before the program. */
  readonly preamble?: string;
}

export interface AgentVersions {
  /** URL of the manifests, with `{version}` in it. */
  readonly releases: string;
  /** What the world starts that machine's agent with: the launcher, with `packaged` beside it. */
  forMachine(name: string): AgentExtras;
}

/** @param versions those that there is a release of; the packaged one has none, as after an installation from a package */
export async function publishAgentVersions(packaged: AgentVersion, versions: readonly AgentVersion[], environment: Readonly<Record<string, string>> = {}): Promise<AgentVersions> {
  const scope = fileScope();
  const base = scope.makeDirectory('v');
  const files = join(base, 'releases');
  const keys = join(base, 'keys');
  const lib = join(base, 'lib');
  for (const directory of [files, keys, lib]) mkdirSync(directory, { mode: 0o755 });
  // The programs have no ending that says so.
  writeFileSync(join(base, 'package.json'), '{"type":"commonjs"}\n');
  const pair = makeReleaseKey();
  const key = readReleaseKey(pair.privateKeyPem);
  writeFileSync(join(keys, 'test.pub'), pair.publicKeyPem);
  await writeProgram(join(lib, 'nkudo-edge'), packaged);
  writeFileSync(join(lib, 'version'), `${packaged.version}\n`);
  for (const version of versions) {
    const path = join(files, `nkudo-edge-${version.version}`);
    await writeProgram(path, version);
    const manifest = join(files, `${version.version}.json`);
    writeFileSync(manifest, await makeManifest({ version: version.version, createdAtMs: Date.now(), expiresAtMs: Date.now() + dayMs, files: [{ path, name: 'nkudo-edge', architecture: machine() as ReleaseArchitecture }] })); // Any other one has no file in the release.
    await signFile(manifest, key);
  }
  const server = createServer((request, response) => {
    const path = join(files, (request.url ?? '').replaceAll('/', ''));
    if (!existsSync(path)) return void response.writeHead(404).end();
    response.end(readFileSync(path));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  scope.defer(() => void server.close());
  return {
    releases: `http://127.0.0.1:${(server.address() as AddressInfo).port}/{version}.json`, // It listens on TCP.
    forMachine: (name) => {
      const own = join(base, name);
      cpSync(lib, join(own, 'lib'), { recursive: true });
      return {
        // Before it come the runtime and the program that the world would start.
        through: ['/bin/sh', '-c', 'shift 2; exec "$LAUNCHER" "$@"', 'through'],
        environment: { LAUNCHER: launcher, NKUDO_EDGE_LIB: join(own, 'lib'), NKUDO_EDGE_AGENT_DIR: join(own, 'agent'), NKUDO_EDGE_RELEASE_KEYS_DIR: keys, ...environment },
      };
    },
  };
}

/** A bundle that names its interpreter: an executable file of 3 MB in place of one of 110. */
async function writeProgram(path: string, version: AgentVersion): Promise<void> {
  const { program } = await bundleEdge(version);
  writeFileSync(path, Buffer.concat([Buffer.from(`#!${process.execPath}\n`), program]));
  chmodSync(path, 0o755);
}
