/**
 * The condition types and reasons of all kinds, as data: what each means, which way round it is, who
 * writes it and why it can have its value. Reconcilers take their words from here, so that a type or
 * a reason that is not listed does not compile; the lists only grow within v1alpha1.
 * Invariant: every condition has one owner, and nobody else writes it.
 */

/** Positive: True is the wished state. Negative: True is what a person should look at. */
export type ConditionPolarity = 'positive' | 'negative';
export type ConditionOwner = 'site-reconciler' | 'host-reconciler' | 'microvm-reconciler' | 'enrollmenttoken-reconciler' | 'apikey-reconciler' | 'microvmset-reconciler' | 'agentrollout-reconciler';

export interface ConditionDefinition {
  readonly polarity: ConditionPolarity;
  readonly owner: ConditionOwner;
  /** What True says. */
  readonly meaning: string;
  /** Closed list, for all three values of status. */
  readonly reasons: readonly string[];
}

/** What a host can report against a microVM: the `reason` of the host's codes in the error catalogue. */
export const hostFailureReasons = [
  'StaleOperation',
  'KernelNotFound',
  'KernelNotBootable',
  'InitramfsNotFound',
  'DiskNotFound',
  'DiskInUse',
  'ImageNotFound',
  'ImageUnavailable',
  'ImageDigestMismatch',
  'ImageRefused',
  'ImageAccessDenied',
  'ImageToolMissing',
  'RegistryNotAllowed',
  'DiskFull',
  'PathNotAllowed',
  'NotEnoughMemory',
  'HugepagesUnavailable',
  'GuestIgnoresChange',
  'SpecRefused',
  'HypervisorMissing',
  'HypervisorFailed',
  'HypervisorTimeout',
  'JournalFailed',
  'GuardFailed',
  'StateDirLocked',
  'OrphanedVM',
  'NetworkUnavailable',
  'NetworkUnsupported',
  'NetworkFailed',
  'PortInUse',
  'AddressInUse',
  'SecretUnavailable',
  'HeldAtSite',
  'StoppedAtSite',
  'InternalError',
] as const;
export type HostFailureReason = (typeof hostFailureReasons)[number];

/** Why a microVM does not run although nothing failed, or what ended it last. */
const restReasons = [
  'Halted',
  'HostDrained',
  'Manual',
  'Completed',
  'Stopping',
  'GuestShutdown',
  'GuestReboot',
  'GuestPanic',
  'VMMCrash',
  'HostReboot',
  'OOM',
  'Operator',
  'Unhealthy',
  'Unknown',
] as const;

/** Why the control plane could not hand a microVM to a host. */
const placementReasons = ['NotAccepted', 'SiteNotFound', 'HostNotFound', 'NoHostFits', 'Preempting', 'QuotaExceeded', 'DatabaseUnavailable', 'RecoveryUnderWay', 'DeletionHeld'] as const;

/** Why a Secret that the spec names can not be given to the guest. */
const secretReasons = ['SecretNotFound', 'SecretNotForGuests', 'SecretKeyNotFound', 'SecretTooLarge'] as const;

/** Why a host has no such address or port to give. */
const networkReasons = ['AddressesExhausted', 'PortsExhausted', 'AddressOutsideSubnet', 'MeshSubnetMissing'] as const;
/** Those that also a host can report. */
const takenReasons = ['PortInUse', 'AddressInUse'] as const;

const microvm = { owner: 'microvm-reconciler' } as const;

