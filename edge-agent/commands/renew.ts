/**
 * `renew`: gets a new certificate now, for an agent that does not run, by a proof of its key: the one at hand may have
 * expired. A running agent does that by itself. Without a control plane nothing changes.
 */
import { X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { createCloudHypervisor } from '../adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { recoverCertificate } from '../adapters/control-plane-grpc/recovery.ts';
import { createHostFacts } from '../adapters/host-facts/host-facts.ts';
import { createIdentityFiles } from '../adapters/identity-files/identity-files.ts';
import { openJournalForReading } from '../adapters/journal-sqlite/journal-sqlite.ts';
import { agentVersion } from '../config.ts';
import { journalFile, newestTimeMs } from './run.ts';
import { withStoppedAgent } from './stopped-agent.ts';

const renewDeadlineMs = 30_000;
const factsDeadlineMs = 5_000;

/** @throws UNAUTHENTICATED when the host is not enrolled, STATE_DIR_LOCKED, UNAVAILABLE, and what the control plane answers */
export async function renew(options: { readonly stateDir: string; readonly hypervisor: string }): Promise<string> {
  const stateDirectory = resolve(options.stateDir);
  return withStoppedAgent(stateDirectory, 'a running agent renews its certificate by itself; stop it first, such as by systemctl stop nkudo-edge', async () => {
    const store = createIdentityFiles(stateDirectory);
    const identity = store.load();
    if (identity === null) throw new AppError('UNAUTHENTICATED', 'this host is not enrolled', { remedy: 'make this host known first: nkudo-edge enroll' });
    const hypervisor = createCloudHypervisor({ binaryPath: options.hypervisor, environment: { PATH: process.env['PATH'] ?? '' } });
    const facts = await createHostFacts({ hypervisor, agentVersion }).read(AbortSignal.timeout(factsDeadlineMs));
    const newestMs = readNewestTime(stateDirectory, identity.chainPem);
    let unreachable = new AppError('UNAVAILABLE');
    for (const endpoint of identity.endpoints) {
      try {
        const renewed = await recoverCertificate(endpoint, { identity, facts, newestTimeMs: () => newestMs }, AbortSignal.timeout(renewDeadlineMs));
        store.save({ ...identity, ...renewed });
        return `renewed; the certificate is valid until ${new X509Certificate(renewed.chainPem).validToDate.toISOString()}`;
      } catch (error) {
        if (!isAppError(error) || error.code !== 'UNAVAILABLE') throw error;
        unreachable = error;
      }
    }
    throw new AppError('UNAVAILABLE', `no endpoint can be reached (${identity.endpoints.join(', ')}); nothing was changed`, { cause: unreachable });
  });
}

function readNewestTime(stateDirectory: string, chainPem: string): number {
  const path = join(stateDirectory, journalFile);
  if (!existsSync(path)) return newestTimeMs({ loadFact: () => undefined }, chainPem);
  const journal = openJournalForReading(path);
  try {
    return newestTimeMs(journal, chainPem);
  } finally {
    journal.close();
  }
}
