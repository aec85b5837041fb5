/** What an APIKey shows. Pure. */
import type { APIKeyConditionReason } from '#crds/conditions.ts';
import type { APIKey, APIKeyStatus } from '#crds/gen/apikey.ts';
import type { ApiKeyState } from '#controller/ports/api-key-store.ts';
import { formatTime, stampConditions, type DerivedCondition } from '#controller/runtime/status-patch.ts';

export interface KeyFacts {
  /** Null until the key was registered. */
  readonly state: ApiKeyState | null;
  readonly secretName: string;
  readonly expiresAtMs: number;
  readonly obstacle: { readonly reason: APIKeyConditionReason; readonly message: string } | null;
  readonly nowMs: number;
}

const ready = (status: DerivedCondition['status'], reason: APIKeyConditionReason, message: string): DerivedCondition => ({ type: 'Ready', status, reason, message });

export function projectKeyStatus(key: APIKey, facts: KeyFacts): APIKeyStatus {
  const { state } = facts;
  const isEnded = isRevoked(key, facts) || facts.expiresAtMs <= facts.nowMs;
  return {
    observedGeneration: key.metadata.generation,
    printableStatus: deriveWord(key, facts),
    ...(isEnded ? {} : { secretName: facts.secretName }),
    expiresAt: formatTime(facts.expiresAtMs),
    ...(state === null || state.lastUsedAtMs === null ? {} : { lastUsedTime: formatTime(state.lastUsedAtMs) }),
    conditions: stampConditions([deriveReady(key, facts)], key.status?.conditions, { generation: key.metadata.generation, nowMs: facts.nowMs }),
  };
}

const isRevoked = (key: APIKey, { state }: KeyFacts): boolean => key.spec.revoked === true || state?.isRevoked === true;

function deriveWord(key: APIKey, facts: KeyFacts): NonNullable<APIKeyStatus['printableStatus']> {
  if (isRevoked(key, facts)) return 'Revoked';
  if (facts.expiresAtMs <= facts.nowMs) return 'Expired';
  if (facts.obstacle?.reason === 'SecretLost') return 'Failed';
  return facts.state === null ? 'Pending' : 'Active';
}

function deriveReady(key: APIKey, facts: KeyFacts): DerivedCondition {
  if (isRevoked(key, facts)) return ready('False', 'KeyRevoked', 'the key was revoked: make another APIKey');
  if (facts.expiresAtMs <= facts.nowMs) return ready('False', 'KeyExpired', 'the key is past its time to live: make another APIKey');
  if (facts.obstacle !== null) return ready('False', facts.obstacle.reason, facts.obstacle.message);
  return facts.state === null
    ? ready('False', 'Pending', 'the key is being made')
    : ready('True', 'SecretWritten', `the key was written to Secret ${facts.secretName}, key key; it works on when the Secret is deleted`);
}
