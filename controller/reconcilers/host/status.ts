/** What a Host shows, from its row and from whether it is heard. Pure. */
import { allocatable } from '#api/model/capacity.ts';
import { deriveHostPhase, isHypervisorUsable, type HostPhase } from '#api/model/host.ts';
import type { HostConditionReason, HostConditionType } from '#crds/conditions.ts';
import type { Host, HostStatus } from '#crds/gen/host.ts';
import type { Site } from '#crds/gen/site.ts';
import { formatQuantity } from '#crds/scalar-values.ts';
import type { HostClaim, HostRecord, QuarantineReason } from '#controller/ports/host-store.ts';
import type { Displacement } from '#controller/ports/lease-store.ts';
import type { MeshHostRecord } from '#controller/ports/mesh-store.ts';
import type { HostSilence } from '#controller/domain/silence.ts';
import { acceptClaimAnnotation } from '../kinds.ts';
import { formatTime, stampConditions, type DerivedCondition } from '#controller/runtime/status-patch.ts';
import { deriveAgentUpToDate } from './agent-version.ts';
import { deriveDrained, describeBlocked, emptyingPhase, type Emptying } from './emptying.ts';
import { overcommitOf } from '../microvm/placement-cache.ts';
import { projectDisplaced } from '../replacement/status.ts';
import { deriveHostMesh } from '../mesh/status.ts';
import { deriveHostRecovery, type HostRecovery } from '../recovery/status.ts';

const mebibyte = 2 ** 20;

export interface HostFactsForStatus {
  readonly site: Site | null;
  /** Null until a machine is enrolled under this name. */
  readonly record: HostRecord | null;
  readonly silence: HostSilence;
  /** Null when its site has no mesh. */
  readonly mesh: MeshHostRecord | null;
  readonly displaced: readonly Displacement[];
  readonly recovery: HostRecovery;
  /** Null while the host is not being emptied. */
  readonly emptying: Emptying | null;
  readonly nowMs: number;
}

function condition<Type extends HostConditionType>(
  type: Type,
  status: DerivedCondition['status'],
  reason: HostConditionReason<Type>,
  message: string,
): DerivedCondition {
  return { type, status, reason, message };
}

/** Bound of the CRD. */
const orphansMax = 256;

export function projectHostStatus(host: Host, facts: HostFactsForStatus): HostStatus {
  const { record } = facts;
  const isHeard = isHostHeard(host, facts);
  const isApproved = facts.site?.spec.enrollment?.requireApproval !== true || host.spec.approved === true;
  const view = { host, facts, isHeard, isApproved };
  const mesh = deriveHostMesh(host, facts.mesh, isHeard);
  return {
    observedGeneration: host.metadata.generation,
    phase: derivePhase(view),
    ...(record === null ? {} : projectRecord(record)),
    ...(record === null || isHeard || record.lastBeatAtMs === null ? {} : { lastObservedTime: formatTime(record.lastBeatAtMs) }),
    ...mesh.fields,
    ...projectDisplaced(facts.displaced),
    conditions: stampConditions([...deriveConditions(view), ...deriveAgentUpToDate(host, record, isHeard), ...mesh.conditions, ...deriveHostRecovery(facts.recovery, host.status?.conditions)], host.status?.conditions, { generation: host.metadata.generation, nowMs: facts.nowMs }),
  };
}

interface HostView {
  readonly host: Host;
  readonly facts: HostFactsForStatus;
  readonly isHeard: boolean;
  readonly isApproved: boolean;
}

/** While it is not decided yet, what was shown last stays: a new leader flips nothing. */
function isHostHeard(host: Host, { record, silence }: HostFactsForStatus): boolean {
  if (record === null || record.lastBeatAtMs === null) return false;
  if (silence.reachability !== 'undecided') return silence.reachability === 'online';
  return host.status?.conditions?.find(({ type }) => type === 'Reachable')?.status === 'True';
}

