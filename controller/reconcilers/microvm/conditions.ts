/** The conditions of a MicroVM and the one word that sums them up. Pure; types and reasons are those of crds/conditions.ts. */
import { errorCatalogue, isErrorCode, type ErrorCode } from '#api/model/error-codes.ts';
import { downloadingCode, type MicroVMObservation } from '#api/model/microvm.ts';
import { formatSiteOperator, type SiteOverride } from '#api/model/site-orders.ts';
import { hostFailureReasons, microvmConditions, type HostFailureReason, type MicroVMConditionReason, type MicroVMConditionType } from '#crds/conditions.ts';
import type { MicroVMStatus } from '#crds/gen/microvm.ts';
import { formatTime, type DerivedCondition } from '#controller/runtime/status-patch.ts';
import { overrideHoldAnnotation } from '../kinds.ts';
import type { ReplacementFinding } from '../replacement/finding.ts';
import { isUnderWay, type MicroVMView } from './view.ts';

/** Bound of the CRD for messages, with room for our own words around one from a host. */
const hostMessageMax = 900;

function condition<Type extends MicroVMConditionType>(
  type: Type,
  status: DerivedCondition['status'],
  reason: MicroVMConditionReason<Type>,
  message: string,
): DerivedCondition {
  return { type, status, reason, message };
}

export function deriveConditions(view: MicroVMView): DerivedCondition[] {
  const binding = view.record?.binding ?? null;
  const conditions = [
    deriveAccepted(view),
    ...(binding === null ? deriveUnbound(view) : deriveBound(view, binding.hostName)),
  ];
  if (view.obstacle?.condition === 'QuotaDenied') conditions.push(condition('QuotaDenied', 'True', view.obstacle.reason, view.obstacle.message));
  conditions.push(...deriveNetworks(view));
  conditions.push(...deriveEviction(view), ...deriveUpdateHeld(view), ...deriveSiteOverride(view));
  if (view.object.metadata.deletionTimestamp !== undefined) conditions.push(deriveDeletionBlocked(view));
  if (view.replacement !== null) conditions.push(deriveReplaceDisabled(view.replacement));
  return conditions;
}

/** A Secret first: nobody sees its change in the spec. */
function deriveRestartRequired(observation: MicroVMObservation | null): DerivedCondition {
  if (observation?.isRestartRequired !== true) return condition('RestartRequired', 'False', 'UpToDate', 'no restart is needed for the newest spec');
  return observation.isSecretChanged === true
    ? condition('RestartRequired', 'True', 'SecretChanged', 'the guest was started with an older value of the Secret that cloudInit names: change restartNonce to restart it')
    : condition('RestartRequired', 'True', 'SpecChanged', 'the guest runs with an older spec: change restartNonce to restart it');
}

/** There is none of it while its host is not being emptied. */
function deriveEviction({ eviction }: MicroVMView): DerivedCondition[] {
  return eviction === null ? [] : [condition('EvictionBlocked', eviction.isBlocked ? 'True' : 'False', eviction.reason, eviction.message.slice(0, hostMessageMax))];
}

/** There is none of it before the first update that waited. */
function deriveUpdateHeld({ update, object, obstacle }: MicroVMView): DerivedCondition[] {
  if (obstacle?.condition === 'UpdateHeld') return [condition('UpdateHeld', 'True', obstacle.reason, obstacle.message)];
  if (update !== null) return [condition('UpdateHeld', update.reason === 'NotHeld' ? 'False' : 'True', update.reason, update.message)];
  const wasShown = object.status?.conditions?.some(({ type }) => type === 'UpdateHeld') === true;
  return wasShown ? [condition('UpdateHeld', 'False', 'NotHeld', 'no change waits')] : [];
}