export const microvmConditions = {
  Accepted: {
    ...microvm,
    polarity: 'positive',
    meaning: 'the spec can be carried out as far as the control plane can tell',
    reasons: ['Accepted', 'ClassNotFound', 'SiteNotFound', 'HostNotFound', 'SpecRefused', 'AdoptionRequired', ...secretReasons],
  },
  Scheduled: {
    ...microvm,
    polarity: 'positive',
    meaning: 'it is bound to a host',
    reasons: ['Bound', ...placementReasons, ...networkReasons, ...takenReasons],
  },
  ImagesReady: {
    ...microvm,
    polarity: 'positive',
    meaning: 'kernel, firmware, initramfs and disks are on the host',
    reasons: ['FilesPresent', 'Downloading', 'NotScheduled', 'WaitingForHost', 'HostSilent', ...hostFailureReasons],
  },
  Provisioned: {
    ...microvm,
    polarity: 'positive',
    meaning: 'the host has taken it over and made what it needs',
    reasons: ['OperationCancelled', 'Provisioned', 'Provisioning', 'NotScheduled', 'WaitingForHost', 'Deleting', 'HostSilent', ...networkReasons, ...hostFailureReasons],
  },
  NetworksReady: {
    ...microvm,
    polarity: 'positive',
    meaning: 'the host has made the networks of the guest, and nothing that they need is missing; there is none of it without spec.networks',
    reasons: [
      'NetworksMade',
      'DHCPUnavailable',
      'HostWarning',
      'NotRunning',
      'NotScheduled',
      'WaitingForHost',
      'HostSilent',
      ...networkReasons,
      ...hostFailureReasons,
    ],
  },
  Running: {
    ...microvm,
    polarity: 'positive',
    meaning: 'its VMM runs and the guest was started; a paused guest counts as not running',
    reasons: [
      'Running',
      'Starting',
      'Paused',
      'BackingOff',
      'OperationCancelled',
      'NotScheduled',
      'WaitingForHost',
      'WaitingForLease',
      'Deleting',
      'HostSilent',
      ...restReasons,
      ...hostFailureReasons,
    ],
  },
  Ready: {
    ...microvm,
    polarity: 'positive',
    meaning: 'the guest works: proved by its readiness probe, or without one that it runs (reason NoProbe)',
    reasons: [
      'NoProbe',
      'ProbeSucceeded',
      'ProbeFailed',
      'ProbePending',
      'ProbeUnknown',
      'ProbeImpossible',
      'NotRunning',
      'Starting',
      'Paused',
      'BackingOff',
      'OperationCancelled',
      'NotScheduled',
      'WaitingForHost',
      'ClassNotFound',
      'AdoptionRequired',
      ...secretReasons,
      'Deleting',
      'HostSilent',
      ...placementReasons,
      ...networkReasons,
      ...restReasons,
      ...hostFailureReasons,
    ],
  },
  Reachable: {
    ...microvm,
    polarity: 'positive',
    meaning: 'its host is heard, so that this status is of now',
    reasons: ['HostConnected', 'HostSilent', 'NotScheduled'],
  },
  RestartRequired: {
    ...microvm,
    polarity: 'negative',
    meaning: 'the spec has a change that takes effect at the next start only',
    reasons: ['SpecChanged', 'SecretChanged', 'UpToDate', 'HostSilent'],
  },
  UpdateHeld: {
    ...microvm,
    polarity: 'negative',
    meaning: 'a change waits for a maintenance window, the end of a hold, or room on its host',
    reasons: ['OutsideWindow', 'SiteHold', 'HostFull', 'NotHeld'],
  },
  EvictionBlocked: {
    ...microvm,
    polarity: 'negative',
    meaning: 'its host is being emptied and it can not leave or be stopped yet; there is none of it while the host is not',
    reasons: ['OperatorNeeded', 'KeepsLocalData', 'PinnedToHost', 'SiteHold', 'HostSilent', 'NoHostFits', 'NotBlocked'],
  },
  SiteOverride: {
    ...microvm,
    polarity: 'negative',
    meaning: 'somebody at the site stopped, held or forced it; the message says who, and what ends it; there is none of it before the first time',
    reasons: ['StoppedAtSite', 'HeldAtSite', 'ForcedStart', 'NoOverride', 'HostSilent'],
  },
  CrashLooping: {
    ...microvm,
    polarity: 'negative',
    meaning: 'it ended more often than restart.maxRetries inside restart.window and waits restart.maxBackoff each time',
    reasons: ['TooManyFailures', 'WithinLimit', 'HostSilent'],
  },
  QuotaDenied: {
    ...microvm,
    polarity: 'negative',
    meaning: 'the quota of the Site has no room for it, or for what its new spec asks for; there is none of it while there is room',
    reasons: ['QuotaExceeded', 'WithinQuota'],
  },
  ReplaceDisabled: {
    ...microvm,
    polarity: 'negative',
    meaning: 'disconnect.replace is asked for and can not be done safely',
    reasons: ['DeadlinesTooClose', 'PersistentDisk', 'MassDisconnect', 'RecoveryUnderWay', 'HostUnconfirmed', 'NoHostFits', 'NotDisabled'],
  },
  DeletionBlocked: {
    ...microvm,
    polarity: 'negative',
    meaning: 'it is being deleted and something has to happen first; the message says what',
    reasons: ['HostSilent', 'TeardownRunning', 'DeletionHeld', 'RecoveryUnderWay', 'NotBlocked', ...hostFailureReasons],
  },
} as const satisfies Record<string, ConditionDefinition>;

const host = { owner: 'host-reconciler' } as const;

