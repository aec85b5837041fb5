/**
 * How a release was made, as an in-toto statement with SLSA's provenance. It claims level 1 of the build track: the statement
 * exists and names source and inputs. The builder is whatever machine runs this, so nothing in it is out of reach of
 * who runs it, which higher levels ask for.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ReleaseArtifact } from '#api/model/release.ts';
import { repositoryRoot } from '../build-cache.ts';
import type { BundledPackage } from './bundled-packages.ts';

export interface Source {
  /** Null outside of a clone. */
  readonly commit: string | null;
  /** Whether the tree is that of the commit. */
  readonly isClean: boolean;
}

export function sourceOfTree(): Source {
  const git = (...args: string[]): string | null => {
    const { status, stdout } = spawnSync('git', args, { cwd: repositoryRoot, encoding: 'utf8' });
    return status === 0 ? stdout.trim() : null;
  };
  return { commit: git('rev-parse', 'HEAD'), isClean: git('status', '--porcelain') === '' };
}

export interface ProvenanceInput {
  readonly version: string;
  readonly sourceDateEpoch: number;
  readonly source: Source;
  readonly runtime: BundledPackage;
  /** Keys that were built in, PEM. */
  readonly releaseKeys: readonly string[];
  readonly artifacts: readonly ReleaseArtifact[];
}

/** Source: https://slsa.dev/spec/v1.0/provenance */
export function provenanceOf({ version, sourceDateEpoch, source, runtime, releaseKeys, artifacts }: ProvenanceInput): string {
  const digest = (content: string | Uint8Array): { sha256: string } => ({ sha256: createHash('sha256').update(content).digest('hex') });
  const statement = {
    _type: 'https://in-toto.io/Statement/v1',
    subject: artifacts.map(({ fileName, sha256 }) => ({ name: fileName, digest: { sha256 } })),
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {
      buildDefinition: {
        buildType: 'https://nkudo.dev/release/npm-run-release/v1',
        externalParameters: { version, releaseKeys: releaseKeys.map((pem) => digest(pem).sha256) },
        internalParameters: { sourceDateEpoch, isSourceClean: source.isClean },
        resolvedDependencies: [
          ...(source.commit === null ? [] : [{ uri: `git+https://github.com/nkudo/nkudo@${source.commit}`, digest: { gitCommit: source.commit } }]),
          { uri: 'file:package-lock.json', digest: digest(readFileSync(join(repositoryRoot, 'package-lock.json'))) },
          { uri: `pkg:npm/${runtime.name}@${runtime.version}`, digest: { sha512: Buffer.from(runtime.integrity.slice('sha512-'.length), 'base64').toString('hex') } },
        ],
      },
      runDetails: { builder: { id: 'https://nkudo.dev/release/any-machine/v1' }, metadata: {} },
    },
  };
  return `${JSON.stringify(statement, null, 2)}\n`;
}
