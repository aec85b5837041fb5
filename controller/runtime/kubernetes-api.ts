/**
 * What this room and the reconcilers need of a Kubernetes API server, whatever kind of object it is about.
 * Every call has a deadline of its own; errors are AppErrors whose details hold the HTTP `status` and the
 * server's `reason`. Writes are never repeated blindly.
 */
import { isAppError } from '#api/model/error-codes.ts';

/** Of one kind, as in its REST path. */
export interface Resource {
  /** Empty for the core group. */
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly kind: string;
  readonly isNamespaced: boolean;
  /** Of lists and watches: only objects with these labels. */
  readonly labelSelector?: string;
  /** Of lists and watches: only names, labels and versions of the objects cross the wire. */
  readonly isMetadataOnly?: true;
}

export interface KubernetesObject {
  readonly metadata: {
    readonly name: string;
    /** Absent on objects without namespace. */
    readonly namespace?: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly generation?: number;
    readonly creationTimestamp: string;
    readonly deletionTimestamp?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly finalizers?: readonly string[];
    readonly managedFields?: readonly ManagedFields[];
  };
}

/** Which fields a manager set. Source: Kubernetes, metav1.ManagedFieldsEntry. */
export interface ManagedFields {
  readonly manager?: string;
  readonly operation?: string;
  readonly time?: string;
  readonly subresource?: string;
  readonly fieldsV1?: Readonly<Record<string, unknown>>;
}

export interface WriteOptions {
  /** Under which the API server notes who set the fields; default: this program's. */
  readonly fieldManager?: string;
  /** The API server checks everything and stores nothing. */
  readonly isDryRun?: boolean;
}

/** An object by name; `namespace` is empty for kinds without one. */
export interface ObjectKey {
  readonly namespace: string;
  readonly name: string;
}

export interface ListPage {
  readonly items: readonly KubernetesObject[];
  readonly resourceVersion: string;
  /** Opaque; empty on the last page. */
  readonly continueToken: string;
}

export type WatchEvent =
  | { readonly type: 'ADDED' | 'MODIFIED' | 'DELETED'; readonly object: KubernetesObject }
  | { readonly type: 'BOOKMARK'; readonly resourceVersion: string };

export interface PatchOptions extends WriteOptions {
  /** `merge`: RFC 7386. `apply`: server-side apply; it would make an object that is not there unless the body names a uid. */
  readonly type: 'merge' | 'apply';
  readonly subresource?: 'status';
  /** With `apply`: takes over fields of other managers; default true. */
  readonly isForced?: boolean;
}

export interface KubernetesApi {
  list(resource: Resource, page: { readonly limit: number; readonly continueToken: string }, signal: AbortSignal): Promise<ListPage>;
  /**
   * Events after the version until the server ends the stream. Throws what the server sends as an error inside
   * the stream; see {@link isExpired}.
   */
  watch(resource: Resource, from: { readonly resourceVersion: string; readonly timeoutSeconds: number }, signal: AbortSignal): AsyncIterable<WatchEvent>;
  /** Null when there is none. */
  get(resource: Resource, key: ObjectKey): Promise<KubernetesObject | null>;
  /** @throws an error of {@link isAlreadyExists} */
  create(resource: Resource, key: ObjectKey, body: object, options?: WriteOptions): Promise<KubernetesObject>;
  /** @throws an error of {@link isConflict} when the body's uid or resourceVersion is not the live one; of {@link isNotFound}; of {@link isFieldConflict} */
  patch(resource: Resource, key: ObjectKey, body: object, options: PatchOptions): Promise<KubernetesObject>;
  /** Deletes exactly the object with that UID; resolves also when it is gone already. */
  delete(resource: Resource, key: ObjectKey, uid: string, options?: Pick<WriteOptions, 'isDryRun'>): Promise<void>;
}

function statusOf(error: unknown): unknown {
  return isAppError(error) ? error.details['status'] : undefined;
}

function reasonOf(error: unknown): unknown {
  return isAppError(error) ? error.details['reason'] : undefined;
}

export const isNotFound = (error: unknown): boolean => statusOf(error) === 404;

/** The name is taken. */
export const isAlreadyExists = (error: unknown): boolean => statusOf(error) === 409 && reasonOf(error) === 'AlreadyExists';

/** Somebody changed the object since it was read, or it is another object of the same name. */
export const isConflict = (error: unknown): boolean => statusOf(error) === 409 && reasonOf(error) !== 'AlreadyExists';

/** An apply without force met fields of another manager. */
export const isFieldConflict = (error: unknown): boolean => isAppError(error) && error.details['isFieldConflict'] === true;

/** The API server has looked at the write and will not take it, also when it is repeated. Conflicts are no refusals. */
export function isRefusal(error: unknown): boolean {
  const status = statusOf(error);
  return typeof status === 'number' && status >= 400 && status < 500 && ![401, 408, 409, 410, 429].includes(status);
}

/** The API server's own sentence, without the call that it answered. */
export function sentenceOf(error: unknown): string {
  const sentence = isAppError(error) ? error.details['sentence'] : undefined;
  return typeof sentence === 'string' ? sentence : error instanceof Error ? error.message : String(error);
}

/** The version to watch or continue from is too old: list again. */
export const isExpired = (error: unknown): boolean => statusOf(error) === 410;

export function keyOf(object: KubernetesObject): ObjectKey {
  return { namespace: object.metadata.namespace ?? '', name: object.metadata.name };
}

/** `namespace/name`, the form that queues and caches use. */
export function formatKey(key: ObjectKey): string {
  return `${key.namespace}/${key.name}`;
}

export function parseKey(text: string): ObjectKey {
  const slash = text.indexOf('/');
  return { namespace: text.slice(0, slash), name: text.slice(slash + 1) };
}
