/**
 * Projects one look into the observation that is reported. Pure. Two looks that tell a reader the
 * same give equal contents, so that nothing is sent or written at rest.
 */
import { errorCatalogue, isErrorCode } from '#api/model/error-codes.ts';
import { downloadingCode, type MicroVMObservation, type ObservedState, type ObservedWarning } from '#api/model/microvm.ts';
import { isBehindDirectory, waitsForLease, type Decision } from './diff.ts';
import { disksKey } from './images.ts';
import { compareMachine, isSecretChanged, observedSizes, seenMachine } from './machine-change.ts';
import type { View } from './observed-state.ts';
import { hasReadiness, pendingReadiness } from './probes.ts';
import { isCrashLooping } from './restart-policy.ts';

const behindDirectory = { code: 'STALE_OPERATION', message: 'the directory of the microVM knows a later operation than the journal; a new change of the specification resolves it' } as const;

const withoutLease = { code: 'WAITING_FOR_LEASE', message: 'it may be replaced elsewhere, so it is started only under a lease of this host, and none was confirmed' } as const;

export type ObservationContent = Omit<MicroVMObservation, 'sequence' | 'observedAtMs'>;

/** The state that a look and the decision on it stand for. */
export function classify(view: View, decision: Decision): ObservedState {
  const { record, vmm } = view;
  if (decision.kind === 'gone' || record.isTombstone) return 'absent';
  if (record.isDeleting) return 'removing';
  switch (vmm.kind) {
    case 'live':
      if (record.run.stop !== undefined) return 'stopping';
      if (vmm.api === 'running' || vmm.api === 'paused') return vmm.api;
      return vmm.api === 'unreachable' ? 'unknown' : 'booting';
    case 'starting':
      return 'preparing';
    case 'absent':
    case 'exited':
      return classifyDown(view, decision);
  }
}

function classifyDown(view: View, decision: Decision): ObservedState {
  if (decision.kind === 'wait' && decision.for === 'restart') return 'backoff';
  // Another try of an image that failed is no news until it succeeds.
  if (decision.kind === 'wait' && (decision.for === 'retry' || (decision.for === 'images' && view.attempt.failed !== undefined))) {
    const code = view.attempt.failed?.problem.code ?? '';
    return isErrorCode(code) && errorCatalogue[code].retry === 'backoff' ? 'backoff' : 'failed';
  }
  if (decision.kind === 'done' || (decision.kind === 'wait' && decision.for === 'lease')) return 'stopped';
  // An end that is about to be counted, or a restart that is due now.
  return view.record.run.phase === 'starting' || view.record.run.phase === 'idle' ? 'preparing' : 'backoff';
}

export function projectObservation(view: View, state: ObservedState): ObservationContent {
  const { record, vmm, attempt, now } = view;
  const { run, desired } = record;
  const isUp = vmm.kind === 'live' && (vmm.api === 'running' || vmm.api === 'paused');
  const isRestartRequired = isUp && compareMachine(record, seenMachine(vmm)).kind === 'restart';
  const { site } = record;
  const warnings = [...downloadWarnings(view), ...(attempt.networkWarnings?.warnings ?? [])];
  const problem = isBehindDirectory(view) ? behindDirectory : waitsForLease(view) ? withoutLease : (attempt.failed?.problem ?? record.problem);
  return {
    microvmId: record.microvmId,
    epoch: record.epoch,
    revision: record.revision,
    generation: record.generation,
    state,
    ...(isUp && run.bootedAtMs !== undefined ? { bootedAtMs: run.bootedAtMs } : {}),
    restarts: run.restarts,
    isCrashLooping: desired !== null && isCrashLooping(run, desired.restart, now),
    isRestartRequired,
    ...(isRestartRequired && isSecretChanged(record, seenMachine(vmm)) ? { isSecretChanged: true } : {}),
    ...(isUp && desired !== null ? observedSizes(desired, seenMachine(vmm)) : {}),
    ...(run.lastExit === undefined ? {} : { lastExit: run.lastExit }),
    ...(problem === undefined || state === 'absent' ? {} : { problem }),
    ...(state === 'running' && hasReadiness(desired?.probes) ? { readiness: view.health?.readiness ?? pendingReadiness } : {}),
    ...(warnings.length === 0 || state === 'absent' || state === 'removing' ? {} : { warnings }),
    ...(site?.override === undefined || state === 'absent' ? {} : { siteOverride: site.override }),
    ...(site === undefined || site.untold.length === 0 ? {} : { siteOrders: site.untold }),
    ...(site === undefined || site.lost === 0 ? {} : { siteOrdersLost: site.lost }),
  };
}

function downloadWarnings({ record, attempt }: View): readonly ObservedWarning[] {
  const { disksPending, failed } = attempt;
  if (disksPending === undefined || failed !== undefined || disksPending.for !== disksKey(record)) return [];
  return [{ code: downloadingCode, message: `fetching the image of ${disksPending.progress}` }];
}

/** Whether a reader would learn nothing from the second. */
export function isSameContent(a: ObservationContent, b: ObservationContent): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
