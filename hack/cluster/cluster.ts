/**
 * A real Kubernetes cluster on this machine: by kind where Docker runs, else of one node without it. Its folder says what it
 * is, so that another process can use and end it.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageArchive } from './images.ts';
import { importIntoKind, kindObstacle, startKind, stopKind, type KindAccess } from './kind.ts';
import { importIntoOneNode, oneNodeObstacle, startOneNode, stopOneNode, type OneNodeAccess } from './one-node.ts';

/** How to reach a running cluster; plain data. */
export type ClusterAccess = KindAccess | OneNodeAccess;

const accessFile = 'cluster.json';

/** Why this machine can have no cluster at all, as a sentence, or null. */
export function clusterObstacle(): string | null {
  const withKind = kindObstacle();
  const withoutKind = oneNodeObstacle();
  return withKind === null || withoutKind === null ? null : `kind: ${withKind}; without kind: ${withoutKind}`;
}

/** Starts a cluster in a folder that is not there yet; resolves when its node takes pods. */
export async function startCluster(directory: string, report: (line: string) => void): Promise<ClusterAccess> {
  const access = kindObstacle() === null ? startKind(directory, report) : await startOneNode(directory, report);
  writeFileSync(join(directory, accessFile), JSON.stringify(access), { mode: 0o600 });
  return access;
}

/** The cluster of a folder, or null when there is none. */
export function findCluster(directory: string): ClusterAccess | null {
  const file = join(directory, accessFile);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as ClusterAccess) : null; // Our own file.
}

/** Ends it; nothing of it is left. */
export async function stopCluster(access: ClusterAccess): Promise<void> {
  if (access.kind === 'kind') stopKind(access);
  else await stopOneNode(access);
  await rm(access.directory, { recursive: true, force: true });
}

/** Makes images known to its nodes. */
export function importImages(access: ClusterAccess, images: readonly ImageArchive[]): void {
  if (access.kind === 'kind') importIntoKind(access, images);
  else importIntoOneNode(access, images);
}
