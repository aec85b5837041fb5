/**
 * The IdentityStore on files in `<state>/identity` (0700): `host.key` and `identity.json` (0600 each).
 * The key is durable before it is used for the first time, so that an enrollment whose answer was
 * lost is repeated with the same key. Certificate and everything about it is one file.
 */
import { generateKeyPairSync } from 'node:crypto';
import { chmodSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import type { Identity, IdentityStore } from '../../ports/identity-store.ts';
import { ensureDirectory, writeFileDurably } from '../system/durable-file.ts';

const textFields = ['tenantId', 'siteId', 'hostId', 'hostName', 'siteName', 'namespace', 'chainPem', 'trustBundlePem'] as const;

export function createIdentityFiles(stateDirectory: string): IdentityStore {
  const directory = join(stateDirectory, 'identity');
  const keyPath = join(directory, 'host.key');
  const identityPath = join(directory, 'identity.json');
  const prepare = (): void => {
    ensureDirectory(directory);
    chmodSync(directory, 0o700);
  };
  return {
    load() {
      if (!existsSync(identityPath) || !existsSync(keyPath)) return null;
      return parseIdentity(readFileSync(identityPath, 'utf8'), readFileSync(keyPath, 'utf8'));
    },
    ensureKey() {
      prepare();
      if (!existsSync(keyPath)) {
        const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
        writeFileDurably(keyPath, privateKey.export({ type: 'pkcs8', format: 'pem' }).toString());
      }
      return readFileSync(keyPath, 'utf8');
    },
    save(identity) {
      prepare();
      const { tenantId, siteId, hostId, hostName, siteName, namespace, endpoints, chainPem, trustBundlePem } = identity;
      const content = { tenantId, siteId, hostId, hostName, siteName, namespace, endpoints, chainPem, trustBundlePem };
      writeFileDurably(identityPath, `${JSON.stringify(content, null, 2)}\n`);
    },
    clear() {
      rmSync(identityPath, { force: true });
      rmSync(keyPath, { force: true });
    },
  };
}

function parseIdentity(text: string, keyPem: string): Identity {
  const parsed: unknown = JSON.parse(text);
  const fields = (typeof parsed === 'object' && parsed !== null ? parsed : {}) as Record<string, unknown>; // Each field is checked below.
  const { endpoints } = fields;
  if (!Array.isArray(endpoints) || endpoints.length === 0 || !textFields.every((name) => typeof fields[name] === 'string')) {
    throw new AppError('UNAUTHENTICATED', 'the stored identity is damaged; enroll this host again');
  }
  return { ...(fields as unknown as Omit<Identity, 'keyPem'>), keyPem };
}
