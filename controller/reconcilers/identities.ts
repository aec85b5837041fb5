/**
 * Objects of another cluster under the identity that they had: UID and generation of a rebound Namespace or Site and of an
 * adopted MicroVM are those that hosts and rows know, and turned back in everything that is written. Nothing beyond
 * this view knows that there are two. Without identities everything passes as it is.
 */
import type { ObjectIdentity } from '#controller/ports/identity-store.ts';
import type { KubernetesApi, KubernetesObject, WatchEvent } from '#controller/runtime/kubernetes-api.ts';
import { forceDeleteAnnotation } from './kinds.ts';

export interface Identities {
  /** Takes one more in; seen from the next read of its object on. */
  add(identity: ObjectIdentity): void;
  /** The identity of the object with that UID, as the API server gave it. */
  ofObject(objectUid: string): ObjectIdentity | undefined;
  /** The object that stands for that UID. */
  objectOf(uid: string): ObjectIdentity | undefined;
}

export function createIdentities(initial: readonly ObjectIdentity[]): Identities {
  const byObject = new Map<string, ObjectIdentity>();
  const byUid = new Map<string, ObjectIdentity>();
  const add = (identity: ObjectIdentity): void => {
    byObject.set(identity.objectUid, identity);
    byUid.set(identity.uid, identity);
  };
  for (const identity of initial) add(identity);
  return { add, ofObject: (uid) => byObject.get(uid), objectOf: (uid) => byUid.get(uid) };
}

/** The same set of rebound namespaces and sites; adoptions come one by one while reconcilers run. */
export function areBindingsEqual(left: readonly ObjectIdentity[], right: readonly ObjectIdentity[]): boolean {
  const key = (identities: readonly ObjectIdentity[]): string =>
    identities.filter(({ kind }) => kind !== 'MicroVM').map(({ kind, objectUid, uid }) => `${kind} ${objectUid} ${uid}`).toSorted().join();
  return key(left) === key(right);
}

export function viewIdentities(api: KubernetesApi, identities: Identities): KubernetesApi {
  const seen = (object: KubernetesObject): KubernetesObject => {
    const identity = identities.ofObject(object.metadata.uid);
    return identity === undefined ? object : toLogical(object, identity);
  };
  const realUid = (uid: string): string => identities.objectOf(uid)?.objectUid ?? uid;
  const sent = (body: object): object => {
    const metadata = 'metadata' in body ? (body.metadata as { readonly uid?: string }) : undefined; // Bodies are made in this program.
    const identity = metadata?.uid === undefined ? undefined : identities.objectOf(metadata.uid);
    return identity === undefined ? body : toReal(body, identity);
  };
  async function* watch(...args: Parameters<KubernetesApi['watch']>): AsyncGenerator<WatchEvent> {
    for await (const event of api.watch(...args)) yield event.type === 'BOOKMARK' ? event : { ...event, object: seen(event.object) };
  }
  return {
    list: async (...args) => {
      const page = await api.list(...args);
      return { ...page, items: page.items.map(seen) };
    },
    watch,
    get: async (...args) => {
      const object = await api.get(...args);
      return object === null ? null : seen(object);
    },
    create: async (resource, key, body, options) => seen(await api.create(resource, key, regarding(body, realUid), options)),
    patch: async (resource, key, body, options) => seen(await api.patch(resource, key, sent(body), options)),
    delete: (resource, key, uid, options) => api.delete(resource, key, realUid(uid), options),
  };
}

type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields => typeof value === 'object' && value !== null && !Array.isArray(value);

function toLogical(object: KubernetesObject, { objectUid, uid, generationBase }: ObjectIdentity): KubernetesObject {
  const { generation, annotations } = object.metadata;
  const isForced = annotations?.[forceDeleteAnnotation] === objectUid;
  return {
    ...object,
    ...statusWith(object, generationBase),
    metadata: {
      ...object.metadata,
      uid,
      ...(generation === undefined ? {} : { generation: generation + generationBase }),
      // A person writes the UID that kubectl shows.
      ...(isForced ? { annotations: { ...annotations, [forceDeleteAnnotation]: uid } } : {}),
    },
  };
}

function toReal(body: object, { objectUid, generationBase }: ObjectIdentity): object {
  const metadata = 'metadata' in body && isFields(body.metadata) ? body.metadata : {};
  return { ...body, ...statusWith(body, -generationBase), metadata: { ...metadata, uid: objectUid } };
}

const generationFields = ['observedGeneration', 'hostObservedGeneration'];

/** Generations in a status, moved; a shift below 0 stays at 0, as of what was published before the adoption. */
function statusWith(object: object, by: number): { readonly status?: unknown } {
  if (!('status' in object) || !isFields(object.status)) return {};
  const move = (fields: Fields): Fields =>
    Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, generationFields.includes(name) && typeof value === 'number' ? Math.max(0, value + by) : value]));
  const status = move(object.status);
  const conditions = status['conditions'];
  return { status: Array.isArray(conditions) ? { ...status, conditions: conditions.map((condition: unknown) => (isFields(condition) ? move(condition) : condition)) } : status };
}

/** An event is about the object that kubectl shows. */
function regarding(body: object, realUid: (uid: string) => string): object {
  if (!('regarding' in body) || !isFields(body.regarding) || typeof body.regarding['uid'] !== 'string') return body;
  return { ...body, regarding: { ...body.regarding, uid: realUid(body.regarding['uid']) } };
}