function derivePhase({ host, facts: { record, emptying }, isHeard, isApproved }: HostView): HostPhase {
  if (record === null) return 'Pending';
  const { isRevoked, isQuarantined, facts: { hypervisor } } = record;
  return deriveHostPhase({ isRevoked, isQuarantined, isApproved, isOnline: isHeard, emptying: emptyingPhase(host, emptying), hypervisor });
}

function deriveConditions(view: HostView): DerivedCondition[] {
  const conditions = [deriveReady(view), deriveEnrolled(view), deriveApproved(view), deriveReachable(view), deriveHypervisor(view)];
  const record = view.facts.record;
  if (record !== null && record.orphanIds.length > 0) {
    conditions.push(condition('OrphansPresent', 'True', 'OrphanedVM', `${record.orphanIds.length} microVMs on the host belong to no object; they are listed in status.orphans`));
  } else if (record !== null) {
    conditions.push(condition('OrphansPresent', 'False', 'NoOrphans', 'every microVM on the host belongs to an object'));
  }
  conditions.push(...deriveDrained(view.host, view.facts.emptying, view.isHeard));
  if (view.host.metadata.deletionTimestamp !== undefined) conditions.push(deriveDeletionBlocked(view));
  return conditions;
}

const notEnrolled = 'no machine is enrolled under this name: make an EnrollmentToken and enroll one';

function silentMessage(record: HostRecord): string {
  return record.lastBeatAtMs === null
    ? 'the machine is enrolled and its agent was not heard yet'
    : `the host was last heard at ${formatTime(record.lastBeatAtMs)}`;
}

/** What a person can type; namespace and name are the object's own. */
function kubectl(host: Host, command: string): string {
  return `kubectl -n ${host.metadata.namespace} ${command}`;
}

function approvalMessage(host: Host): string {
  return `the Site asks for an approval: set spec.approved to true, such as by ${kubectl(host, `patch nkhost ${host.metadata.name} --type merge -p '{"spec":{"approved":true}}'`)}`;
}

const quarantineCauses: Readonly<Record<QuarantineReason, string>> = {
  CertificateReplayed: 'an older certificate of this host was used after a newer one, as by a copy or an old backup of its state directory',
  OtherMachine: 'two machines with different machine-ids used the identity of this host at one time',
  BootReturned: 'two machines took turns with the identity of this host',
  AgentReturned: 'two agents on one machine used copies of one state directory: stop one of them and remove its copy first',
};

function describeClaim(claim: HostClaim): string {
  const from = claim.address === '' ? '' : `, from ${claim.address}`;
  return `${claim.id} (machine-id ${claim.machineId || 'none'}, boot ${claim.bootId || 'unknown'}${from})`;
}

function quarantineMessage(host: Host, { quarantine }: HostRecord): string {
  if (quarantine === null) return 'two machines use the identity of this host; delete the Host and enroll the genuine one again';
  const keep = kubectl(host, `annotate --overwrite nkhost ${host.metadata.name} ${acceptClaimAnnotation}=<claim>`);
  return `${quarantineCauses[quarantine.reason]}; its microVMs go on; claims: ${quarantine.claims.map(describeClaim).join(', ')}; let one in again with ${keep}`;
}

function deriveReady(view: HostView): DerivedCondition {
  const { facts: { record, site }, isHeard, isApproved } = view;
  if (site === null) return condition('Ready', 'False', 'SiteNotFound', 'spec.siteRef names no Site of this namespace');
  if (record === null) return condition('Ready', 'False', 'NotEnrolled', notEnrolled);
  if (record.isRevoked) return condition('Ready', 'False', 'Revoked', 'the identity of the host was revoked');
  if (record.isQuarantined) return condition('Ready', 'False', 'Quarantined', quarantineMessage(view.host, record));
  if (!isApproved) return condition('Ready', 'False', 'NotApproved', approvalMessage(view.host));
  if (!isHeard) return condition('Ready', 'Unknown', 'HostSilent', silentMessage(record));
  if (!isHypervisorUsable(record.facts.hypervisor)) return condition('Ready', 'False', 'HypervisorMissing', hypervisorProblem(record));
  return condition('Ready', 'True', 'HostConnected', 'the host is heard and can run microVMs');
}

