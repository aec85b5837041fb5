/**
 * The contracts between parts of n-kudo that may run in different versions, as a release tells them: what each is in this
 * tree, and from which release on the other side may be. The tests of compatibility hold what is said here.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ReleaseContract } from '#api/model/release.ts';
import { journalSchemaVersion } from '#edge-agent/adapters/journal-sqlite/journal-sqlite.ts';
import { repositoryRoot } from '../build-cache.ts';

/** The release before this one. Each contract changes only by additions between the two: both go together, in both directions. */
export const oldestCompatibleRelease = '0.1.0';

export function contractsOfTree(): readonly ReleaseContract[] {
  const contract = (name: string, version: string, files: readonly string[]): ReleaseContract => ({ name, version, sha256: digestOf(files), compatibleFrom: oldestCompatibleRelease });
  const below = (directory: string, pattern: RegExp): readonly string[] => readdirSync(join(repositoryRoot, directory)).filter((name) => pattern.test(name)).sort().map((name) => join(directory, name));
  const migrations = below('db/migrations', /^\d{4}_.*\.sql$/);
  return [
    contract('agent-protocol', 'nkudo.edge.v1', ['api/proto/nkudo/edge/v1/edge.proto']),
    contract('custom-resources', 'nkudo.dev/v1alpha1', below('crds/v1alpha1', /\.yaml$/)),
    contract('database', /(\d{4})_/.exec(migrations.at(-1) ?? '')?.[1] ?? '', migrations),
    contract('host-journal', String(journalSchemaVersion), ['edge-agent/adapters/journal-sqlite/journal-sqlite.ts']),
    contract('tenant-api', 'nkudo.v1', ['api/proto/nkudo/v1/fleet.proto']),
  ];
}

function digestOf(files: readonly string[]): string {
  const hash = createHash('sha256');
  for (const file of files) {
    const content = readFileSync(join(repositoryRoot, file));
    hash.update(`${file}:${content.length}:`).update(content);
  }
  return hash.digest('hex');
}
