/**
 * Writes the status of an object: once, only when it differs, and only onto the version that it was derived
 * from. After a conflict the status is derived again from the object as it is now, never forced.
 *
 * Owns conditions' transition times. What the status says is the reconciler's.
 */
import { isDeepStrictEqual } from 'node:util';
import { isConflict, isNotFound, keyOf, type KubernetesApi, type KubernetesObject, type Resource } from './kubernetes-api.ts';

/** A conflict means that somebody else wrote; more than a few in a row belong to the queue's back-off. */
const attemptsMax = 3;

export interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly observedGeneration?: number;
  readonly lastTransitionTime: string;
  readonly reason: string;
  readonly message: string;
}

/** A condition before its transition time is known. */
export type DerivedCondition = Omit<Condition, 'lastTransitionTime' | 'observedGeneration'>;

export interface ObjectWithStatus<Status> extends KubernetesObject {
  readonly status?: Status;
}

export interface StatusWriter<Type extends KubernetesObject> {
  readonly api: KubernetesApi;
  readonly resource: Resource;
  /** Reads an answer of the server. */
  readonly parse: (object: KubernetesObject) => Type | null;
  /** Called with each newer version seen. */
  readonly assume: (object: Type) => void;
  /** Wraps the one durable write. */
  readonly around: (write: () => Promise<KubernetesObject>) => Promise<KubernetesObject>;
}

export interface StatusWrite<Type> {
  /** The object as it is now; null when it is gone or is another one. */
  readonly object: Type | null;
  readonly isWritten: boolean;
}

/**
 * `project` is pure and may be called again with a newer version of the object. Throws what the server says, a
 * conflict only after several in a row.
 */
export async function patchStatus<Status, Type extends ObjectWithStatus<Status>>(
  writer: StatusWriter<Type>,
  seen: Type,
  project: (object: Type) => Status,
): Promise<StatusWrite<Type>> {
  let object = seen;
  for (let attempt = 1; ; attempt += 1) {
    const status = project(object);
    if (isDeepStrictEqual(withoutUndefined(status), object.status ?? {})) return { object, isWritten: false };
    try {
      const body = {
        apiVersion: apiVersionOf(writer.resource),
        kind: writer.resource.kind,
        metadata: { ...keyAsMetadata(object), uid: object.metadata.uid, resourceVersion: object.metadata.resourceVersion },
        status,
      };
      const written = await writer.around(() =>
        writer.api.patch(writer.resource, keyOf(object), body, { type: 'apply', subresource: 'status' }),
      );
      const parsed = writer.parse(written);
      if (parsed !== null) writer.assume(parsed);
      return { object: parsed, isWritten: true };
    } catch (error) {
      if (isNotFound(error)) return { object: null, isWritten: false };
      if (!isConflict(error) || attempt >= attemptsMax) throw error;
      const live = await writer.api.get(writer.resource, keyOf(object));
      const parsed = live === null || live.metadata.uid !== object.metadata.uid ? null : writer.parse(live);
      if (parsed === null) return { object: null, isWritten: false };
      writer.assume(parsed);
      object = parsed;
    }
  }
}

export function apiVersionOf(resource: Resource): string {
  return resource.group === '' ? resource.version : `${resource.group}/${resource.version}`;
}

function keyAsMetadata(object: KubernetesObject): { readonly name: string; readonly namespace?: string } {
  const { name, namespace } = object.metadata;
  return namespace === undefined ? { name } : { name, namespace };
}

/** What the server would store: JSON has no undefined. */
function withoutUndefined(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}

/** Gives each condition the time at which its status changed last; sorted by type, so that order says nothing. */
export function stampConditions(
  derived: readonly DerivedCondition[],
  previous: readonly Condition[] | undefined,
  now: { readonly generation: number | undefined; readonly nowMs: number },
): Condition[] {
  const before = new Map((previous ?? []).map((condition) => [condition.type, condition]));
  return derived
    .map((condition) => {
      const old = before.get(condition.type);
      const lastTransitionTime = old?.status === condition.status ? old.lastTransitionTime : formatTime(now.nowMs);
      return {
        type: condition.type,
        status: condition.status,
        ...(now.generation === undefined ? {} : { observedGeneration: now.generation }),
        lastTransitionTime,
        reason: condition.reason,
        message: condition.message,
      };
    })
    .sort((left, right) => (left.type < right.type ? -1 : 1));
}

/** RFC 3339 to the second, as Kubernetes' Time wants it. */
export function formatTime(epochMs: number): string {
  return new Date(Math.floor(epochMs / 1000) * 1000).toISOString().replace('.000Z', 'Z');
}

/**
 * Adds or takes away one finalizer, on exactly the version that was seen.
 * @throws an error of isConflict when the object changed meanwhile
 */
export async function writeFinalizers<Type extends KubernetesObject>(
  writer: StatusWriter<Type>,
  object: Type,
  finalizers: readonly string[],
): Promise<Type | null> {
  const body = { metadata: { uid: object.metadata.uid, resourceVersion: object.metadata.resourceVersion, finalizers } };
  try {
    const written = writer.parse(await writer.around(() => writer.api.patch(writer.resource, keyOf(object), body, { type: 'merge' })));
    // Without its last finalizer it is gone, and the watch may have said so already: it must not come back into the cache.
    if (written !== null && !isGone(written)) writer.assume(written);
    return written;
  } catch (error) {
    if (isNotFound(error)) return null;
    if (isConflict(error)) await refresh(writer, object);
    throw error;
  }
}

function isGone({ metadata }: KubernetesObject): boolean {
  return metadata.deletionTimestamp !== undefined && (metadata.finalizers ?? []).length === 0;
}

async function refresh<Type extends KubernetesObject>(writer: StatusWriter<Type>, object: Type): Promise<void> {
  const live = await writer.api.get(writer.resource, keyOf(object));
  const parsed = live === null ? null : writer.parse(live);
  if (parsed !== null) writer.assume(parsed);
}

