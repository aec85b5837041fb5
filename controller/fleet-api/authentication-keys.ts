/**
 * API keys as credentials: text to record, and what a record allows. The secret is compared by its hash in constant time;
 * nothing of the text is kept or said.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { parseApiKey } from '#api/codec/api-key.ts';
import { AppError } from '#api/model/error-codes.ts';
import { apiKeyId } from '#api/model/ids.ts';
import type { ApiKeyReader, ApiKeyRecord } from '#controller/ports/api-key-store.ts';
import type { Clock } from '#controller/ports/clock.ts';
import { createCache } from './authentication-cache.ts';
import { describeRight, roleAllows, type CallTarget, type ResourceRight } from './rights.ts';

/** For so long a revoked key still works, and a new one is still unknown, at each replica. */
export const keyKeptForMs = 2_000;
/** Uses are noted to the hour: a write for each request would be one for each heartbeat of a dashboard. */
export const useNotedEveryMs = 3_600_000;

export interface KeyAuthentication {
  /** `onUnknown` is called before the database is asked. @throws UNAUTHENTICATED, DATABASE_UNAVAILABLE, and what `onUnknown` throws */
  identify(text: string, onUnknown: () => void): Promise<ApiKeyRecord>;
  /** @throws PERMISSION_DENIED, DATABASE_UNAVAILABLE */
  authorize(key: ApiKeyRecord, asked: { readonly namespace: string; readonly right: ResourceRight; readonly target: CallTarget | undefined }): Promise<void>;
}

export const nameOfKey = ({ namespace, name }: Pick<ApiKeyRecord, 'namespace' | 'name'>): string => `apikey:${namespace}/${name}`;

export function createKeyAuthentication(keys: ApiKeyReader, clock: Clock): KeyAuthentication {
  const records = createCache<ApiKeyRecord | null>(clock, () => keyKeptForMs);
  const noteUse = (key: ApiKeyRecord): void => {
    const nowMs = clock.nowMs();
    if (key.lastUsedAtMs !== null && nowMs - key.lastUsedAtMs < useNotedEveryMs) return;
    // A use that could not be noted is noted with the next one.
    keys.noteUsed(key.tenantId, key.keyId, nowMs).catch(() => {});
  };
  return {
    identify: async (text, onUnknown) => {
      const given = parseApiKey(text);
      if (given === null) throw new AppError('UNAUTHENTICATED', 'the API key is not whole: copy it from the Secret that the APIKey names');
      const record = await records.get(given.keyId, async () => {
        onUnknown();
        const found = await keys.find(apiKeyId(given.keyId));
        if (found !== null && isSecretOf(found, given.secret)) noteUse(found);
        return found;
      });
      // The same answer for a key that never was and for a wrong secret.
      if (record === null || !isSecretOf(record, given.secret)) throw new AppError('UNAUTHENTICATED', 'there is no such API key');
      if (record.isRevoked) throw new AppError('UNAUTHENTICATED', 'the API key was revoked');
      if (record.expiresAtMs <= clock.nowMs()) throw new AppError('UNAUTHENTICATED', 'the API key has expired: make a new APIKey');
      return record;
    },
    authorize: async (key, { namespace, right, target }) => {
      if (key.namespace !== namespace) throw new AppError('PERMISSION_DENIED', `${nameOfKey(key)} is good for namespace ${key.namespace} only`);
      if (!roleAllows(key.role, right)) throw new AppError('PERMISSION_DENIED', `${nameOfKey(key)} has the role ${key.role} and may not ${describeRight(right)} in namespace ${namespace}`);
      if (key.siteName === null) return;
      const site = target === undefined ? null : 'site' in target ? target.site : await keys.siteOf(key.tenantId, target);
      // An object of another site and one that does not exist look the same.
      if (site !== key.siteName) throw new AppError('PERMISSION_DENIED', `${nameOfKey(key)} is good for site ${key.siteName} only: name that site, or something of it`);
    },
  };
}

function isSecretOf(record: ApiKeyRecord, secret: Uint8Array): boolean {
  return timingSafeEqual(createHash('sha256').update(secret).digest(), record.secretHash);
}
