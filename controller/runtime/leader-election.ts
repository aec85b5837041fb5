/**
 * Leadership over a coordination.k8s.io/v1 Lease with compare-and-swap on its resourceVersion.
 *
 *   follower --won--> leader --renew failed for renewDeadlineMs--> lost (the program ends)
 *      ^                 |--stop()--> released
 *      '---- the holder's Lease did not change for its duration, by our own monotonic clock
 *
 * Leadership is a hint and no fence: a stopped process may act after it lost. What fences writes is the
 * leadership epoch in Postgres and, in Kubernetes, `fenceWrites` with the resourceVersion. Wall clocks are never compared.
 * Source: client-go tools/leaderelection, for the fields and the rule of the locally observed change.
 */
import { AppError } from '#api/model/error-codes.ts';
import { isAlreadyExists, isConflict, type KubernetesApi, type KubernetesObject, type Resource } from './kubernetes-api.ts';
import { errorFields, type Log } from './log.ts';
import { pause, type Time } from './time.ts';

export const leaseResource: Resource = { group: 'coordination.k8s.io', version: 'v1', plural: 'leases', kind: 'Lease', isNamespaced: true };

export interface LeaderElectionTimes {
  /** How long others wait after the last change that they saw. */
  readonly leaseMs: number;
  /** The leader gives up when it could not renew for this long; below leaseMs. */
  readonly renewDeadlineMs: number;
  readonly retryMs: number;
}

/** Takeover after a kill -9 in at most leaseMs + retryMs × 1.2 and two requests, below 15 s. */
export const defaultLeaderElectionTimes: LeaderElectionTimes = { leaseMs: 10_000, renewDeadlineMs: 7_000, retryMs: 1_500 };

export interface LeaderElectionOptions {
  readonly api: KubernetesApi;
  readonly namespace: string;
  readonly name: string;
  /** Unique among replicas; a replica that comes back under its name takes its own Lease over at once. */
  readonly identity: string;
  readonly time: Time;
  readonly log: Log;
  readonly times?: LeaderElectionTimes;
  /** Annotations that each renewal brings up to date while this candidate leads; empty when there is nothing to note. */
  readonly notes?: () => Readonly<Record<string, string>>;
}

export interface Leadership {
  /** Resolves with true when won, with false when stopped before. */
  readonly won: Promise<boolean>;
  /** Resolves when leadership was lost; never after stop(). The program must end then. */
  readonly lost: Promise<void>;
  isLeader(): boolean;
  /** True while nobody else can hold the Lease, by our own clock: a process that stood still finds out at once, before any timer. */
  isCurrent(): boolean;
  /** Annotations of the Lease when it was won: what the last leader noted. */
  notesBefore(): Readonly<Record<string, string>>;
  /** Gives the Lease back so that another replica follows at once. */
  stop(): Promise<void>;
}

interface LeaseSpec {
  readonly holderIdentity?: string;
  readonly leaseDurationSeconds?: number;
  readonly acquireTime?: string;
  readonly renewTime?: string;
  readonly leaseTransitions?: number;
}

export function campaign(options: LeaderElectionOptions): Leadership {
  const { api, time, log, identity } = options;
  const times = options.times ?? defaultLeaderElectionTimes;
  const key = { namespace: options.namespace, name: options.name };
  const won = Promise.withResolvers<boolean>();
  const lost = Promise.withResolvers<void>();
  const ending = new AbortController();
  let isLeader = false;
  let renewedAtMs = 0;
  /** Our Lease as last written; the next renewal needs no read. */
  let own: KubernetesObject | null = null;
  let notesBefore: Readonly<Record<string, string>> = {};
  /** What is not in the Lease yet; the notes of the last leader stay until there are own ones. */
  const news = (lease: KubernetesObject): Readonly<Record<string, string>> => {
    const known = lease.metadata.annotations ?? {};
    return isLeader ? Object.fromEntries(Object.entries(options.notes?.() ?? {}).filter(([name, value]) => known[name] !== value)) : {};
  };
  let observed = { resourceVersion: '', atMs: 0 };

  const isFree = (lease: KubernetesObject): boolean => {
    const spec = specOf(lease);
    if (lease.metadata.resourceVersion !== observed.resourceVersion) {
      observed = { resourceVersion: lease.metadata.resourceVersion, atMs: time.monotonicMs() };
    }
    const holder = spec.holderIdentity ?? '';
    if (holder === '' || holder === identity) return true;
    return time.monotonicMs() - observed.atMs > (spec.leaseDurationSeconds ?? times.leaseMs / 1000) * 1000;
  };

  /** One try to win or to renew; true when the Lease is ours now. */
  const tryHold = async (): Promise<boolean> => {
    if (own !== null) {
      try {
        own = await api.patch(leaseResource, key, renewal(own, { identity, times, time, notes: news(own) }), { type: 'merge' });
        return true;
      } catch (error) {
        // Somebody else wrote: look who.
        if (!isConflict(error)) throw error;
        own = null;
      }
    }
    const lease = await api.get(leaseResource, key);
    if (lease === null) {
      own = await api.create(leaseResource, key, newLease(options, times));
      return true;
    }
    if (!isFree(lease)) return false;
    own = await api.patch(leaseResource, key, renewal(lease, { identity, times, time, notes: news(lease) }), { type: 'merge' });
    return true;
  };

  const run = async (): Promise<void> => {
    while (!ending.signal.aborted) {
      // Counted from before the request: the others count from when they see its effect.
      const startedAtMs = time.monotonicMs();
      const limitMs = isLeader ? Math.max(0, renewedAtMs + times.renewDeadlineMs - startedAtMs) : times.renewDeadlineMs;
      const held = await within(time, limitMs, tryHold()).catch((error: unknown) => {
        if (!isConflict(error) && !isAlreadyExists(error)) log.warn({ lease: options.name, ...errorFields(error) }, 'lease request failed');
        return false;
      });
      if (held) {
        renewedAtMs = startedAtMs;
        if (!isLeader && !ending.signal.aborted) {
          isLeader = true;
          notesBefore = own?.metadata.annotations ?? {};
          log.info({ lease: options.name, replica: identity }, 'leadership won');
          won.resolve(true);
        }
      } else if (isLeader && time.monotonicMs() - renewedAtMs >= times.renewDeadlineMs - times.retryMs) {
        isLeader = false;
        log.error({ lease: options.name, replica: identity }, 'leadership lost');
        lost.resolve();
        return;
      }
      await pause(time, times.retryMs * (1 + 0.2 * time.random()), ending.signal);
    }
  };
  const running = run();

  return {
    won: won.promise,
    lost: lost.promise,
    isLeader: () => isLeader,
    isCurrent: () => isLeader && time.monotonicMs() - renewedAtMs < times.renewDeadlineMs,
    notesBefore: () => notesBefore,
    stop: async () => {
      ending.abort();
      await running;
      won.resolve(false);
      if (!isLeader || own === null) return;
      const notes = news(own);
      isLeader = false;
      const released = { metadata: { ...preconditions(own), ...annotated(notes) }, spec: { holderIdentity: '', leaseDurationSeconds: 1 } };
      // Without it the others wait for the duration of the Lease, no more.
      await api.patch(leaseResource, key, released, { type: 'merge' }).catch((error: unknown) => log.warn(errorFields(error), 'lease not released'));
    },
  };
}

