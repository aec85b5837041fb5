/** What an EnrollmentToken shows. Pure. */
import type { EnrollmentTokenConditionReason, EnrollmentTokenConditionType } from '#crds/conditions.ts';
import type { EnrollmentToken, EnrollmentTokenStatus } from '#crds/gen/enrollmenttoken.ts';
import type { TokenState } from '#controller/ports/enrollment-store.ts';
import { formatTime, stampConditions, type DerivedCondition } from '#controller/runtime/status-patch.ts';

export interface TokenFacts {
  /** Null until the token was registered. */
  readonly state: TokenState | null;
  readonly secretName: string;
  readonly isSecretWritten: boolean;
  readonly expiresAtMs: number;
  readonly obstacle: { readonly reason: EnrollmentTokenConditionReason<'Ready'>; readonly message: string } | null;
  readonly nowMs: number;
}

function condition<Type extends EnrollmentTokenConditionType>(
  type: Type,
  status: DerivedCondition['status'],
  reason: EnrollmentTokenConditionReason<Type>,
  message: string,
): DerivedCondition {
  return { type, status, reason, message };
}

export function projectTokenStatus(token: EnrollmentToken, facts: TokenFacts): EnrollmentTokenStatus {
  const { state } = facts;
  const isUsed = state !== null && state.usedAtMs !== null;
  const isExpired = !isUsed && facts.expiresAtMs <= facts.nowMs;
  return {
    observedGeneration: token.metadata.generation,
    printableStatus: deriveWord(facts, isUsed, isExpired),
    secretName: facts.secretName,
    expiresAt: formatTime(facts.expiresAtMs),
    ...(state === null || state.usedAtMs === null ? {} : { usedAt: formatTime(state.usedAtMs) }),
    ...(state === null || state.usedByHostName === null ? {} : { usedBy: state.usedByHostName }),
    conditions: stampConditions([deriveReady(facts, isUsed, isExpired), deriveUsed(facts, isUsed, isExpired)], token.status?.conditions, {
      generation: token.metadata.generation,
      nowMs: facts.nowMs,
    }),
  };
}

function deriveWord(facts: TokenFacts, isUsed: boolean, isExpired: boolean): NonNullable<EnrollmentTokenStatus['printableStatus']> {
  if (isUsed) return 'Used';
  if (isExpired) return 'Expired';
  if (facts.obstacle?.reason === 'SecretLost') return 'Failed';
  return facts.isSecretWritten && facts.state !== null ? 'Available' : 'Pending';
}

function deriveReady(facts: TokenFacts, isUsed: boolean, isExpired: boolean): DerivedCondition {
  if (isUsed) return condition('Ready', 'False', 'TokenUsed', 'a machine used the token');
  if (isExpired) return condition('Ready', 'False', 'TokenExpired', 'the token is past its time to live: make a new EnrollmentToken');
  if (facts.obstacle !== null) return condition('Ready', 'False', facts.obstacle.reason, facts.obstacle.message);
  return facts.isSecretWritten && facts.state !== null
    ? condition('Ready', 'True', 'SecretWritten', `the token is in Secret ${facts.secretName}, key token`)
    : condition('Ready', 'False', 'Pending', 'the token is being made');
}

function deriveUsed({ state }: TokenFacts, isUsed: boolean, isExpired: boolean): DerivedCondition {
  if (isUsed) return condition('Used', 'True', 'HostEnrolled', `host ${state?.usedByHostName ?? 'unknown'} was enrolled with it`);
  return isExpired
    ? condition('Used', 'False', 'TokenExpired', 'it expired unused')
    : condition('Used', 'False', 'NotUsed', 'no machine used it yet');
}