export const hostConditions = {
  Ready: {
    ...host,
    polarity: 'positive',
    meaning: 'it is heard and can run microVMs',
    reasons: [
      'HostConnected',
      'HostSilent',
      'NotEnrolled',
      'NotApproved',
      'Quarantined',
      'Revoked',
      'SiteNotFound',
      'HypervisorMissing',
      'JournalFailed',
    ],
  },
  Enrolled: {
    ...host,
    polarity: 'positive',
    meaning: 'a machine holds a valid identity of this host',
    reasons: ['CertificateIssued', 'NotEnrolled', 'CertificateExpired', 'Revoked', 'Quarantined'],
  },
  Approved: {
    ...host,
    polarity: 'positive',
    meaning: 'it may run microVMs as far as the Site asks for an approval',
    reasons: ['ApprovalNotRequired', 'Approved', 'NotApproved', 'SiteNotFound'],
  },
  Reachable: {
    ...host,
    polarity: 'positive',
    meaning: 'it was heard within the last four heartbeats',
    reasons: ['HostConnected', 'HostSilent', 'NotEnrolled'],
  },
  HypervisorReady: {
    ...host,
    polarity: 'positive',
    meaning: 'its Cloud Hypervisor is usable',
    reasons: ['HypervisorUsable', 'HypervisorMissing', 'HostSilent', 'NotEnrolled'],
  },
  Drained: {
    ...host,
    polarity: 'positive',
    meaning: 'it was asked to be emptied, and no microVM runs on it any more; there is none of it without spec.drain',
    reasons: ['Empty', 'AllStopped', 'MicroVMsLeaving', 'MicroVMsHeld', 'HostSilent'],
  },
  OrphansPresent: {
    ...host,
    polarity: 'negative',
    meaning: 'microVMs run on it that belong to no object; they are listed in status.orphans',
    reasons: ['OrphanedVM', 'NoOrphans', 'HostSilent'],
  },
  ReportAwaited: {
    ...host,
    polarity: 'negative',
    meaning: 'the database was restored and the host has not said since what it has; there is none of it where nothing was restored',
    reasons: ['NotReported', 'Reported'],
  },
  AgentUpToDate: {
    ...host,
    polarity: 'positive',
    meaning: 'its agent is the version that spec.agent, or else an AgentRollout, asks for; there is none of it where nobody asks',
    reasons: ['VersionRuns', 'VersionOrdered', 'VersionFetching', 'VersionStarting', 'ReleaseUnknown', 'NotEnrolled', 'HostSilent', 'UpdateFailed', 'UpdateUnsupported', 'ReleaseInvalid', 'ReleaseUnsigned', 'ReleaseExpired', 'ReleaseOlder', 'ReleaseUnsuitable', 'ReleaseRefused'],
  },
  MeshConnected: {
    ...host,
    polarity: 'positive',
    meaning: 'it is in the mesh of its site, as far as its own NetBird says; there is none of it without spec.mesh of the Site',
    reasons: [
      'Connected',
      'Connecting',
      'WaitingForKey',
      'NeedsLogin',
      'NetBirdMissing',
      'NetBirdStopped',
      'NetBirdFailed',
      'NetBirdUnknown',
      'NotReported',
      'HostSilent',
    ],
  },
  DeletionBlocked: {
    ...host,
    polarity: 'negative',
    meaning: 'it is being deleted and microVMs are still bound to it',
    reasons: ['MicroVMsBound', 'MicroVMsLeaving', 'NotBlocked'],
  },
} as const satisfies Record<string, ConditionDefinition>;

const site = { owner: 'site-reconciler' } as const;

export const siteConditions = {
  Accepted: {
    ...site,
    polarity: 'positive',
    meaning: 'the control plane has taken the spec over, so that machines can be enrolled and microVMs be made',
    reasons: ['Accepted'],
  },
  Ready: {
    ...site,
    polarity: 'positive',
    meaning: 'a host of the site is Ready, so that microVMs can be placed',
    reasons: ['HostsReady', 'NoHosts', 'NoHostReady'],
  },
  TimeZoneKnown: {
    ...site,
    polarity: 'positive',
    meaning: 'spec.timeZone is the name of a time zone; there is none of it while it always was',
    reasons: ['TimeZoneFound', 'TimeZoneUnknown'],
  },
  MeshReady: {
    ...site,
    polarity: 'positive',
    meaning: 'the objects of the site in the mesh account are as they should be; there is none of it without spec.mesh',
    reasons: [
      'MeshConverged',
      'MeshConverging',
      'MeshUnauthorized',
      'MeshRateLimited',
      'MeshUnavailable',
      'MeshRefused',
      'SecretMissing',
      'GroupMissing',
      'SubnetPoolFull',
      'MeshRemoving',
    ],
  },
  MeshIsolated: {
    ...site,
    polarity: 'positive',
    meaning: 'no policy of the account that n-kudo did not make lets every peer reach every other',
    reasons: ['NoOpenPolicy', 'DefaultPolicyOpen'],
  },
  RecoveryUnderWay: {
    ...site,
    polarity: 'negative',
    meaning: 'the database was restored and hosts have not reported since: nothing that may run somewhere is placed, replaced or let go; there is none of it where nothing was restored',
    reasons: ['HostsAwaited', 'HostsReported'],
  },
  MassDisconnect: {
    ...site,
    polarity: 'negative',
    meaning: 'so many hosts fell silent at once that replacements are held',
    reasons: ['HostsSilent', 'WithinLimit'],
  },
  DeletionHeld: {
    ...site,
    polarity: 'negative',
    meaning: 'so many microVMs were deleted at once that the deletion waits for a confirmation',
    reasons: ['ConfirmationNeeded', 'WithinLimit'],
  },
  DeletionBlocked: {
    ...site,
    polarity: 'negative',
    meaning: 'it is being deleted and still has hosts or microVMs',
    reasons: ['HostsPresent', 'MicroVMsPresent', 'NotBlocked'],
  },
} as const satisfies Record<string, ConditionDefinition>;