/** There is none of it before the first order of somebody at the site. Of a silent host it says what was heard last. */
function deriveSiteOverride({ observation, record, object }: MicroVMView): DerivedCondition[] {
  const override = observation?.siteOverride;
  if (override !== undefined) return [condition('SiteOverride', 'True', overrideReasons[override.kind], describeOverride(override, record?.binding?.hostName ?? ''))];
  const wasShown = object.status?.conditions?.some(({ type }) => type === 'SiteOverride') === true;
  return wasShown ? [condition('SiteOverride', 'False', 'NoOverride', 'it goes by its spec')] : [];
}

const overrideReasons = { Stopped: 'StoppedAtSite', Held: 'HeldAtSite', ForcedStart: 'ForcedStart' } as const;

function describeOverride(override: SiteOverride, hostName: string): string {
  const { kind, by, atMs, number, acceptsTwoCopies } = override;
  const who = `${formatSiteOperator(by)} on host ${hostName} at ${formatTime(atMs)}`;
  const force = `or by the annotation ${overrideHoldAnnotation}=${number}`;
  switch (kind) {
    case 'Stopped':
      return `stopped by ${who}; it ends there (nkudo-edge vm start), by a new runPolicy or restartNonce, ${force}`;
    case 'Held':
      return `held down by ${who}; it ends there (nkudo-edge vm release), ${force}`;
    case 'ForcedStart':
      return `started by ${who}, ${acceptsTwoCopies === true ? 'without a lease, so that a second copy may run; it ends with the next lease, there' : 'although runPolicy is Halted; it ends there'} (nkudo-edge vm release), by a new runPolicy or restartNonce, ${force}`;
  }
}

/** There is none of it for a microVM that is not to be replaced. */
function deriveReplaceDisabled({ reason, message }: ReplacementFinding): DerivedCondition {
  return condition('ReplaceDisabled', reason === 'NotDisabled' ? 'False' : 'True', reason, message.slice(0, hostMessageMax));
}

function deriveAccepted({ obstacle, secretNote }: MicroVMView): DerivedCondition {
  if (obstacle?.condition === 'Accepted') return condition('Accepted', 'False', obstacle.reason, obstacle.message.slice(0, hostMessageMax));
  const note = secretNote === null ? '' : `; its host goes on with the values that it has: ${secretNote}`;
  return condition('Accepted', 'True', 'Accepted', `the spec can be carried out${note}`.slice(0, hostMessageMax));
}

function deriveUnbound({ obstacle, object }: MicroVMView): DerivedCondition[] {
  const isDeleting = object.metadata.deletionTimestamp !== undefined;
  const message = isDeleting ? 'it is being deleted' : (obstacle?.message ?? 'it is not bound to a host yet');
  const scheduled =
    obstacle?.condition === 'Scheduled' || obstacle?.condition === 'QuotaDenied'
      ? condition('Scheduled', 'False', obstacle.reason, obstacle.message)
      : condition('Scheduled', 'False', 'NotAccepted', message);
  return [
    scheduled,
    condition('ImagesReady', 'Unknown', 'NotScheduled', message),
    condition('Provisioned', 'False', 'NotScheduled', message),
    condition('Running', 'False', 'NotScheduled', message),
    condition('Ready', 'False', isDeleting ? 'Deleting' : readyReason(obstacle?.reason), message),
    condition('Reachable', 'Unknown', 'NotScheduled', message),
  ];
}

/** Ready's reason is the column that people see first, so it names the obstacle itself where it can. */
function readyReason(reason: string | undefined): MicroVMConditionReason<'Ready'> {
  switch (reason) {
    case 'ClassNotFound':
    case 'AdoptionRequired':
    case 'SiteNotFound':
    case 'HostNotFound':
    case 'NoHostFits':
    case 'Preempting':
    case 'RecoveryUnderWay':
    case 'DeletionHeld':
    case 'QuotaExceeded':
    case 'DatabaseUnavailable':
    case 'SpecRefused':
    case 'SecretNotFound':
    case 'SecretNotForGuests':
    case 'SecretKeyNotFound':
    case 'SecretTooLarge':
    case 'AddressesExhausted':
    case 'PortsExhausted':
    case 'AddressOutsideSubnet':
    case 'MeshSubnetMissing':
    case 'PortInUse':
    case 'AddressInUse':
      return reason;
    default:
      return 'NotScheduled';
  }
}

