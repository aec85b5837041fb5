/** The KeptSecrets port on the file system: one file `<state>/secrets/<uid>.json` for each microVM, 0600 in a directory 0700. */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { isUuid, microVMId, type MicroVMId } from '#api/model/ids.ts';
import type { KeptSecret, KeptSecrets } from '../../ports/kept-secrets.ts';
import { ensureDirectory, syncDirectory, writeFileDurably } from '../system/durable-file.ts';

const suffix = '.json';

export function createKeptSecrets(stateDirectory: string): KeptSecrets {
  const folder = join(stateDirectory, 'secrets');
  const path = (id: MicroVMId): string => join(folder, `${id}${suffix}`);
  return {
    load: (id) => read(path(id)),
    save(id, secrets) {
      try {
        if (secrets.length === 0) return remove(folder, path(id));
        ensureDirectory(folder);
        writeFileDurably(path(id), JSON.stringify(secrets.map(({ name, key, resourceVersion, reveal }) => ({ name, key, resourceVersion, value: Buffer.from(reveal()).toString('base64') }))));
      } catch (error) {
        const errno = error instanceof Error && 'code' in error ? String(error.code) : 'unknown error';
        throw new AppError('SECRET_UNAVAILABLE', `the host can not keep values of Secrets (${errno})`, { cause: error });
      }
    },
    list: () => (existsSync(folder) ? readdirSync(folder).filter((file) => file.endsWith(suffix)).map((file) => file.slice(0, -suffix.length)).filter(isUuid).map(microVMId) : []),
  };
}

function remove(folder: string, path: string): void {
  if (!existsSync(path)) return;
  rmSync(path, { force: true });
  syncDirectory(folder);
}

function read(path: string): readonly KeptSecret[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
  return parse(text);
}

/** The text of a syntax error would quote the file, so that none leaves here. */
function parse(text: string): readonly KeptSecret[] {
  try {
    const parsed: unknown = JSON.parse(text);
    return Array.isArray(parsed) ? parsed.flatMap(parseSecret) : [];
  } catch (error) {
    if (error instanceof SyntaxError) return [];
    throw error;
  }
}

function parseSecret(item: unknown): readonly KeptSecret[] {
  if (typeof item !== 'object' || item === null) return [];
  const { name, key, resourceVersion, value } = item as Record<string, unknown>; // Each field is checked below.
  if (typeof name !== 'string' || typeof key !== 'string' || typeof resourceVersion !== 'string' || typeof value !== 'string') return [];
  const bytes = Buffer.from(value, 'base64');
  return [{ name, key, resourceVersion, reveal: () => bytes }];
}
