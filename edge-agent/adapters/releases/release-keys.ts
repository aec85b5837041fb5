/** The public keys that releases are checked with: those that the program was built with, and those of the host. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { KeyObject } from 'node:crypto';
import { bakedReleaseKeysPem } from '../../config.ts';
import { readPublicKeys } from './signature.ts';

const keyFilesMax = 32;

/** A file of the host that holds no key is an error: a lost key must not look like a wrong signature. @throws RELEASE_INVALID */
export function loadReleaseKeys(directory: string): readonly KeyObject[] {
  const files = namesIn(directory).filter((name) => /\.(pub|pem)$/.test(name)).toSorted().slice(0, keyFilesMax);
  const onHost = files.flatMap((name) => readPublicKeys(readFileSync(join(directory, name), 'utf8'), join(directory, name)));
  return [...readPublicKeys(bakedReleaseKeysPem, 'this program'), ...onHost];
}

function namesIn(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // Absent on most hosts.
  }
}