function deriveBound(view: MicroVMView, hostName: string): DerivedCondition[] {
  const { observation, isHeard } = view;
  const conditions = [
    condition('Scheduled', 'True', 'Bound', `it is bound to host ${hostName}`),
    deriveImagesReady(view),
    deriveProvisioned(view, hostName),
    deriveRestartRequired(observation),
    condition(
      'CrashLooping',
      observation?.isCrashLooping === true ? 'True' : 'False',
      observation?.isCrashLooping === true ? 'TooManyFailures' : 'WithinLimit',
      observation?.isCrashLooping === true ? 'it ended more often than restart.maxRetries inside restart.window' : 'it did not end too often',
    ),
  ];
  if (!isHeard) {
    const message = `host ${hostName} is silent, ${lastHeard(view)}; what the microVM does is not known`;
    return [
      ...conditions,
      condition('Running', 'Unknown', 'HostSilent', message),
      condition('Ready', 'Unknown', 'HostSilent', message),
      condition('Reachable', 'Unknown', 'HostSilent', message),
    ];
  }
  const running = deriveRunning(view, hostName);
  return [
    ...conditions,
    condition('Running', running.status, running.reason, running.message),
    running.status === 'True'
      ? deriveReady(view, hostName)
      : condition('Ready', running.status, running.reason === 'Running' || running.reason === 'WaitingForLease' ? 'NotRunning' : running.reason, running.message),
    condition('Reachable', 'True', 'HostConnected', `host ${hostName} is heard`),
  ];
}

/** Of a guest that runs. */
function deriveReady({ record, observation }: MicroVMView, hostName: string): DerivedCondition {
  const { startup, readiness } = record?.desired?.probes ?? {};
  if (startup === undefined && readiness === undefined) return condition('Ready', 'True', 'NoProbe', 'it runs, and no probe asks for more');
  const said = observation?.readiness;
  const message = said?.message.slice(0, hostMessageMax) ?? '';
  switch (said?.status) {
    case 'succeeded':
      return condition('Ready', 'True', 'ProbeSucceeded', message);
    case 'failed':
      return condition('Ready', 'False', 'ProbeFailed', message);
    case 'pending':
      return condition('Ready', 'False', 'ProbePending', message);
    case 'impossible':
      return condition('Ready', 'False', 'ProbeImpossible', message);
    case 'notProbed':
      return condition('Ready', 'Unknown', 'ProbeUnknown', message);
    case undefined:
      return condition('Ready', 'Unknown', 'ProbeUnknown', `host ${hostName} has not said yet what its probes find`);
  }
}

interface Problem {
  readonly reason: HostFailureReason;
  readonly message: string;
  /** What a person can do; empty when nothing is to be done or nothing is known. */
  readonly remedy: string;
}

/** The host's own word for a problem, as the conditions say it. */
function toProblem({ code, message }: { readonly code: string; readonly message: string }): Problem {
  const known = isErrorCode(code) ? errorCatalogue[code] : null;
  const reason = hostFailureReasons.find((candidate) => candidate === known?.reason) ?? 'InternalError';
  return { reason, message: message.slice(0, hostMessageMax), remedy: known?.remedy ?? '' };
}

function problemOf(observation: MicroVMObservation | null): Problem | null {
  // To wait for the lease is no failure: Running says it.
  if (observation?.problem === undefined || waitsForLease(observation)) return null;
  return toProblem(observation.problem);
}

function waitsForLease(observation: MicroVMObservation | null): boolean {
  return observation?.problem?.code === ('WAITING_FOR_LEASE' satisfies ErrorCode);
}

