/**
 * How long hosts have been without a beat and without a grant, on the clock of this process alone. Each beat and each
 * grant counts from when this process first saw it, which is after the control plane received it, so that the time is
 * never too long: not after a start of the process, not when the clock of the database jumps, not while it can't be read.
 *
 * Invariant: pure but for its memory. `silentMs` never exceeds the real time since the host sent its last stored beat,
 * and `leaselessMs` never that since the beat that the last grant answered.
 */
import type { HostId, SiteId } from '#api/model/ids.ts';

export interface WatchedHost {
  readonly siteId: SiteId;
  readonly hostId: HostId;
  readonly lastBeatAtMs: number | null;
  readonly leaseEpoch: number | null;
  readonly leaseMs: number | null;
}

export interface HostWatch extends WatchedHost {
  /** Of the database that it was read from. */
  readonly lineage: string;
  readonly silentMs: number;
  readonly leaselessMs: number;
}

export interface LeaseWatch {
  /** Takes over a reading that was complete at this moment. Another lineage: all counting begins anew. */
  observe(hosts: readonly WatchedHost[], lineage: string): void;
  of(hostId: HostId): HostWatch | null;
  all(): readonly HostWatch[];
}

interface Seen {
  readonly host: WatchedHost;
  readonly beatSeenMs: number;
  readonly leaseSeenMs: number;
}

export function createLeaseWatch(monotonicMs: () => number): LeaseWatch {
  let seen = new Map<HostId, Seen>();
  let lineageSeen: string | null = null;
  const watchOf = ({ host, beatSeenMs, leaseSeenMs }: Seen): HostWatch => ({ ...host, lineage: lineageSeen ?? '', silentMs: monotonicMs() - beatSeenMs, leaselessMs: monotonicMs() - leaseSeenMs });
  return {
    observe: (hosts, lineage) => {
      const nowMs = monotonicMs();
      const before = lineage === lineageSeen ? seen : new Map<HostId, Seen>();
      lineageSeen = lineage;
      seen = new Map(
        hosts.map((host) => {
          const known = before.get(host.hostId);
          const isSameBeat = known !== undefined && known.host.lastBeatAtMs === host.lastBeatAtMs;
          const isSameLease = known !== undefined && known.host.leaseEpoch === host.leaseEpoch && known.host.leaseMs === host.leaseMs;
          return [host.hostId, { host, beatSeenMs: isSameBeat ? known.beatSeenMs : nowMs, leaseSeenMs: isSameLease ? known.leaseSeenMs : nowMs }];
        }),
      );
    },
    of: (hostId) => {
      const found = seen.get(hostId);
      return found === undefined ? null : watchOf(found);
    },
    all: () => [...seen.values()].map(watchOf),
  };
}
