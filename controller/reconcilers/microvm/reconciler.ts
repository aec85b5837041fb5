/**
 * Reconciles one MicroVM: placement, plan, status, teardown. Level-based: reads everything, trusts no event.
 * The hosts' reports are written by the gateways; this projects them and is the only writer of the status.
 */
import type { MicroVM } from '#crds/gen/microvm.ts';
import { done, runSteps, type Outcome } from '#controller/runtime/outcome.ts';
import type { ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { patchStatus } from '#controller/runtime/status-patch.ts';
import { writerFor } from '../deps.ts';
import { microvmResource, parseMicroVM } from '../kinds.ts';
import { convergenceSteps } from './convergence.ts';
import { deletionSteps } from './deletion.ts';
import { deriveEvents } from './events.ts';
import { loadScope, type MicroVMDeps, type MicroVMScope } from './scope.ts';
import { projectMicroVMStatus } from './status.ts';

export async function reconcileMicroVM(key: ObjectKey, deps: MicroVMDeps): Promise<Outcome> {
  const scope = await loadScope(key, deps);
  if (scope === null) return done();
  const isDeleting = scope.object.metadata.deletionTimestamp !== undefined;
  const outcome = await runSteps(isDeleting ? deletionSteps : convergenceSteps, scope, deps);
  // A fault is nobody's state: what was shown stays until it is known better.
  if (outcome.kind === 'failed' || scope.isReleased) return outcome;
  await writeStatus(scope, deps);
  return lookAgain(outcome, scope.lookAgainMs);
}

/** The earlier of what the outcome says and the given time. */
function lookAgain(outcome: Outcome, afterMs: number | null): Outcome {
  if (afterMs === null) return outcome;
  switch (outcome.kind) {
    case 'done':
      return done(Math.min(outcome.requeueAfterMs ?? Infinity, afterMs));
    case 'waiting':
      return { ...outcome, retryAfterMs: Math.min(outcome.retryAfterMs ?? Infinity, afterMs) };
    case 'stalled':
    case 'failed':
      return outcome;
  }
}

async function writeStatus(scope: MicroVMScope, deps: MicroVMDeps): Promise<void> {
  const { record, obstacle, replacement } = scope;
  const silence = record?.binding == null ? null : deps.silence.of(record.binding.hostId);
  const { eviction, hold, update, secretNote } = scope;
  const facts = { record, obstacle, replacement, eviction, hold, update, secretNote, silence, nowMs: deps.time.nowMs() };
  const writer = writerFor(deps, { resource: microvmResource, parse: parseMicroVM, cache: deps.caches.microvms }, 'k8s.status');
  let before: MicroVM = scope.object;
  const written = await patchStatus(writer, scope.object, (object: MicroVM) => {
    before = object;
    return projectMicroVMStatus(object, facts);
  });
  if (!written.isWritten || written.object === null) return;
  for (const content of deriveEvents(before.status?.conditions, written.object.status?.conditions)) {
    await deps.events.record(microvmResource, written.object, content);
  }
}