/** A refusal that ended the operation before the host took anything over; what the host then does on its own it observes. */
function refusalOf({ record, observation }: MicroVMView): Problem | null {
  const newest = record?.newestOperation;
  if (newest == null || newest.status !== 'Failed' || newest.error === null) return null;
  if (observation !== null && observation.revision >= newest.revision) return null;
  return toProblem(newest.error);
}

const fileReasons: ReadonlySet<HostFailureReason> = new Set(['KernelNotFound', 'InitramfsNotFound', 'DiskNotFound', 'PathNotAllowed', 'ImageNotFound', 'ImageUnavailable', 'ImageDigestMismatch', 'ImageRefused', 'ImageAccessDenied', 'ImageToolMissing', 'RegistryNotAllowed', 'DiskFull']);

function deriveImagesReady(view: MicroVMView): DerivedCondition {
  const problem = problemOf(view.observation) ?? refusalOf(view);
  if (problem !== null) return condition('ImagesReady', fileReasons.has(problem.reason) ? 'False' : 'Unknown', problem.reason, problem.message);
  const download = view.observation?.warnings?.find(({ code }) => code === downloadingCode);
  if (download !== undefined) return condition('ImagesReady', 'False', 'Downloading', download.message.slice(0, hostMessageMax));
  if (isUnderWay(view.observation)) return condition('ImagesReady', 'Unknown', 'WaitingForHost', 'the host has not looked for the files yet');
  return condition('ImagesReady', 'True', 'FilesPresent', 'kernel, firmware, initramfs and disks are on the host');
}

/** None without networks. */
function deriveNetworks(view: MicroVMView): DerivedCondition[] {
  const { object, record, obstacle, observation } = view;
  const isAsked = (object.spec.networks ?? []).length > 0 || (record?.desired?.networks ?? []).length > 0;
  if (!isAsked || object.metadata.deletionTimestamp !== undefined) return [];
  const networks = (status: DerivedCondition['status'], reason: MicroVMConditionReason<'NetworksReady'>, message: string): DerivedCondition[] => [condition('NetworksReady', status, reason, message)];
  if (obstacle?.condition === 'NetworksReady') return networks('False', obstacle.reason, `the guest goes on with its old spec: ${obstacle.message}`);
  const binding = record?.binding ?? null;
  if (binding === null) return networks('False', 'NotScheduled', obstacle?.message ?? 'it is not bound to a host yet');
  if (!view.isHeard) return networks('Unknown', 'HostSilent', `host ${binding.hostName} is silent, ${lastHeard(view)}`);
  const problem = problemOf(observation) ?? refusalOf(view);
  if (problem !== null) return networks(networkFailures.has(problem.reason) ? 'False' : 'Unknown', problem.reason, problem.message);
  const warning = observation?.warnings?.find(({ code }) => code !== downloadingCode);
  if (warning !== undefined) return networks('False', warning.code === 'DHCP_UNAVAILABLE' ? 'DHCPUnavailable' : 'HostWarning', `on host ${binding.hostName}: ${warning.message.slice(0, hostMessageMax)}`);
  if (observation?.state === 'running' || observation?.state === 'paused') return networks('True', 'NetworksMade', `host ${binding.hostName} has made them`);
  if (isUnderWay(observation)) return networks('Unknown', 'WaitingForHost', `host ${binding.hostName} makes them`);
  return networks('Unknown', 'NotRunning', 'the guest does not run; they are made sure of with its next start');
}

const networkFailures: ReadonlySet<HostFailureReason> = new Set(['NetworkUnavailable', 'NetworkUnsupported', 'NetworkFailed', 'PortInUse', 'AddressInUse']);

