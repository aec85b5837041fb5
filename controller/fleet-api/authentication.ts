/**
 * Tenants' callers: a bearer token or an API key becomes an identity, and the identity is asked for the right to each
 * call. Owns the bounded caches, the limits of callers and tenants, and the end of streams whose caller may no longer go on.
 *
 * Tokens must be made for the audience `nkudo` (`kubectl create token NAME --audience nkudo`): a token for
 * the API server itself is refused, so that nobody who sees it here could use it there.
 */
import { createHash } from 'node:crypto';
import type { Metadata } from '@grpc/grpc-js';
import { looksLikeApiKey } from '#api/codec/api-key.ts';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { createCallLimits, defaultCallLimits, type CallLimits } from '#controller/domain/quota/call-limits.ts';
import type { ApiKeyReader, ApiKeyRecord } from '#controller/ports/api-key-store.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { Clock } from '#controller/ports/clock.ts';
import { createCache } from './authentication-cache.ts';
import { createKeyAuthentication, nameOfKey, type KeyAuthentication } from './authentication-keys.ts';
import { describeRight, type CallTarget, type ResourceRight } from './rights.ts';

export type { CallTarget, ResourceRight } from './rights.ts';

export const tokenAudience = 'nkudo';

export interface KubernetesUser {
  readonly username: string;
  readonly uid: string;
  readonly groups: readonly string[];
  readonly extra: Readonly<Record<string, readonly string[]>>;
}

/** What is needed of Kubernetes. */
export interface ReviewPort {
  /** The identity behind the token when it is valid for the audience; else null. @throws UNAVAILABLE */
  reviewToken(token: string, audience: string): Promise<KubernetesUser | null>;
  /** @throws UNAVAILABLE */
  reviewAccess(user: KubernetesUser, namespace: string, right: ResourceRight): Promise<boolean>;
}

/** The caller of one call: each authentication gives a new object, which carries what was granted to that call. */
export interface FleetCaller {
  /** Of an API key: its name as user name, its id as UID. */
  readonly user: KubernetesUser;
  /** Null for an identity of Kubernetes. */
  readonly key: ApiKeyRecord | null;
}

/** For audit rows; `peer` is the remote `ip:port`. */
export function actorOf(caller: FleetCaller, peer: string): Actor {
  return { kind: caller.key === null ? 'user' : 'apiKey', name: caller.user.username, from: peer };
}

const tokenBytesMax = 16_384;
/** For so long a revoked token or right still works. */
const grantedForMs = 10_000;
const deniedForMs = 2_000;
/** Open streams are looked at this often, and their callers asked about after these times. */
const streamTickMs = 1_000;
const keyRecheckMs = 2_000;
const userRecheckMs = 10_000;
/** A stream whose caller can't be asked about goes on for so long. */
const uncheckedMaxMs = 300_000;

export interface OpenCall {
  readonly isStream: boolean;
  /** Ends the call from outside; called at most once. */
  readonly end: (error: AppError) => void;
}

/** One call between its authentication and its end. */
export interface Ticket {
  /** Whether its caller was granted a right: without one nothing may be answered. */
  readonly isGranted: boolean;
  /** Gives back what the call held; safe to repeat. */
  close(): void;
}

export interface Authentication {
  /** `peer` is the remote `ip:port`. @throws UNAUTHENTICATED, RATE_LIMITED, UNAVAILABLE */
  authenticate(metadata: Pick<Metadata, 'get'>, peer?: string): Promise<FleetCaller>;
  /** As {@link authenticate}, for the value of an `authorization` header. */
  authenticateHeader(authorization: string | undefined, peer?: string): Promise<FleetCaller>;
  /**
   * Asks for a right in a namespace, and counts the call for the tenant when it is granted. `target` is what the call
   * is about: keys that are good for one site are refused without it.
   * @throws PERMISSION_DENIED, RATE_LIMITED, UNAVAILABLE, DATABASE_UNAVAILABLE
   */
  authorize(caller: FleetCaller, namespace: string, right: ResourceRight, target?: CallTarget): Promise<void>;
  /** From now on the call holds one of its tenant's places when it is granted a right; a stream is ended when its caller loses it. */
  open(caller: FleetCaller, call: OpenCall): Ticket;
}

export interface AuthenticationOptions {
  /** Absent: there are no API keys. */
  readonly keys?: ApiKeyReader;
  readonly limits?: CallLimits;
}

interface Grant {
  readonly namespace: string;
  readonly right: ResourceRight;
  readonly target: CallTarget | undefined;
}

/** What belongs to one caller object. */
interface CallState {
  readonly authorization: string;
  readonly grants: Grant[];
  readonly namespaces: Set<string>;
  call: OpenCall | null;
  readonly releases: (() => void)[];
  isClosed: boolean;
  checkedAtMs: number;
  /** When its caller was last found to be in order. */
  confirmedAtMs: number;
}

export function bearerToken(authorization: string | undefined): string {
  const token = authorization === undefined ? undefined : /^bearer (\S+)$/i.exec(authorization)?.[1];
  if (token === undefined || token.length > tokenBytesMax) throw new AppError('UNAUTHENTICATED', 'this call needs a bearer token in the authorization metadata');
  return token;
}

const withoutPort = (peer: string): string => peer.replace(/:\d+$/, '');

interface Identities {
  identify(authorization: string | undefined, onUnknown: () => void): Promise<FleetCaller>;
  isAllowed(caller: FleetCaller, grant: Grant): Promise<void>;
}

