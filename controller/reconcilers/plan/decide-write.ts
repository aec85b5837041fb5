/**
 * What an action of a plan has to do to the live object. Pure.
 *
 * A create never changes an object and a change never makes one: every action but Create names the UID, and after an
 * unknown outcome the object itself tells. The annotation says which plan created it; the hash of the spec says
 * whether a change was made.
 */
import type { MicroVM } from '#crds/gen/microvm.ts';
import { errorCatalogue, type ErrorCode } from '#api/model/error-codes.ts';
import type { PlanError, RequestedAction } from '#controller/ports/plan-store.ts';

/** Its value is the id of the plan that created the object. */
export const planAnnotation = 'nkudo.dev/plan';
/** Sets what a create brings. */
export const planManager = 'nkudo-plan';
/** Owns spec.runPolicy and nothing else. */
export const powerManager = 'nkudo-plan-power';

/** Policies under which a microVM starts by itself. */
const selfStarting: ReadonlySet<string> = new Set(['Always', 'RerunOnFailure']);
const defaultRunPolicy = 'Always';

type RunPolicy = NonNullable<MicroVM['spec']['runPolicy']>;

export type WriteDecision =
  | { readonly write: 'create'; readonly body: object }
  | { readonly write: 'power'; readonly runPolicy: RunPolicy; readonly before: MicroVM }
  | { readonly write: 'delete'; readonly before: MicroVM }
  /** It was written before its outcome was recorded. */
  | { readonly write: 'none'; readonly written: MicroVM }
  /** It ends here: nothing has to change, or it can't be done. */
  | { readonly write: 'none'; readonly end: PlanError | null };

export interface WriteInput {
  /** Null in a dry run. */
  readonly planId: string | null;
  readonly namespace: string;
  readonly siteName: string;
  readonly action: RequestedAction;
  readonly live: MicroVM | null;
  /** An attempt may have been made already: hash of the spec that it would have made. */
  readonly attempted: { readonly specHash: string | null } | null;
  readonly hash: (spec: object) => string;
  /** What a plan's stop took away; null when no plan stopped it. */
  readonly restoredRunPolicy: string | null;
}

export const refused = (code: ErrorCode, message: string): WriteDecision => ({ write: 'none', end: { code, message } });

export function decideWrite(input: WriteInput): WriteDecision {
  const { action, live } = input;
  if (action.kind === 'Create') return decideCreate(input);
  const isThere = live !== null && live.metadata.uid === action.uid;
  if (!isThere) {
    // Only our own delete can have taken it away under an intent of ours.
    if (action.kind === 'Delete' && input.attempted !== null) return { write: 'none', end: null };
    return refused('NOT_FOUND', `there is no MicroVM ${action.name} with the uid ${action.uid} in this namespace`);
  }
  if (live.spec.siteRef.name !== input.siteName) {
    return refused('INVALID_REQUEST', `the MicroVM ${action.name} belongs to site ${live.spec.siteRef.name}, not to ${input.siteName}`);
  }
  const isDeleting = live.metadata.deletionTimestamp !== undefined;
  if (action.kind === 'Delete') {
    if (!isDeleting) return { write: 'delete', before: live };
    return input.attempted === null ? { write: 'none', end: null } : { write: 'none', written: live };
  }
  if (isDeleting) return refused('CONFLICT', `the MicroVM ${action.name} is being deleted`);
  if (input.attempted !== null && input.attempted.specHash === input.hash(live.spec)) return { write: 'none', written: live };
  return action.kind === 'Stop' ? decideStop(live) : decideStart(live, input.restoredRunPolicy);
}

function decideCreate({ action, live, planId, namespace }: WriteInput): WriteDecision {
  if (live === null) return { write: 'create', body: withPlan(action, namespace, planId) };
  if (planId !== null && live.metadata.annotations?.[planAnnotation] === planId) return { write: 'none', written: live };
  return refused('ALREADY_EXISTS', `there is a MicroVM ${action.name} already, which this plan did not make`);
}

