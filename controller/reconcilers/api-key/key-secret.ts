/**
 * The Secret that holds the text of an API key. It is written once, before the hash is registered, and read back, so that
 * the hash is always that of a key which somebody can read. Whoever copied the key may delete the Secret.
 * Invariant: the text is in memory between these calls and nowhere else.
 */
import { encodeApiKey, parseApiKey } from '#api/codec/api-key.ts';
import type { APIKey } from '#crds/gen/apikey.ts';
import { isAlreadyExists, type KubernetesApi, type KubernetesObject, type ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { secretResource } from '../kinds.ts';

export const keySecretType = 'nkudo.dev/api-key';

export interface KeySecret {
  readonly uid: string;
  /** False: another program made a Secret of that name. */
  readonly isOurs: boolean;
  /** The bytes whose hash is registered; null when the text is no key of this object. */
  readonly secretBytes: Uint8Array | null;
}

export function secretKeyOf(key: APIKey): ObjectKey {
  return { namespace: key.metadata.namespace, name: `${key.metadata.name}-key` };
}

export async function loadKeySecret(kube: KubernetesApi, key: APIKey): Promise<KeySecret | null> {
  const object = await kube.get(secretResource, secretKeyOf(key));
  return object === null ? null : read(object, key);
}

/** Makes the Secret; one that exists already is read instead. */
export async function ensureKeySecret(kube: KubernetesApi, key: APIKey, secret: Uint8Array): Promise<KeySecret | null> {
  const at = secretKeyOf(key);
  const { name, uid } = key.metadata;
  const body = {
    apiVersion: 'v1',
    kind: 'Secret',
    type: keySecretType,
    immutable: true,
    metadata: { ...at, ownerReferences: [{ apiVersion: 'nkudo.dev/v1alpha1', kind: 'APIKey', name, uid, controller: true }] },
    data: { key: Buffer.from(encodeApiKey({ keyId: uid, secret })).toString('base64') },
  };
  try {
    await kube.create(secretResource, at, body);
  } catch (error) {
    if (!isAlreadyExists(error)) throw error;
  }
  return loadKeySecret(kube, key);
}

function read(object: KubernetesObject, key: APIKey): KeySecret {
  const owners = 'ownerReferences' in object.metadata && Array.isArray(object.metadata.ownerReferences) ? object.metadata.ownerReferences : [];
  const isOurs = owners.some((owner: unknown) => typeof owner === 'object' && owner !== null && 'uid' in owner && owner.uid === key.metadata.uid);
  return { uid: object.metadata.uid, isOurs, secretBytes: isOurs ? readBytes(object, key.metadata.uid) : null };
}

function readBytes(object: KubernetesObject, uid: string): Uint8Array | null {
  const data: unknown = 'data' in object ? object.data : null;
  const encoded = typeof data === 'object' && data !== null && 'key' in data ? data.key : null;
  if (typeof encoded !== 'string') return null;
  const parsed = parseApiKey(Buffer.from(encoded, 'base64').toString('utf8').trim());
  // Altered by hand, or copied from another key: what it says can't be registered.
  return parsed?.keyId === uid ? parsed.secret : null;
}
