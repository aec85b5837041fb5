/**
 * `support-bundle`: one tar.gz for whoever helps: the answers of the other commands and the ends of the VMMs' own logs.
 * By what it takes in, not by what it leaves out: never the identity, the journal, a spec or a guest's
 * console. What is taken in is redacted as well.
 */
import { closeSync, fstatSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { arch, cpus, release, totalmem, uptime } from 'node:os';
import { join, resolve } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { createGzip } from 'node:zlib';
import { pack } from 'tar-stream';
import { AppError } from '#api/model/error-codes.ts';
import { createCloudHypervisor } from '../adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { createSystemClock } from '../adapters/system/clock.ts';
import { errnoOf, isErrno } from '../adapters/system/errno.ts';
import { createVmDirectories } from '../adapters/vm-directories/vm-directories.ts';
import { agentVersion } from '../config.ts';
import type { EffectiveConfig } from '../config/resolve.ts';
import { redact } from '../domain/redact.ts';
import { preflight } from './check.ts';
import { listMicroVMs, showStatus } from './inspect.ts';
import { showConfig } from './show-config.ts';

interface ArchivedFile {
  readonly name: string;
  readonly content: Buffer;
}

const logTailBytes = 65_536;
/** Of how many microVMs the logs are taken, which bounds the memory; all are in the list. */
const logsMax = 100;

/** @param file where the bundle goes; it must not exist yet. @throws CONFLICT, NOT_FOUND for the file; what can't be read of the host is told in the bundle */
export async function writeSupportBundle(effective: EffectiveConfig, file: string | undefined): Promise<string> {
  const { wallMs } = createSystemClock().now();
  const path = resolve(file ?? `nkudo-support-${new Date(wallMs).toISOString().replaceAll(/[:.]/g, '-')}.tar.gz`);
  const files = await collect(effective);
  writeNew(path, await archive(files, new Date(wallMs)));
  return [`wrote ${path}`, ...files.map(({ name }) => `  ${name}`), 'it holds no keys, tokens, specs or console output; look through it before you pass it on'].join('\n');
}

function archive(files: readonly ArchivedFile[], mtime: Date): Promise<Buffer> {
  const tar = pack();
  for (const { name, content } of files) tar.entry({ name, mode: 0o600, mtime }, content);
  tar.finalize();
  return buffer(tar.pipe(createGzip()));
}

async function collect(effective: EffectiveConfig): Promise<readonly ArchivedFile[]> {
  const stateDir = String(effective.stateDir.value);
  const hypervisor = String(effective.hypervisor.value);
  const machine = { agentVersion, node: process.version, architecture: arch(), kernel: release(), cpuModel: cpus()[0]?.model ?? '', cpuCount: cpus().length, memoryBytes: totalmem(), uptimeSeconds: Math.floor(uptime()) };
  const parts: readonly (readonly [string, () => Promise<string> | string])[] = [
    ['machine.json', () => JSON.stringify(machine, null, 2)],
    ['config.json', () => showConfig(effective, 'json')],
    ['status.json', () => showStatus({ stateDir, output: 'json' })],
    ['vms.json', () => listMicroVMs({ stateDir, output: 'json' })],
    ['check.json', async () => JSON.stringify(await preflight({ stateDir, hypervisor, vmmUsers: String(effective.vmmUsers.value) }), null, 2)],
  ];
  const answers = await Promise.all(parts.map(async ([name, read]) => [name, await orWhyNot(read)] as const));
  const texts = [...answers, ...(await vmmLogs(stateDir))];
  return texts.map(([name, text]) => ({ name: `nkudo-support/${name}`, content: Buffer.from(`${redact(text)}\n`) }));
}

/** A host with a damaged journal needs help most: what can't be read is told in its place. */
async function orWhyNot(read: () => Promise<string> | string): Promise<string> {
  try {
    return await read();
  } catch (error) {
    return JSON.stringify({ couldNotBeRead: error instanceof Error ? error.message : String(error) }, null, 2);
  }
}

async function vmmLogs(stateDir: string): Promise<readonly (readonly [string, string])[]> {
  const directories = createVmDirectories(resolve(stateDir));
  const { paths } = createCloudHypervisor({ binaryPath: 'cloud-hypervisor', environment: {} });
  const ids = (await directories.list()).slice(0, logsMax);
  return ids.flatMap((id): readonly (readonly [string, string])[] => {
    const tail = readTail(paths(directories.path(id)).vmmLog);
    return tail === undefined ? [] : [[join('vmm', `${id}.log`), tail]];
  });
}

/** The first line is left out when it was cut: half a secret is one that no pattern knows. */
function readTail(path: string): string | undefined {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
  try {
    const { size } = fstatSync(file);
    const from = Math.max(0, size - logTailBytes);
    const buffer = Buffer.alloc(size - from);
    const text = buffer.subarray(0, readSync(file, buffer, 0, buffer.length, from)).toString();
    return from === 0 ? text : text.slice(text.indexOf('\n') + 1);
  } finally {
    closeSync(file);
  }
}

/** 0600, and never over a file or through a link that is there. */
function writeNew(path: string, content: Buffer): void {
  try {
    const file = openSync(path, 'wx', 0o600);
    try {
      for (let written = 0; written < content.length; ) written += writeSync(file, content, written);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'EEXIST') throw new AppError('CONFLICT', `${path} is there already`, { remedy: 'name another file: --file', cause: error });
    if (code === 'ENOENT' || code === 'EACCES') throw new AppError('NOT_FOUND', `${path} can not be made (${code})`, { remedy: 'name a file in a directory that exists and is yours: --file', cause: error });
    throw error;
  }
}