const enrollmentToken = { owner: 'enrollmenttoken-reconciler' } as const;

export const enrollmentTokenConditions = {
  Ready: {
    ...enrollmentToken,
    polarity: 'positive',
    meaning: 'the Secret is written and a machine can use the token',
    reasons: ['SecretWritten', 'Pending', 'SiteNotFound', 'TokenUsed', 'TokenExpired', 'SecretLost', 'DatabaseUnavailable'],
  },
  Used: {
    ...enrollmentToken,
    polarity: 'positive',
    meaning: 'a machine used the token; no other can',
    reasons: ['HostEnrolled', 'NotUsed', 'TokenExpired'],
  },
} as const satisfies Record<string, ConditionDefinition>;

const apiKey = { owner: 'apikey-reconciler' } as const;

export const apiKeyConditions = {
  Ready: {
    ...apiKey,
    polarity: 'positive',
    meaning: 'the Secret is written and the key can be used',
    reasons: ['SecretWritten', 'Pending', 'KeyRevoked', 'KeyExpired', 'SecretLost', 'DatabaseUnavailable'],
  },
} as const satisfies Record<string, ConditionDefinition>;

const microvmSet = { owner: 'microvmset-reconciler' } as const;

export const microvmSetConditions = {
  Ready: {
    ...microvmSet,
    polarity: 'positive',
    meaning: 'every microVM that there should be exists, is as the template says, and is Ready; and no other is left',
    reasons: ['AllReady', 'Progressing', 'NotReady', 'SiteNotFound', 'TemplateRefused', 'NameTaken', 'WaitsForDelete', 'SurplusKept', 'Deleting'],
  },
} as const satisfies Record<string, ConditionDefinition>;

const agentRollout = { owner: 'agentrollout-reconciler' } as const;

export const agentRolloutConditions = {
  Ready: {
    ...agentRollout,
    polarity: 'positive',
    meaning: 'enough hosts of every ring ran the version healthily for long enough',
    reasons: ['AllRingsPassed', 'RingUnderWay', 'Paused', 'OutsideWindow', 'SiteHold', 'HostsUnavailable', 'RingEmpty', 'HostsReturned', 'ReleaseUnknown', 'Stopped', 'RollBackAsked'],
  },
  Failed: {
    ...agentRollout,
    polarity: 'negative',
    meaning: 'the version failed on more hosts of a ring than may be, and the rollout stopped',
    reasons: ['HostsFailed', 'NotFailed'],
  },
} as const satisfies Record<string, ConditionDefinition>;

export const conditionsByKind = {
  Site: siteConditions,
  Host: hostConditions,
  MicroVM: microvmConditions,
  EnrollmentToken: enrollmentTokenConditions,
  APIKey: apiKeyConditions,
  MicroVMSet: microvmSetConditions,
  AgentRollout: agentRolloutConditions,
} as const;

export type MicroVMConditionType = keyof typeof microvmConditions;
export type HostConditionType = keyof typeof hostConditions;
export type SiteConditionType = keyof typeof siteConditions;
export type EnrollmentTokenConditionType = keyof typeof enrollmentTokenConditions;

export type MicroVMConditionReason<Type extends MicroVMConditionType> = (typeof microvmConditions)[Type]['reasons'][number];
export type HostConditionReason<Type extends HostConditionType> = (typeof hostConditions)[Type]['reasons'][number];
export type SiteConditionReason<Type extends SiteConditionType> = (typeof siteConditions)[Type]['reasons'][number];
export type EnrollmentTokenConditionReason<Type extends EnrollmentTokenConditionType> =
  (typeof enrollmentTokenConditions)[Type]['reasons'][number];
export type APIKeyConditionReason = (typeof apiKeyConditions)['Ready']['reasons'][number];
export type MicroVMSetConditionReason = (typeof microvmSetConditions)['Ready']['reasons'][number];
export type AgentRolloutConditionType = keyof typeof agentRolloutConditions;
export type AgentRolloutConditionReason<Type extends AgentRolloutConditionType> = (typeof agentRolloutConditions)[Type]['reasons'][number];
