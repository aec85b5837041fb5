/** What an AgentRollout shows, and the events that are worth one. Pure. */
import type { AgentRolloutConditionReason, AgentRolloutConditionType } from '#crds/conditions.ts';
import type { AgentRollout, AgentRolloutStatus } from '#crds/gen/agentrollout.ts';
import type { RingState, RolloutDecision } from '#controller/domain/agent-rollout/model.ts';
import type { WindowState } from '#controller/domain/maintenance/windows.ts';
import type { EventContent } from '#controller/runtime/events.ts';
import { formatTime, stampConditions, type DerivedCondition } from '#controller/runtime/status-patch.ts';

/** Bounds of the CRD; names in a sentence are fewer still. */
const failuresMax = 16;
const namesMax = 5;
const messageMax = 4096;

export interface RolloutFacts {
  readonly decision: RolloutDecision;
  /** Of the rollout itself. */
  readonly window: WindowState | null;
  readonly nowMs: number;
}

export function projectRolloutStatus(rollout: AgentRollout, { decision, window, nowMs }: RolloutFacts): AgentRolloutStatus {
  const { rings, failures, ring } = decision;
  const sum = (count: (state: RingState) => number): number => rings.reduce((total, state) => total + count(state), 0);
  return {
    observedGeneration: rollout.metadata.generation,
    phase: phaseOf(decision),
    ...(ring === null ? {} : { ring }),
    hosts: sum(({ hosts }) => hosts),
    updated: sum(({ updated }) => updated),
    failed: sum(({ failed }) => failed),
    rings: rings.map(({ name, phase, hosts, waiting, updating, soaking, updated, failed, returned, skipped }) => ({ name, phase, hosts, waiting, updating, soaking, updated, failed, returned, skipped })),
    ...(failures.length === 0 ? {} : { failures: failures.slice(0, failuresMax).map(({ host, message }) => ({ host, message })) }),
    conditions: stampConditions(deriveConditions(rollout, decision, window), rollout.status?.conditions, { generation: rollout.metadata.generation, nowMs }),
  };
}

function phaseOf({ reason, returning }: RolloutDecision): NonNullable<AgentRolloutStatus['phase']> {
  switch (reason) {
    case 'AllRingsPassed':
      return 'Complete';
    case 'RingUnderWay':
      return 'Progressing';
    case 'Paused':
      return 'Paused';
    case 'Stopped':
    case 'RollBackAsked':
      return returning.length > 0 ? 'RollingBack' : 'RolledBack';
    default:
      return 'Waiting';
  }
}

function condition<Type extends AgentRolloutConditionType>(type: Type, status: DerivedCondition['status'], reason: AgentRolloutConditionReason<Type>, message: string): DerivedCondition {
  return { type, status, reason, message: message.slice(0, messageMax) };
}

function deriveConditions(rollout: AgentRollout, decision: RolloutDecision, window: WindowState | null): DerivedCondition[] {
  const { reason, failures } = decision;
  const message = describe(rollout, decision, window);
  return [
    condition('Ready', reason === 'AllRingsPassed' ? 'True' : 'False', reason, message),
    reason === 'Stopped'
      ? condition('Failed', 'True', 'HostsFailed', `${rollout.spec.version} failed on ${named(failures.map(({ host, message: why }) => ({ host, problem: why })))}`)
      : condition('Failed', 'False', 'NotFailed', failures.length === 0 ? `${rollout.spec.version} failed nowhere` : `${rollout.spec.version} failed on ${failures.length} hosts, which is no more than may be`),
  ];
}

function describe({ spec, metadata }: AgentRollout, decision: RolloutDecision, window: WindowState | null): string {
  const { reason, ring, rings, returning, waitsFor } = decision;
  const state = rings.find(({ name }) => name === ring);
  const figures = state === undefined ? '' : `${state.updated} of ${state.hosts} hosts of ring ${state.name} are updated, ${state.updating} are being updated, ${state.soaking} soak`;
  const waits = waitsFor.length === 0 ? '' : `; waits for ${named(waitsFor)}`;
  const goingBack = returning.length === 0 ? 'the hosts run the version before again' : `still to go back: ${named(returning)}`;
  const again = `kubectl -n ${metadata.namespace} patch nkrollout ${metadata.name} --type merge -p '{"spec":{"retryNonce":${(spec.retryNonce ?? 0) + 1}}}'`;
  switch (reason) {
    case 'AllRingsPassed':
      return `the hosts of all rings run ${spec.version}`;
    case 'RingUnderWay':
      return `${figures}${waits}`;
    case 'Paused':
      return `spec.paused is true; ${figures}`;
    case 'OutsideWindow':
      return window?.kind === 'closed' ? `${figures}; ${window.next === null ? 'no window is to come: look at spec.windows and spec.timeZone' : `window ${window.next.name} opens at ${formatTime(window.next.opensAtMs)}`}` : `${figures}${waits}`;
    case 'SiteHold':
    case 'HostsUnavailable':
      return `${figures}${waits}`;
    case 'RingEmpty':
      return `ring ${ring ?? ''} has no host: look at its sites and hostSelector, and at spec.agent of the Hosts`;
    case 'HostsReturned':
      return `${figures}, and others were given back the version before; begin anew with ${again}`;
    case 'ReleaseUnknown':
      return `nobody said where the manifest of ${spec.version} is: set spec.manifestURL, or NKUDO_AGENT_RELEASES of the controller`;
    case 'Stopped':
      return `the rollout stopped in ring ${ring ?? ''}; ${goingBack}; set another version, or begin anew with ${again}`;
    case 'RollBackAsked':
      return `spec.rollBack is true; ${goingBack}`;
  }
}

function named(hosts: readonly { readonly host: string; readonly problem: string }[]): string {
  const shown = hosts.slice(0, namesMax).map(({ host, problem }) => (problem === '' ? host : `${host} (${problem})`));
  return hosts.length > namesMax ? `${shown.join(', ')} and ${hosts.length - namesMax} more` : shown.join(', ');
}

/** For what a person should hear of: a ring that is over, a stop, an end. Null: nothing of that. */
export function deriveEvent(before: AgentRollout, after: AgentRollout): EventContent | null {
  const reasonOf = (rollout: AgentRollout): string | undefined => rollout.status?.conditions?.find(({ type }) => type === 'Ready')?.reason;
  const note = after.status?.conditions?.find(({ type }) => type === 'Ready')?.message ?? '';
  const reason = reasonOf(after);
  if (reason !== reasonOf(before)) {
    if (reason === 'Stopped') return { type: 'Warning', reason, action: 'RollBack', note: `${after.status?.conditions?.find(({ type }) => type === 'Failed')?.message ?? ''}; ${note}` };
    if (reason === 'RollBackAsked') return { type: 'Normal', reason, action: 'RollBack', note };
    if (reason === 'AllRingsPassed') return { type: 'Normal', reason, action: 'Update', note };
  }
  const passedBefore = new Set((before.status?.rings ?? []).filter(({ phase }) => phase === 'Passed').map(({ name }) => name));
  const passed = (after.status?.rings ?? []).find(({ name, phase }) => phase === 'Passed' && !passedBefore.has(name));
  return passed === undefined ? null : { type: 'Normal', reason: 'RingPassed', action: 'Update', note: `${passed.updated ?? 0} of ${passed.hosts ?? 0} hosts of ring ${passed.name} run ${after.spec.version}` };
}