function deriveEnrolled({ host, facts: { record, nowMs }, isHeard }: HostView): DerivedCondition {
  if (record === null) return condition('Enrolled', 'False', 'NotEnrolled', notEnrolled);
  if (record.isRevoked) return condition('Enrolled', 'False', 'Revoked', 'the identity of the host was revoked');
  if (record.isQuarantined) return condition('Enrolled', 'False', 'Quarantined', quarantineMessage(host, record));
  const accepted = record.quarantine?.acceptedId;
  if (accepted != null) return condition('Enrolled', 'True', 'CertificateIssued', `claim ${accepted} was accepted; all other certificates are withdrawn when it has used a new one`);
  if (!isHeard && record.certificate !== null && record.certificate.notAfterMs < nowMs) {
    return condition('Enrolled', 'False', 'CertificateExpired', `the certificate expired at ${formatTime(record.certificate.notAfterMs)}; the agent recovers it by itself when it comes back in time, see docs/enrollment.md`);
  }
  return condition('Enrolled', 'True', 'CertificateIssued', 'a machine holds the identity of this host');
}

function deriveApproved({ host, facts: { site }, isApproved }: HostView): DerivedCondition {
  if (site === null) return condition('Approved', 'Unknown', 'SiteNotFound', 'spec.siteRef names no Site of this namespace');
  if (site.spec.enrollment?.requireApproval !== true) return condition('Approved', 'True', 'ApprovalNotRequired', 'the Site asks for no approval');
  return isApproved
    ? condition('Approved', 'True', 'Approved', 'spec.approved is true')
    : condition('Approved', 'False', 'NotApproved', approvalMessage(host));
}

function deriveReachable({ facts: { record }, isHeard }: HostView): DerivedCondition {
  if (record === null) return condition('Reachable', 'False', 'NotEnrolled', notEnrolled);
  return isHeard
    ? condition('Reachable', 'True', 'HostConnected', 'the host is heard')
    : condition('Reachable', 'Unknown', 'HostSilent', silentMessage(record));
}

function deriveHypervisor({ facts: { record }, isHeard }: HostView): DerivedCondition {
  if (record === null) return condition('HypervisorReady', 'False', 'NotEnrolled', notEnrolled);
  if (!isHeard) return condition('HypervisorReady', 'Unknown', 'HostSilent', silentMessage(record));
  if (!isHypervisorUsable(record.facts.hypervisor)) return condition('HypervisorReady', 'False', 'HypervisorMissing', hypervisorProblem(record));
  return condition('HypervisorReady', 'True', 'HypervisorUsable', `${record.facts.hypervisor.kind} ${record.facts.hypervisor.version}`);
}

function hypervisorProblem({ facts: { hypervisor } }: HostRecord): string {
  return hypervisor.problem === '' ? 'there is no usable Cloud Hypervisor on the host' : hypervisor.problem;
}

function deriveDeletionBlocked({ host, facts: { record, emptying }, isHeard }: HostView): DerivedCondition {
  const bound = record?.allocated.microvms ?? 0;
  if (bound === 0) return condition('DeletionBlocked', 'False', 'NotBlocked', 'no microVM is bound to the host');
  const blocked = emptying?.blocked ?? [];
  const force = `to give the machine up with all that is on it, annotate it with nkudo.dev/force-delete=${host.metadata.uid}`;
  if (isHeard && bound > blocked.length) return condition('DeletionBlocked', 'True', 'MicroVMsLeaving', `${bound} microVMs are bound to the host, and ${bound - blocked.length} of them leave it`);
  const why = blocked.length > 0 ? describeBlocked(blocked) : 'the host is silent';
  return condition('DeletionBlocked', 'True', 'MicroVMsBound', `${bound} microVMs are bound to the host: ${why}; ${force}`);
}

