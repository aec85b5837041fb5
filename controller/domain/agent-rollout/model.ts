/** What the decision on an AgentRollout is made from, and what is remembered of each host. No clock, no Kubernetes, no SQL. */
import type { HostId } from '#api/model/ids.ts';
import type { AgentOrder, AgentReport } from '#api/model/release.ts';

/** `Passed`: healthy for long enough. `Settled`: its ring is over as well, and no failure of another host takes it back. */
export type RolloutState = 'Ordered' | 'Soaking' | 'Passed' | 'Settled' | 'Failed';

export const rolloutProblemMax = 1024;

export interface RolloutRow {
  /** UID of the AgentRollout. */
  readonly rolloutId: string;
  readonly ring: string;
  /** With the nonce the name of one try. */
  readonly targetVersion: string;
  readonly nonce: number;
  /** What the host ran before; empty: nothing is known of that. */
  readonly fromVersion: string;
  /** Null: withdrawn, and what runs stays. */
  readonly order: Pick<AgentOrder, 'version' | 'manifestUrl'> | null;
  readonly state: RolloutState;
  /** The order names the version before again, or was withdrawn. */
  readonly isReturned: boolean;
  /** Why it failed, at most {@link rolloutProblemMax} characters; empty when it did not. */
  readonly problem: string;
  /** How often it ceased to be healthy while it soaked. */
  readonly breaks: number;
}

/** A number of hosts, or a share of them in percent. */
export type HostCount = { readonly kind: 'number'; readonly value: number } | { readonly kind: 'percent'; readonly value: number };

export interface RingSpec {
  readonly name: string;
  /** Null: of every site. */
  readonly sites: readonly string[] | null;
  /** Null with `sites` null: none but those that name the ring. */
  readonly labels: Readonly<Record<string, string>> | null;
  readonly maxParallel: HostCount;
}

export interface RolloutSpec {
  readonly rolloutId: string;
  readonly version: string;
  readonly nonce: number;
  readonly rings: readonly RingSpec[];
  readonly soakMs: number;
  readonly deadlineMs: number;
  readonly required: HostCount;
  readonly maxFailures: number;
  readonly onFailure: 'RollBackRing' | 'RollBackAll' | 'RollBackFailed';
  readonly isPaused: boolean;
  readonly isRollBackAsked: boolean;
}

/** Of a host: whether it is heard and can run microVMs; undecided when nobody knows yet whether it is heard. */
export type HostHealth = 'able' | 'unable' | 'undecided';

export interface RolloutHost {
  readonly hostId: HostId;
  readonly name: string;
  readonly siteName: string;
  readonly labels: Readonly<Record<string, string>>;
  /** The ring that the Host object names; null: none. */
  readonly ringName: string | null;
  /** Why the rollout leaves it alone; null: it does not. */
  readonly skipped: 'Pinned' | 'OwnVersion' | 'NewerRollout' | null;
  /** Why it is not told to update just now; null: it may be. */
  readonly heldBack: 'SiteHold' | 'OutsideWindow' | null;
  readonly health: HostHealth;
  /** Why it is not able, for people; empty when it is. */
  readonly healthProblem: string;
  readonly runningVersion: string;
  readonly order: AgentOrder | null;
  readonly report: AgentReport | null;
  /** Another rollout told it last, and still looks after that. */
  readonly isFollowedElsewhere: boolean;
  /** Of whatever rollout told it last. */
  readonly row: (RolloutRow & { readonly ageMs: number }) | null;
}

export interface RolloutSituation {
  readonly hosts: readonly RolloutHost[];
  /** False outside the windows of the rollout. */
  readonly isWindowOpen: boolean;
  /** URL of the manifest of a version; null: nobody knows where it is. */
  readonly manifestUrlOf: (version: string) => string | null;
}

export type RingPhase = 'Pending' | 'Progressing' | 'Passed' | 'Failed';

export interface RingCounts {
  readonly hosts: number;
  readonly waiting: number;
  readonly updating: number;
  readonly soaking: number;
  readonly updated: number;
  readonly failed: number;
  readonly returned: number;
  readonly skipped: number;
}

export interface RingState extends RingCounts {
  readonly name: string;
  readonly phase: RingPhase;
}

/** Why the rollout is where it is: one of the reasons of its condition Ready. */
export type RolloutReason = 'AllRingsPassed' | 'RingUnderWay' | 'Paused' | 'OutsideWindow' | 'SiteHold' | 'HostsUnavailable' | 'RingEmpty' | 'HostsReturned' | 'ReleaseUnknown' | 'Stopped' | 'RollBackAsked';

export interface RolloutDecision {
  /** Rows to be stored, whole, by name of the host. Empty at rest. */
  readonly writes: readonly (RolloutRow & { readonly hostId: HostId; readonly name: string })[];
  /** As they are once the rows are stored. */
  readonly rings: readonly RingState[];
  readonly reason: RolloutReason;
  /** The ring that is being updated, or in which it stopped; null: all were. */
  readonly ring: string | null;
  /** By name. */
  readonly failures: readonly { readonly host: string; readonly message: string }[];
  /** Hosts that were given back the version before and do not run it yet, by name. */
  readonly returning: readonly { readonly host: string; readonly problem: string }[];
  /** Hosts of the ring that it waits for, by name, and why. */
  readonly waitsFor: readonly { readonly host: string; readonly problem: string }[];
  /** When a host reaches a limit of time, from now; null: none does. */
  readonly nextLookMs: number | null;
}