function deriveProvisioned(view: MicroVMView, hostName: string): DerivedCondition {
  if (view.obstacle?.condition === 'NetworksReady') {
    const { reason, message } = view.obstacle;
    if (isProvisionedReason(reason)) return condition('Provisioned', 'False', reason, message);
  }
  const problem = problemOf(view.observation) ?? refusalOf(view);
  if (problem !== null) {
    const remedy = problem.remedy === '' ? '' : `; ${problem.remedy}`;
    return condition('Provisioned', 'False', problem.reason, `on host ${hostName}: ${problem.message}${remedy}`);
  }
  if (view.observation?.state === 'removing') return condition('Provisioned', 'False', 'Deleting', `host ${hostName} removes it`);
  if (isCancelled(view)) return condition('Provisioned', 'False', 'OperationCancelled', 'the plan that wrote this spec was cancelled: it is carried out with the next change of the spec');
  if (isUnderWay(view.observation)) return condition('Provisioned', 'False', 'Provisioning', `host ${hostName} takes it over`);
  return condition('Provisioned', 'True', 'Provisioned', `host ${hostName} has taken it over`);
}

function isProvisionedReason(reason: string): reason is MicroVMConditionReason<'Provisioned'> {
  return microvmConditions.Provisioned.reasons.some((known) => known === reason);
}

/** Nobody carries out this generation: no host was told of it, or the host dropped it, which uses up its revision all the same. */
function isCancelled({ record }: MicroVMView): boolean {
  const newest = record?.newestOperation ?? null;
  return newest?.status === 'Cancelled' && newest.kind !== 'Delete';
}

/** What was cancelled is the only intent that there is, and nothing of it stands on the host. */
function isLeftUnmade(view: MicroVMView): boolean {
  return isCancelled(view) && (view.observation === null || view.observation.state === 'absent');
}

interface Running {
  readonly status: DerivedCondition['status'];
  readonly reason: MicroVMConditionReason<'Running'>;
  readonly message: string;
}

function deriveRunning(view: MicroVMView, hostName: string): Running {
  const { observation } = view;
  const isHalted = view.record?.desired?.runPolicy === 'Halted';
  const problem = problemOf(observation) ?? refusalOf(view);
  const down = (reason: Running['reason'], message: string): Running => ({ status: 'False', reason, message });
  if (waitsForLease(observation)) return down('WaitingForLease', `host ${hostName} starts it once its lease is confirmed`);
  switch (observation?.state) {
    case 'running':
      return { status: 'True', reason: 'Running', message: `the guest runs on host ${hostName}` };
    case 'paused':
      return down('Paused', 'the virtual CPUs stand still');
    case 'stopping':
      return down('Stopping', 'it is being stopped');
    case 'stopped':
      return problem === null ? deriveRest(view, observation) : down(problem.reason, problem.message);
    case 'backoff':
      return problem === null ? down('BackingOff', 'it ended and waits to be started again') : down(problem.reason, problem.message);
    case 'removing':
      return view.record?.binding?.leaving == null ? down('Deleting', `host ${hostName} removes it`) : down('Stopping', `it leaves host ${hostName}`);
    case 'unknown':
      return { status: 'Unknown', reason: problem?.reason ?? 'Unknown', message: problem?.message ?? `host ${hostName} can not look at it` };
    case 'failed':
    case 'absent':
    case 'preparing':
    case 'booting':
    case undefined:
      if (problem !== null) return down(problem.reason, problem.message);
      if (isLeftUnmade(view)) return down('OperationCancelled', 'the plan that wrote this spec was cancelled before anything was made of it');
      return isHalted ? down('Halted', 'runPolicy is Halted') : down('Starting', `host ${hostName} starts it`);
  }
}

