/**
 * Enrolled hosts, their sessions and beats. A host is online while its last beat is younger than the
 * silence limit, counted from the later of that beat and the start of the observer.
 */
import type { HostId, MicroVMId, SessionId, SiteId, TenantId } from '#api/model/ids.ts';
import type { EmptyingPhase, HostFacts } from '#api/model/host.ts';
import type { AgentOrder, AgentReport } from '#api/model/release.ts';
import type { Actor } from './audit.ts';

/** Why two claims to one identity can not both be true. */
export type QuarantineReason =
  /** An older certificate than one that was used. */
  | 'CertificateReplayed'
  /** Another machine-id while the first machine was heard. */
  | 'OtherMachine'
  /** A boot came back after another one had taken its place. */
  | 'BootReturned'
  /** A run of the agent came back after another one had taken its place: copies of one state directory on one machine. */
  | 'AgentReturned';

/** Somebody who holds the identity of a host. */
export interface HostClaim {
  /** What an operator names to accept it; of this quarantine only. */
  readonly id: string;
  readonly machineId: string;
  readonly bootId: string;
  /** Where it connected from; empty when that is not known any more. */
  readonly address: string;
  readonly counter: number;
}

export interface HostQuarantine {
  readonly reason: QuarantineReason;
  readonly salt: string;
  readonly claims: readonly HostClaim[];
  /** The claim that an operator accepted; null: nobody decided yet. */
  readonly acceptedId: string | null;
}

export interface HostRecord {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly siteName: string;
  readonly namespace: string;
  readonly hostId: HostId;
  readonly name: string;
  /** UID of the Host object, null until it was made or found. */
  readonly objectUid: string | null;
  readonly isApproved: boolean;
  readonly isUnschedulable: boolean;
  readonly isRevoked: boolean;
  readonly isQuarantined: boolean;
  /** Set in a quarantine, and after it until the accepted claimant has used a new certificate. */
  readonly quarantine: HostQuarantine | null;
  readonly requireApproval: boolean;
  readonly reservedCpus: number;
  readonly reservedMemoryBytes: number;
  /** In percent; null: as the product has it by default. */
  readonly overcommitCpuPercent: number | null;
  readonly overcommitMemoryPercent: number | null;
  /** As the reconciler of the host saw it last; null: it is not being emptied. */
  readonly emptying: EmptyingPhase | null;
  readonly facts: HostFacts;
  /** Rises when the facts changed. */
  readonly factsRevision: number;
  /** By the clock of the database; null: never. */
  readonly lastBeatAtMs: number | null;
  readonly sessionId: SessionId | null;
  readonly certificate: { readonly serial: string; readonly notAfterMs: number } | null;
  readonly allocated: { readonly cpus: number; readonly memoryBytes: number; readonly microvms: number };
  /** MicroVMs that the host reports and nobody explains. */
  readonly orphanIds: readonly string[];
  /** Which agent it is to run; absent or null: what it has. */
  readonly agentOrder?: AgentOrder | null;
  /** What it said of an order last; absent or null: nothing yet. */
  readonly agentReport?: AgentReport | null;
  /** What an AgentRollout says that it should run; absent or null: nothing. Its own object goes before. */
  readonly rolloutOrder?: Pick<AgentOrder, 'version' | 'manifestUrl'> | null;
}

export interface BeatRecord {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
  readonly sessionId: SessionId;
}

/** A beat that waits to be stored. */
export interface HeardBeat extends BeatRecord {
  /** Milliseconds since it came, from 0. */
  readonly ageMs: number;
}

export interface KnownMicroVM {
  readonly microvmId: string;
  readonly epoch: number;
  readonly revision: number;
  readonly isLive: boolean;
  readonly isOrphan: boolean;
}

export interface HostStore {
  load(tenantId: TenantId, hostId: HostId): Promise<HostRecord | null>;
  loadByName(tenantId: TenantId, name: string): Promise<HostRecord | null>;
  listBySite(tenantId: TenantId, siteId: SiteId): Promise<readonly HostRecord[]>;
  /** All hosts of all tenants that are not revoked, for the leader's silence watch. Reads only. */
  listLiveness(): Promise<readonly { readonly tenantId: TenantId; readonly namespace: string; readonly hostId: HostId; readonly name: string; readonly lastBeatAtMs: number | null; readonly nowMs: number }[]>;
  /** Takes over what the Host object says; writes nothing when equal. */
  saveObject(input: {
    readonly tenantId: TenantId;
    readonly hostId: HostId;
    readonly objectUid: string;
    readonly isApproved: boolean;
    readonly isUnschedulable: boolean;
    readonly reservedCpus: number;
    readonly reservedMemoryBytes: number;
    /** In percent; absent or null: as the product has it by default. */
    readonly overcommitCpuPercent?: number | null;
    readonly overcommitMemoryPercent?: number | null;
    /** Absent or null: it is not being emptied. */
    readonly emptying?: EmptyingPhase | null;
    /** Absent or null: no version is ordered. The revision of the order rises with every change. */
    readonly agent?: Pick<AgentOrder, 'version' | 'manifestUrl'> | null;
  }, epoch: number, actor: Actor): Promise<void>;
  /**
   * Revokes the identity: certificates, sessions; the name is free again.
   * @throws CONFLICT while microVMs are bound, unless `force`
   */
  revoke(input: { readonly tenantId: TenantId; readonly hostId: HostId; readonly force: boolean }, epoch: number, actor: Actor): Promise<void>;
  /**
   * Lets the claimant of that id in again and nobody else: the others' certificates are revoked once it has used a new one.
   * False when there is no such claim, such as one of an earlier quarantine. Idempotent.
   */
  acceptClaim(input: { readonly tenantId: TenantId; readonly hostId: HostId; readonly claimId: string }, epoch: number, actor: Actor): Promise<boolean>;
  /**
   * Gives the bound microVMs that the host should know by its own word and does not (its journal was lost): their last
   * observation became `unknown`, and the reconciler publishes them again.
   *
   * Opens a session after the identity was checked: records session, facts when they changed, and raises the
   * revision counters above `known`. The newer session of the same boot wins.
   * @throws HOST_REVOKED, HOST_QUARANTINED (also when it finds the reason just now), UNAUTHENTICATED
   */
  openSession(input: {
    readonly tenantId: TenantId;
    readonly hostId: HostId;
    readonly sessionId: SessionId;
    readonly replica: string;
    readonly facts: HostFacts;
    readonly known: readonly KnownMicroVM[];
    readonly certificateSerial: string;
    /** Run of the agent; empty from agents that do not say. */
    readonly agentInstance?: string;
  }, actor: Actor): Promise<{ readonly forgotten: readonly MicroVMId[]; /** The host is to renew its certificate at once. */ readonly renewNow: boolean; /** Another agent of the same boot was connected: what this one does not know is asked for again at its next session. */ readonly isContested: boolean }>;
  /** Ends a session; does nothing when a newer one exists. */
  closeSession(input: BeatRecord): Promise<void>;
  /** Stores changed facts. */
  saveFacts(input: BeatRecord & { readonly facts: HostFacts }): Promise<void>;
  /**
   * One statement and one commit for a whole batch, over all tenants; sessions that are not current are ignored. Stores
   * when each beat came, by the clock of the database, and never an earlier time than is stored.
   */
  flushBeats(beats: readonly HeardBeat[]): Promise<void>;
}