/** Identities and rights through the caches; nothing is counted here. */
function createIdentities(review: ReviewPort, clock: Clock, keys: KeyAuthentication | null): Identities {
  const users = createCache<KubernetesUser | null>(clock, (user) => (user === null ? deniedForMs : grantedForMs));
  const rights = createCache<boolean>(clock, (isAllowed) => (isAllowed ? grantedForMs : deniedForMs));
  return {
    identify: async (authorization, onUnknown) => {
      const token = bearerToken(authorization);
      if (looksLikeApiKey(token)) {
        if (keys === null) throw new AppError('UNAUTHENTICATED', 'there is no such API key');
        const key = await keys.identify(token, onUnknown);
        return { user: { username: nameOfKey(key), uid: key.keyId, groups: [], extra: {} }, key };
      }
      // The cache holds no tokens.
      const user = await users.get(createHash('sha256').update(token).digest('base64'), () => {
        onUnknown();
        return review.reviewToken(token, tokenAudience);
      });
      if (user === null) throw new AppError('UNAUTHENTICATED', `the bearer token is not valid for the audience ${tokenAudience}`);
      return { user, key: null };
    },
    isAllowed: async ({ user, key }, { namespace, right, target }) => {
      if (key !== null) return (keys ?? unreachable()).authorize(key, { namespace, right, target });
      const cacheKey = JSON.stringify([user.username, user.uid, user.groups, user.extra, namespace, right.verb, right.resource, right.subresource ?? '', right.name ?? '']);
      if (await rights.get(cacheKey, () => review.reviewAccess(user, namespace, right))) return;
      throw new AppError('PERMISSION_DENIED', `${user.username.slice(0, 253)} may not ${describeRight(right)} in namespace ${namespace}`);
    },
  };
}

function unreachable(): never {
  throw new Error('a caller with an API key where there are none');
}

export function createAuthentication(review: ReviewPort, clock: Clock, options: AuthenticationOptions = {}): Authentication {
  const limits = options.limits ?? createCallLimits(defaultCallLimits);
  const identities = createIdentities(review, clock, options.keys === undefined ? null : createKeyAuthentication(options.keys, clock));
  const states = new WeakMap<FleetCaller, CallState>();
  const watching = createStreamWatch({ identities, clock });

  const authenticateHeader = async (authorization: string | undefined, peer?: string): Promise<FleetCaller> => {
    const caller = await identities.identify(authorization, () => {
      if (peer !== undefined) limits.countUnknown(withoutPort(peer), clock.monotonicMs());
    });
    limits.countCaller(caller.user.username, clock.monotonicMs());
    const nowMs = clock.monotonicMs();
    states.set(caller, { authorization: authorization ?? '', grants: [], namespaces: new Set(), call: null, releases: [], isClosed: false, checkedAtMs: nowMs, confirmedAtMs: nowMs });
    return caller;
  };

  /** The first right in a namespace counts the call there. */
  const countIn = (caller: FleetCaller, state: CallState, namespace: string): void => {
    if (state.namespaces.has(namespace)) return;
    limits.countTenant(namespace, clock.monotonicMs());
    if (state.call !== null && !state.isClosed) {
      state.releases.push(state.call.isStream ? limits.holdStream(caller.user.username, namespace) : limits.holdCall(namespace));
    }
    state.namespaces.add(namespace);
  };

  return {
    authenticateHeader,
    authenticate: (metadata, peer) => {
      const [header] = metadata.get('authorization');
      return authenticateHeader(typeof header === 'string' ? header : undefined, peer);
    },
    authorize: async (caller, namespace, right, target) => {
      const grant: Grant = { namespace, right, target };
      await identities.isAllowed(caller, grant);
      const state = states.get(caller);
      if (state === undefined) return;
      countIn(caller, state, namespace);
      if (state.call?.isStream === true) state.grants.push(grant);
    },
    open: (caller, call) => {
      const state = states.get(caller);
      if (state === undefined) throw new Error('a call of a caller that was not authenticated here');
      state.call = call;
      const unwatch = call.isStream ? watching.add(state) : () => {};
      return {
        get isGranted() {
          return state.namespaces.size > 0;
        },
        close: () => {
          state.isClosed = true;
          unwatch();
          for (const release of state.releases.splice(0)) release();
        },
      };
    },
  };
}

/** Asks again about the callers of open streams, and ends the streams of those that lost their right. */
function createStreamWatch({ identities, clock }: { readonly identities: Identities; readonly clock: Clock }): { add(state: CallState): () => void } {
  const open = new Set<CallState>();
  let timer: NodeJS.Timeout | null = null;
  const verdictOn = async (state: CallState): Promise<AppError | null> => {
    try {
      const caller = await identities.identify(state.authorization, () => {});
      for (const grant of state.grants) await identities.isAllowed(caller, grant);
      state.confirmedAtMs = clock.monotonicMs();
      return null;
    } catch (error) {
      const known = isAppError(error) ? error : new AppError('INTERNAL');
      if (known.retry !== 'backoff') return known;
      // Who can't be asked about is not cut at once: an outage of the API server would end every stream.
      return clock.monotonicMs() - state.confirmedAtMs < uncheckedMaxMs ? null : known;
    }
  };
  const check = async (state: CallState): Promise<void> => {
    state.checkedAtMs = clock.monotonicMs();
    const verdict = await verdictOn(state);
    if (verdict === null || !open.delete(state)) return;
    state.call?.end(verdict);
  };
  const tick = (): void => {
    const nowMs = clock.monotonicMs();
    for (const state of open) {
      const everyMs = looksLikeApiKey(state.authorization.slice('bearer '.length)) ? keyRecheckMs : userRecheckMs;
      if (nowMs - state.checkedAtMs >= everyMs) void check(state);
    }
  };
  return {
    add: (state) => {
      open.add(state);
      timer ??= setInterval(tick, streamTickMs).unref();
      return () => {
        open.delete(state);
        if (open.size > 0 || timer === null) return;
        clearInterval(timer);
        timer = null;
      };
    },
  };
}
