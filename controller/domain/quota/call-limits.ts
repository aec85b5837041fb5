/**
 * How much one caller and one tenant may ask of a replica: calls per second and at a time, and streams. What
 * one tenant uses up is its own; nobody waits here, a call is admitted at once or refused with the time to come again.
 */
import { AppError } from '#api/model/error-codes.ts';
import { createSlots, createTokenBuckets, type BucketLimit } from './token-buckets.ts';

export interface CallLimitSettings {
  readonly caller: BucketLimit;
  readonly tenant: BucketLimit;
  /** Credentials that this replica has not seen lately, by remote address: each costs a question to the API server or the database. */
  readonly unknownCredentials: BucketLimit;
  readonly callsPerTenant: number;
  readonly streamsPerCaller: number;
  /** Of all its callers together: each service account and each key is a caller. */
  readonly streamsPerTenant: number;
}

/** For each replica. A person with a script stays far below; a loop without a pause does not. */
export const defaultCallLimits: CallLimitSettings = {
  caller: { perSecond: 50, burst: 200 },
  tenant: { perSecond: 100, burst: 400 },
  unknownCredentials: { perSecond: 20, burst: 100 },
  callsPerTenant: 128,
  streamsPerCaller: 32,
  streamsPerTenant: 256,
};

/** Callers, tenants and addresses that are remembered; one that is forgotten begins anew. */
const keysMax = 20_000;
/** When a slot will be free is not known. */
const slotRetryMs = 1_000;

export interface CallLimits {
  /** @throws RATE_LIMITED with the time to come again; so do the others */
  countCaller(caller: string, nowMs: number): void;
  countTenant(namespace: string, nowMs: number): void;
  countUnknown(address: string, nowMs: number): void;
  /** Result: gives the slot back. */
  holdCall(namespace: string): () => void;
  holdStream(caller: string, namespace: string): () => void;
}

export function createCallLimits(settings: CallLimitSettings): CallLimits {
  const callers = createTokenBuckets({ ...settings.caller, keysMax });
  const tenants = createTokenBuckets({ ...settings.tenant, keysMax });
  const unknown = createTokenBuckets({ ...settings.unknownCredentials, keysMax });
  const calls = createSlots(settings.callsPerTenant);
  const callersStreams = createSlots(settings.streamsPerCaller);
  const tenantsStreams = createSlots(settings.streamsPerTenant);
  const refuseFor = (waitMs: number, message: string): void => {
    if (waitMs > 0) throw new AppError('RATE_LIMITED', `${message}; come again in ${waitMs} ms`, { retryAfterMs: waitMs });
  };
  const held = (release: (() => void) | null, message: string): (() => void) => {
    if (release === null) throw new AppError('RATE_LIMITED', message, { retryAfterMs: slotRetryMs });
    return release;
  };
  return {
    countCaller: (caller, nowMs) => refuseFor(callers.take(caller, nowMs), 'this caller makes too many calls'),
    countTenant: (namespace, nowMs) => refuseFor(tenants.take(namespace, nowMs), `too many calls for namespace ${namespace}`),
    countUnknown: (address, nowMs) => refuseFor(unknown.take(address, nowMs), 'too many unknown credentials from this address'),
    holdCall: (namespace) => held(calls.take(namespace), `namespace ${namespace} has ${settings.callsPerTenant} calls under way already`),
    holdStream: (caller, namespace) => {
      const ofTenant = held(tenantsStreams.take(namespace), `namespace ${namespace} has ${settings.streamsPerTenant} streams already`);
      const ofCaller = callersStreams.take(caller);
      if (ofCaller === null) ofTenant();
      const giveBack = held(ofCaller, `this caller has ${settings.streamsPerCaller} streams already`);
      return () => {
        giveBack();
        ofTenant();
      };
    },
  };
}