/** The object as the caller sent it, with its place and the plan's name on it. */
function withPlan(action: RequestedAction, namespace: string, planId: string | null): object {
  const object = action.object ?? {};
  const metadata = plainObject(object['metadata']);
  const annotations = { ...plainObject(metadata['annotations']), ...(planId === null ? {} : { [planAnnotation]: planId }) };
  return { ...object, metadata: { ...metadata, name: action.name, namespace, annotations } };
}

function plainObject(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {}; // JSON of the request.
}

function decideStop(live: MicroVM): WriteDecision {
  return live.spec.runPolicy === 'Halted' ? { write: 'none', end: null } : { write: 'power', runPolicy: 'Halted', before: live };
}

function decideStart(live: MicroVM, restored: string | null): WriteDecision {
  const present = live.spec.runPolicy ?? defaultRunPolicy;
  if (selfStarting.has(present)) return { write: 'none', end: null };
  const wanted = present === 'Halted' ? (restored ?? defaultRunPolicy) : present;
  if (wanted === 'Always' || wanted === 'RerunOnFailure') return { write: 'power', runPolicy: wanted, before: live };
  return refused(
    'INVALID_REQUEST',
    `the MicroVM ${live.metadata.name} has the run policy ${wanted}, which starts nothing by itself, and start changes spec.runPolicy only: set spec.runPolicy and spec.restartNonce of the object`,
  );
}

/** The spec that a change of the run policy makes, unless something at the API server changes more. */
export function expectedSpec(decision: WriteDecision): object | null {
  return decision.write === 'power' ? { ...decision.before.spec, runPolicy: decision.runPolicy } : null;
}

/** Who set spec fields last, as a sentence for the plan that lost. */
export function describeWinner(object: MicroVM): string {
  const newest = ((object.metadata as ManagedMetadata).managedFields ?? [])
    .filter((entry) => entry.fieldsV1?.['f:spec'] !== undefined && entry.subresource === undefined)
    // Times are whole seconds: within one, it was not the plan that asks who won over it.
    .toSorted((left, right) => (left.time ?? '').localeCompare(right.time ?? '') || Number(isOfPlans(right.manager)) - Number(isOfPlans(left.manager)))
    .at(-1);
  const who = isOfPlans(newest?.manager) ? 'another plan' : `the field manager ${newest?.manager ?? 'unknown'}`;
  return `generation ${object.metadata.generation} of the spec, written by ${who}, took its place`;
}

const isOfPlans = (manager: string | undefined): boolean => manager === planManager || manager === powerManager;

/** What `kubectl apply` without --server-side manages fields as, and where it notes what it was given. */
const clientSideApply = { manager: 'kubectl-client-side-apply', annotation: 'kubectl.kubernetes.io/last-applied-configuration' };

/**
 * Managers that own spec.runPolicy and are not this product's plans. The API server makes whoever creates an object the
 * owner of its defaults too; of `kubectl apply` it can be seen that it never wrote the field and will not put it back.
 */
export function runPolicyManagers(object: MicroVM): readonly string[] {
  const setters = (object.metadata as ManagedMetadata).managedFields ?? [];
  const names = setters.flatMap((entry) => {
    const spec = entry.fieldsV1?.['f:spec'];
    const owns = typeof spec === 'object' && spec !== null && 'f:runPolicy' in spec;
    if (!owns || entry.manager === undefined || isOfPlans(entry.manager)) return [];
    return entry.manager === clientSideApply.manager && hasLeftRunPolicyOut(object) ? [] : [entry.manager];
  });
  return [...new Set(names)];
}

function hasLeftRunPolicyOut(object: MicroVM): boolean {
  try {
    const applied: unknown = JSON.parse(object.metadata.annotations?.[clientSideApply.annotation] ?? '');
    return !('runPolicy' in plainObject(plainObject(applied)['spec']));
  } catch {
    return false; // Nothing is known, so it counts as written.
  }
}

/** What the API server adds to metadata and the generated type leaves out. */
interface ManagedMetadata {
  readonly managedFields?: readonly { readonly manager?: string; readonly time?: string; readonly subresource?: string; readonly fieldsV1?: Readonly<Record<string, unknown>> }[];
}

export function planError(code: ErrorCode, message?: string): PlanError {
  return { code, message: message ?? errorCatalogue[code].meaning };
}
