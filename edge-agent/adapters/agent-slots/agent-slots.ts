/**
 * The slots below the launcher's directory: `slots/{a,b}/{nkudo-edge,version,manifest.json,manifest.json.sigstore.json}`,
 * the line `selection`, `failed/<slot>` and `ready`. The launcher writes the line too, but never while an agent runs
 * outside a trial; among agents and commands a lock decides.
 */
import { createHash } from 'node:crypto';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { encodeSelection, freeSlot, parseSelection, type Slot, type SlotSelection } from '../../domain/slot-selection.ts';
import type { AgentVersions, StagedRelease } from '../../ports/agent-versions.ts';
import { writeAll, writeError } from '../images/files.ts';
import { isErrno } from '../system/errno.ts';
import { ensureDirectory, syncDirectory, writeFileDurably } from '../system/durable-file.ts';
import { lockStateDirectory } from '../system/state-lock.ts';

export interface AgentSlotsOptions {
  /** Of the launcher; undefined: none started this process. */
  readonly directory: string | undefined;
  /** Where the packaged version lies. */
  readonly packageDirectory: string;
  /** What the launcher calls this start; undefined for commands. */
  readonly startId: string | undefined;
}

export function createAgentSlots({ directory: given, packageDirectory, startId }: AgentSlotsOptions): AgentVersions {
  const directory = given ?? '/nonexistent';
  const slotPath = (slot: Slot): string => join(directory, 'slots', slot);
  const selection = (): SlotSelection => parseSelection(firstLine(join(directory, 'selection')));

  const versionIn = (slot: Slot): string | null => {
    const version = firstLine(slot === 'base' ? join(packageDirectory, 'version') : join(slotPath(slot), 'version'));
    return version === '' ? null : version;
  };

  function exclusively<Result>(work: () => Result): Result {
    if (given === undefined) throw new AppError('UPDATE_UNSUPPORTED');
    ensureDirectory(directory);
    let lock;
    try {
      lock = lockStateDirectory(directory);
    } catch (cause) {
      throw new AppError('UPDATE_UNSUPPORTED', 'another change of the version is under way', { remedy: 'wait for it to end', cause });
    }
    const release = (): void => lock.release();
    let result: Result;
    try {
      result = work();
    } catch (error) {
      release();
      throw error;
    }
    if (result instanceof Promise) void result.then(release, release);
    else release();
    return result;
  }

  function idle(): SlotSelection {
    const chosen = selection();
    if (chosen.trial !== null) throw new AppError('UPDATE_UNSUPPORTED', 'another version is being tried just now', { remedy: 'wait until it is ready or was given up' });
    return chosen;
  }

  async function stage({ version, artifact, manifest, signature }: StagedRelease, bytes: AsyncIterable<Uint8Array>): Promise<void> {
    const slot = freeSlot(idle());
    const path = slotPath(slot);
    // A slot with a version is a whole one.
    await rm(join(path, 'version'), { force: true });
    await rm(join(directory, 'failed', slot), { force: true });
    ensureDirectory(join(directory, 'slots'));
    ensureDirectory(path);
    const program = join(path, 'nkudo-edge');
    try {
      await writeProgram(`${program}.new`, artifact, bytes);
      await rename(`${program}.new`, program);
    } catch (error) {
      await rm(`${program}.new`, { force: true });
      throw writeError(error, 'a version of the agent');
    }
    writeFileDurably(join(path, 'manifest.json'), manifest);
    writeFileDurably(join(path, 'manifest.json.sigstore.json'), signature);
    syncDirectory(path);
    writeFileDurably(join(path, 'version'), `${version}\n`);
  }

  return {
    isSupported: given !== undefined,
    state() {
      const chosen = selection();
      const staged = freeSlot(chosen);
      const [failedSlot] = (['a', 'b', 'base'] as const).filter((slot) => slot !== chosen.running && firstLine(join(directory, 'failed', slot)) !== '');
      const failedVersion = failedSlot === undefined ? null : versionIn(failedSlot);
      return {
        previousVersion: chosen.previous === null ? null : versionIn(chosen.previous),
        stagedVersion: versionIn(staged),
        trialVersion: chosen.trial === null ? null : versionIn(chosen.trial.slot),
        trialNeeds: chosen.trial?.needs ?? null,
        failed: failedSlot === undefined || failedVersion === null ? null : { version: failedVersion, reason: firstLine(join(directory, 'failed', failedSlot)) },
      };
    },
    async stage(release, bytes, signal) {
      await exclusively(() => stage(release, abortable(bytes, signal)));
    },
    select: (which, { needs, deadlineSeconds }) =>
      exclusively(() => {
        const chosen = idle();
        const slot = which === 'staged' ? freeSlot(chosen) : chosen.previous;
        if (slot === null || versionIn(slot) === null) throw new AppError('UPDATE_UNSUPPORTED', 'there is no such version on this host', { remedy: 'name a release with --from' });
        writeFileDurably(join(directory, 'selection'), `${encodeSelection({ ...chosen, trial: { slot, needs, deadlineSeconds } })}\n`);
      }),
    ready() {
      if (given === undefined || startId === undefined) return;
      // Only for as long as this process lives, so it needs no sync.
      const path = join(directory, 'ready');
      ensureDirectory(directory);
      writeFileSync(`${path}.new`, `${startId}\n`, { mode: 0o600 });
      renameSync(`${path}.new`, path);
    },
  };
}

async function writeProgram(path: string, artifact: StagedRelease['artifact'], bytes: AsyncIterable<Uint8Array>): Promise<void> {
  const hash = createHash('sha256');
  let length = 0;
  const file = await open(path, 'w', 0o700);
  try {
    for await (const chunk of bytes) {
      if (length + chunk.length > artifact.bytes) throw mismatch(artifact);
      await writeAll(file, chunk, length);
      hash.update(chunk);
      length += chunk.length;
    }
    await file.sync();
  } finally {
    await file.close();
  }
  if (length !== artifact.bytes || hash.digest('hex') !== artifact.sha256) throw mismatch(artifact);
}

const mismatch = ({ fileName }: StagedRelease['artifact']): AppError => new AppError('RELEASE_DIGEST_MISMATCH', `${fileName} is not the file that its manifest names`);

async function* abortable(bytes: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncIterable<Uint8Array> {
  for await (const chunk of bytes) {
    signal.throwIfAborted();
    yield chunk;
  }
}

function firstLine(path: string): string {
  try {
    return (readFileSync(path, 'utf8').split('\n')[0] ?? '').trim();
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'EACCES')) return '';
    throw error;
  }
}