/** Whole mebibytes, rounded down: what a kernel reports is hardly ever a round number, and nobody plans by less. */
function readableMemory(bytes: number): string {
  return formatQuantity(Math.floor(bytes / mebibyte) * mebibyte);
}

function projectRecord(record: HostRecord): HostStatus {
  const { facts } = record;
  const total = { cpuCount: facts.cpuCount, memoryBytes: facts.memoryBytes, reservedCpus: record.reservedCpus, reservedMemoryBytes: record.reservedMemoryBytes, ...overcommitOf(record) };
  const free = allocatable(total);
  return {
    hostID: record.hostId,
    capacity: { cpus: facts.cpuCount, memory: readableMemory(facts.memoryBytes) },
    allocatable: { cpus: free.cpus, memory: readableMemory(free.memoryBytes) },
    allocated: {
      cpus: record.allocated.cpus,
      memory: formatQuantity(record.allocated.memoryBytes),
      microvms: record.allocated.microvms,
    },
    facts: {
      hasKVM: facts.hasKvm,
      ...text('hostName', facts.hostName),
      ...text('architecture', facts.architecture),
      ...text('cpuModel', facts.cpuModel),
      ...text('kernelVersion', facts.kernel),
      ...text('machineID', facts.machineId),
      ...projectHardware(facts),
    },
    ...text('agentVersion', facts.agentVersion),
    hypervisor: { kind: facts.hypervisor.kind, ...text('version', facts.hypervisor.version), ...text('problem', facts.hypervisor.problem) },
    ...text('bootID', facts.bootId),
    ...(record.certificate === null
      ? {}
      : { certificate: { serial: record.certificate.serial, notAfter: formatTime(record.certificate.notAfterMs) } }),
    ...(record.orphanIds.length === 0 ? {} : { orphans: record.orphanIds.slice(0, orphansMax).map((uid) => ({ uid })) }),
  };
}

/** Bound of the CRD for each list. */
const devicesMax = 16;
const hugepagesMax = 8;

/** Details for people; what is beyond the bounds, and the features of the processor, are in the facts of the database only. */
function projectHardware({ hardware, isolation, clockSkewMs }: HostRecord['facts']): NonNullable<HostStatus['facts']> {
  const machine =
    hardware === undefined
      ? {}
      : {
          numaNodes: hardware.numaNodes.slice(0, devicesMax).map(({ id, cpus, memoryBytes }) => ({ id, cpus: cpus.slice(0, nameMax), memory: readableMemory(memoryBytes) })),
          hugepages: hardware.hugepages.slice(0, hugepagesMax).map(({ pageBytes, total, free }) => ({ pageSize: formatQuantity(pageBytes), total, free })),
          disks: hardware.disks.slice(0, devicesMax).map(({ name, sizeBytes, isRotational }) => ({ name, size: readableMemory(sizeBytes), rotational: isRotational })),
          networkDevices: hardware.nics.slice(0, devicesMax).map(({ name, mac, speedMbps, driver, isUp }) => ({ name, mac, ...(speedMbps === 0 ? {} : { speedMbps }), ...text('driver', driver), up: isUp })),
          gpus: hardware.gpus.slice(0, devicesMax).map(({ address, vendor, device, driver }) => ({ address, vendor, device, ...text('driver', driver) })),
          stateSize: readableMemory(hardware.stateTotalBytes),
          stateFree: readableMemory(hardware.stateFreeBytes),
        };
  return {
    ...machine,
    ...(isolation === undefined ? {} : { isolation: { ...isolation, limits: [...isolation.limits], problems: [...isolation.problems] } }),
    ...(clockSkewMs === undefined ? {} : { clockSkewSeconds: Math.round(clockSkewMs / 1_000) }),
  };
}

const nameMax = 128;

/** An empty text is one that the agent could not find out: left out. */
function text<Name extends string>(name: Name, value: string): { readonly [Key in Name]?: string } {
  return value === '' ? {} : ({ [name]: value } as { readonly [Key in Name]?: string }); // A computed key widens to string.
}
