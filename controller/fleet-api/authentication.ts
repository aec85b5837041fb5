/**
 * Tenants' callers: a bearer token becomes a Kubernetes identity, and the API server says what that
 * identity may do in a namespace. Owns the bounded caches; nothing is decided here.
 *
 * Tokens must be made for the audience `nkudo` (`kubectl create token NAME --audience nkudo`): a token for
 * the API server itself is refused, so that nobody who sees it here could use it there.
 */
import { createHash } from 'node:crypto';
import type { Metadata } from '@grpc/grpc-js';
import { AppError } from '#api/model/error-codes.ts';
import type { Clock } from '#controller/ports/clock.ts';

export const tokenAudience = 'nkudo';

export interface KubernetesUser {
  readonly username: string;
  readonly uid: string;
  readonly groups: readonly string[];
  readonly extra: Readonly<Record<string, readonly string[]>>;
}

export interface ResourceRight {
  readonly verb: string;
  /** Of the group nkudo.dev. */
  readonly resource: 'microvms' | 'sites' | 'hosts';
  readonly subresource?: string;
  /** Of one object; absent: of any. */
  readonly name?: string;
}

/** What is needed of Kubernetes. */
export interface ReviewPort {
  /** The identity behind the token when it is valid for the audience; else null. @throws UNAVAILABLE */
  reviewToken(token: string, audience: string): Promise<KubernetesUser | null>;
  /** @throws UNAVAILABLE */
  reviewAccess(user: KubernetesUser, namespace: string, right: ResourceRight): Promise<boolean>;
}

export interface FleetCaller {
  readonly user: KubernetesUser;
}

const tokenBytesMax = 16_384;
const cacheEntriesMax = 1024;
/** For so long a revoked token or right still works. */
const grantedForMs = 10_000;
const deniedForMs = 2_000;

interface Cache<Value> {
  get(key: string, load: () => Promise<Value>): Promise<Value>;
}

function createCache<Value>(clock: Clock, keepMs: (value: Value) => number): Cache<Value> {
  const entries = new Map<string, { readonly value: Value; readonly untilMs: number }>();
  return {
    get: async (key, load) => {
      const found = entries.get(key);
      if (found !== undefined && clock.monotonicMs() < found.untilMs) return found.value;
      const value = await load();
      entries.delete(key);
      entries.set(key, { value, untilMs: clock.monotonicMs() + keepMs(value) });
      const oldest = entries.size > cacheEntriesMax ? entries.keys().next().value : undefined;
      if (oldest !== undefined) entries.delete(oldest);
      return value;
    },
  };
}

export interface Authentication {
  /** @throws UNAUTHENTICATED, UNAVAILABLE */
  authenticate(metadata: Metadata): Promise<FleetCaller>;
  /** @throws PERMISSION_DENIED, UNAVAILABLE */
  authorize(caller: FleetCaller, namespace: string, right: ResourceRight): Promise<void>;
}

function bearerToken(metadata: Metadata): string {
  const [header] = metadata.get('authorization');
  const token = typeof header === 'string' ? /^bearer (\S+)$/i.exec(header)?.[1] : undefined;
  if (token === undefined || token.length > tokenBytesMax) throw new AppError('UNAUTHENTICATED', 'this call needs a bearer token in the authorization metadata');
  return token;
}

export function createAuthentication(review: ReviewPort, clock: Clock): Authentication {
  const users = createCache<KubernetesUser | null>(clock, (user) => (user === null ? deniedForMs : grantedForMs));
  const rights = createCache<boolean>(clock, (isAllowed) => (isAllowed ? grantedForMs : deniedForMs));
  return {
    authenticate: async (metadata) => {
      const token = bearerToken(metadata);
      // The cache holds no tokens.
      const user = await users.get(createHash('sha256').update(token).digest('base64'), () => review.reviewToken(token, tokenAudience));
      if (user === null) throw new AppError('UNAUTHENTICATED', `the bearer token is not valid for the audience ${tokenAudience}`);
      return { user };
    },
    authorize: async ({ user }, namespace, right) => {
      const key = JSON.stringify([user.username, user.uid, user.groups, user.extra, namespace, right.verb, right.resource, right.subresource ?? '', right.name ?? '']);
      if (await rights.get(key, () => review.reviewAccess(user, namespace, right))) return;
      const resource = right.subresource === undefined ? right.resource : `${right.resource}/${right.subresource}`;
      throw new AppError('PERMISSION_DENIED', `${user.username.slice(0, 253)} may not ${right.verb} ${resource}${right.name === undefined ? '' : ` ${right.name}`} in namespace ${namespace}`);
    },
  };
}
