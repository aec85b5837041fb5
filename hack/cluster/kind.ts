/** The same cluster by kind, where a Docker engine runs and kind is installed. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { findOnPath } from '../demo/hypervisor.ts';
import type { ImageArchive } from './images.ts';

/** How to reach it; plain data, kept in its folder. */
export interface KindAccess {
  readonly kind: 'kind';
  readonly directory: string;
  readonly kubeconfig: string;
  readonly nodeAddress: string;
  readonly name: string;
}

/** Why this machine can't have one, as a sentence, or null. */
export function kindObstacle(): string | null {
  if (findOnPath('docker') === null || spawnSync('docker', ['version'], { stdio: 'ignore', timeout: 20_000 }).status !== 0) return 'no Docker engine answers';
  if (findOnPath('kind') === null) return 'no kind on PATH';
  return null;
}

export function startKind(directory: string, report: (line: string) => void): KindAccess {
  mkdirSync(directory, { recursive: true });
  const name = basename(directory).toLowerCase().replaceAll(/[^a-z0-9.-]/g, '-');
  const kubeconfig = join(directory, 'admin.kubeconfig');
  report(`cluster: kind cluster ${name}`);
  run('kind', ['create', 'cluster', '--name', name, '--kubeconfig', kubeconfig, '--wait', '240s']);
  const nodeAddress = run('docker', ['inspect', '--format', '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}', `${name}-control-plane`]).trim();
  return { kind: 'kind', directory, kubeconfig, nodeAddress, name };
}

export function stopKind({ directory, name }: KindAccess): void {
  run('kind', ['delete', 'cluster', '--name', name]);
  rmSync(directory, { recursive: true, force: true });
}

export function importIntoKind({ name }: KindAccess, images: readonly ImageArchive[]): void {
  for (const { file } of images) run('kind', ['load', 'image-archive', file, '--name', name]);
}

function run(command: string, args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed: ${stderr}`);
  return stdout;
}