function specOf(lease: KubernetesObject): LeaseSpec {
  return 'spec' in lease ? (lease.spec as LeaseSpec) : {}; // The API server validated it.
}

function preconditions(object: KubernetesObject): { readonly uid: string; readonly resourceVersion: string } {
  return { uid: object.metadata.uid, resourceVersion: object.metadata.resourceVersion };
}

interface Holder {
  readonly identity: string;
  readonly times: LeaderElectionTimes;
  readonly time: Time;
  readonly notes: Readonly<Record<string, string>>;
}

function annotated(notes: Readonly<Record<string, string>>): object {
  return Object.keys(notes).length === 0 ? {} : { annotations: notes };
}

function renewal(lease: KubernetesObject, holder: Holder): object {
  const spec = specOf(lease);
  const isOurs = spec.holderIdentity === holder.identity;
  return {
    metadata: { ...preconditions(lease), ...annotated(holder.notes) },
    spec: {
      renewTime: formatMicroTime(holder.time.nowMs()),
      ...(isOurs
        ? {}
        : {
            holderIdentity: holder.identity,
            leaseDurationSeconds: Math.ceil(holder.times.leaseMs / 1000),
            acquireTime: formatMicroTime(holder.time.nowMs()),
            leaseTransitions: (spec.leaseTransitions ?? 0) + 1,
          }),
    },
  };
}

function newLease(options: LeaderElectionOptions, times: LeaderElectionTimes): object {
  const now = formatMicroTime(options.time.nowMs());
  return {
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: { namespace: options.namespace, name: options.name },
    spec: {
      holderIdentity: options.identity,
      leaseDurationSeconds: Math.ceil(times.leaseMs / 1000),
      acquireTime: now,
      renewTime: now,
      leaseTransitions: 0,
    },
  };
}

/** RFC 3339 with microseconds, as Kubernetes' MicroTime wants it. */
export function formatMicroTime(epochMs: number): string {
  return new Date(epochMs).toISOString().replace('Z', '000Z');
}

/** Rejects when the work takes longer; the work itself has its own deadline and its late result is ignored. */
function within<Result>(time: Time, limitMs: number, work: Promise<Result>): Promise<Result> {
  return new Promise((resolve, reject) => {
    const cancel = time.schedule(limitMs, () => reject(new Error('no answer in time')));
    work.then(resolve, reject).finally(cancel);
  });
}

/**
 * The API for the work of one term: its writes are refused once the Lease may be somebody else's. What was sent before is
 * held to the resourceVersion that it names. @throws LEADERSHIP_LOST
 */
export function fenceWrites(api: KubernetesApi, leadership: Pick<Leadership, 'isCurrent'>): KubernetesApi {
  const write = async <Result>(send: () => Promise<Result>): Promise<Result> => {
    if (!leadership.isCurrent()) throw new AppError('LEADERSHIP_LOST');
    return send();
  };
  return {
    list: (...args) => api.list(...args),
    watch: (...args) => api.watch(...args),
    get: (...args) => api.get(...args),
    create: (...args) => write(() => api.create(...args)),
    patch: (...args) => write(() => api.patch(...args)),
    delete: (...args) => write(() => api.delete(...args)),
  };
}
