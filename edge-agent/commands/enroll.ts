/** `enroll`: makes the host known to the control plane, once. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseEnrollmentToken } from '#api/codec/enrollment-token.ts';
import { AppError } from '#api/model/error-codes.ts';
import { createCloudHypervisor } from '../adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { enrollHost } from '../adapters/control-plane-grpc/enrollment.ts';
import { createHostFacts } from '../adapters/host-facts/host-facts.ts';
import { createIdentityFiles } from '../adapters/identity-files/identity-files.ts';
import { ensureDirectory } from '../adapters/system/durable-file.ts';
import { lockStateDirectory } from '../adapters/system/state-lock.ts';
import { agentVersion } from '../config.ts';

export interface EnrollOptions {
  readonly stateDir: string;
  /** A file, so that the token is in no list of processes. */
  readonly tokenFile: string;
  readonly name: string;
  readonly hypervisor: string;
  /** Gives up an earlier identity, such as a revoked one. */
  readonly replace: boolean;
}

/**
 * A repeat after a lost answer uses the stored key and gets the same identity.
 * With an identity in place it does nothing but say so.
 * @throws INVALID_REQUEST, TOKEN_*, CA_PIN_MISMATCH, HOST_NAME_TAKEN, UNAVAILABLE, STATE_DIR_LOCKED
 */
export async function enroll(options: EnrollOptions): Promise<string> {
  const tokenText = readToken(options.tokenFile);
  const token = parseEnrollmentToken(tokenText);
  const stateDirectory = resolve(options.stateDir);
  ensureDirectory(stateDirectory);
  const lock = lockStateDirectory(stateDirectory);
  try {
    const store = createIdentityFiles(stateDirectory);
    const earlier = store.load();
    // An installer runs again and again; what is done is done.
    if (earlier !== null && !options.replace) return `enrolled already, as host ${earlier.hostName} of site ${earlier.siteName}; --replace gives that identity up`;
    if (earlier !== null) store.clear();
    const hypervisor = createCloudHypervisor({ binaryPath: options.hypervisor, environment: { PATH: process.env['PATH'] ?? '' } });
    const facts = await createHostFacts({ hypervisor, agentVersion }).read(AbortSignal.timeout(5_000));
    const identity = await enrollHost({ token, tokenText, keyPem: store.ensureKey(), hostName: options.name, facts }).catch((error: unknown) => {
      if (!(error instanceof AppError) || error.code !== 'UNAVAILABLE') throw error;
      throw new AppError('UNAVAILABLE', error.message, { cause: error, remedy: 'look whether this host reaches that address, then run the same command again; the token is still good' });
    });
    store.save(identity);
    return `enrolled as host ${identity.hostName} of site ${identity.siteName} in namespace ${identity.namespace}`;
  } finally {
    lock.release();
  }
}

function readToken(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw new AppError('INVALID_REQUEST', `the token file ${path} can not be read`, {
      cause: error,
      remedy: 'correct --token-file; the file must exist and be readable for this user',
    });
  }
}