/** Why a microVM that is down and has no problem stays down. */
function deriveRest({ record, object, eviction }: MicroVMView, observation: MicroVMObservation): Running {
  const policy = record?.desired?.runPolicy ?? 'Always';
  const rest = (reason: Running['reason'], message: string): Running => ({ status: 'False', reason, message });
  const override = observation.siteOverride;
  if (override?.kind === 'Held' || override?.kind === 'Stopped') return rest(overrideReasons[override.kind], describeOverride(override, record?.binding?.hostName ?? ''));
  if (policy === 'Halted' && eviction !== null && object.spec.runPolicy !== 'Halted') return rest('HostDrained', eviction.message);
  if (policy === 'Halted') return rest('Halted', 'runPolicy is Halted');
  const exit = observation.lastExit;
  if (exit === undefined) return policy === 'Manual' ? rest('Manual', 'runPolicy is Manual: change restartNonce to start it') : rest('Starting', 'it is about to be started');
  if (policy === 'Always') return rest('Starting', `it ended (${exit.reason}) and is about to be started again`);
  if (policy !== 'Manual' && exit.reason === 'GuestShutdown') return rest('Completed', 'the guest shut itself down');
  return rest(exit.reason, `it ended (${exit.reason}), which is final under runPolicy ${policy}`);
}

function lastHeard({ lastBeatAtMs }: MicroVMView): string {
  return lastBeatAtMs === null ? 'it was not heard yet' : `it was last heard at ${formatTime(lastBeatAtMs)}`;
}

function deriveDeletionBlocked(view: MicroVMView): DerivedCondition {
  const { record, object } = view;
  const binding = record?.binding ?? null;
  if (view.hold !== null) return condition('DeletionBlocked', 'True', 'DeletionHeld', view.hold);
  if (view.obstacle?.reason === 'RecoveryUnderWay' || view.obstacle?.reason === 'DeletionHeld') return condition('DeletionBlocked', 'True', view.obstacle.reason, `${view.obstacle.message}; to give up, annotate it with nkudo.dev/force-delete=${object.metadata.uid}`);
  if (record === null || record.isTornDown || binding === null) return condition('DeletionBlocked', 'False', 'NotBlocked', 'nothing is left of it');
  const who = `waiting for host ${binding.hostName} to confirm the teardown`;
  if (!view.isHeard) {
    return condition(
      'DeletionBlocked',
      'True',
      'HostSilent',
      `${who}; ${lastHeard(view)}; to give up, annotate it with nkudo.dev/force-delete=${object.metadata.uid}`,
    );
  }
  const problem = problemOf(view.observation);
  return problem === null
    ? condition('DeletionBlocked', 'True', 'TeardownRunning', who)
    : condition('DeletionBlocked', 'True', problem.reason, `${who}: ${problem.message}`);
}

export function derivePrintableStatus(view: MicroVMView): NonNullable<MicroVMStatus['printableStatus']> {
  const { object, record, observation } = view;
  if (object.metadata.deletionTimestamp !== undefined) return 'Deleting';
  if (record?.binding == null) {
    if (view.obstacle?.condition === 'Accepted') return 'Rejected';
    return view.obstacle === null || view.obstacle.reason === 'NotAccepted' ? 'Pending' : 'Unschedulable';
  }
  if (!view.isHeard) return 'Unknown';
  const isHalted = record.desired?.runPolicy === 'Halted';
  const hasProblem = problemOf(observation) !== null || refusalOf(view) !== null;
  switch (observation?.state) {
    case 'running':
      return 'Running';
    case 'paused':
      return 'Paused';
    case 'stopping':
      return 'Stopping';
    case 'removing':
      return record.binding.leaving == null ? 'Deleting' : 'Stopping';
    case 'unknown':
      return 'Unknown';
    case 'failed':
      return 'Failed';
    case 'backoff':
      if (observation.isCrashLooping) return 'CrashLooping';
      return hasProblem ? 'Failed' : 'Restarting';
    case 'stopped': {
      if (hasProblem) return 'Failed';
      const { reason } = deriveRest(view, observation);
      return reason === 'Completed' ? 'Completed' : reason === 'Starting' ? 'Restarting' : 'Stopped';
    }
    case 'absent':
    case 'preparing':
    case 'booting':
    case undefined:
      if (hasProblem) return 'Failed';
      return isHalted || isLeftUnmade(view) ? 'Scheduled' : 'Starting';
  }
}
