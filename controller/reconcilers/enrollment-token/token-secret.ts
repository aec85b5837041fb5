/**
 * The Secret that holds the text of a token. It is written first and read back, so that the hash that is
 * registered is always that of a token which somebody can read.
 * Invariant: the text is in memory between these calls and nowhere else.
 */
import { encodeEnrollmentToken, parseEnrollmentToken, tokenSecretBytes } from '#api/codec/enrollment-token.ts';
import type { EnrollmentToken } from '#crds/gen/enrollmenttoken.ts';
import { isAlreadyExists, type KubernetesApi, type KubernetesObject, type ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { secretResource } from '../kinds.ts';

export const tokenSecretType = 'nkudo.dev/enrollment-token';

export interface TokenSecret {
  readonly uid: string;
  /** False: another program made a Secret of that name. */
  readonly isOurs: boolean;
  /** The bytes whose hash is registered; null when the text is no token. */
  readonly secretBytes: Uint8Array | null;
}

export function secretKeyOf(token: EnrollmentToken): ObjectKey {
  return { namespace: token.metadata.namespace, name: `${token.metadata.name}-token` };
}

export async function loadTokenSecret(kube: KubernetesApi, token: EnrollmentToken): Promise<TokenSecret | null> {
  const object = await kube.get(secretResource, secretKeyOf(token));
  return object === null ? null : read(object, token);
}

/** Makes the Secret; one that exists already is read instead. */
export async function ensureTokenSecret(
  kube: KubernetesApi,
  token: EnrollmentToken,
  content: { readonly endpoints: readonly string[]; readonly pins: readonly string[]; readonly secret: string },
): Promise<TokenSecret | null> {
  const key = secretKeyOf(token);
  const { name, uid } = token.metadata;
  const body = {
    apiVersion: 'v1',
    kind: 'Secret',
    type: tokenSecretType,
    immutable: true,
    metadata: {
      ...key,
      ownerReferences: [{ apiVersion: 'nkudo.dev/v1alpha1', kind: 'EnrollmentToken', name, uid, controller: true }],
    },
    data: { token: Buffer.from(encodeEnrollmentToken(content)).toString('base64') },
  };
  try {
    await kube.create(secretResource, key, body);
  } catch (error) {
    if (!isAlreadyExists(error)) throw error;
  }
  return loadTokenSecret(kube, token);
}

function read(object: KubernetesObject, token: EnrollmentToken): TokenSecret {
  const owners = 'ownerReferences' in object.metadata && Array.isArray(object.metadata.ownerReferences) ? object.metadata.ownerReferences : [];
  const isOurs = owners.some((owner: unknown) => typeof owner === 'object' && owner !== null && 'uid' in owner && owner.uid === token.metadata.uid);
  return { uid: object.metadata.uid, isOurs, secretBytes: isOurs ? readBytes(object) : null };
}

function readBytes(object: KubernetesObject): Uint8Array | null {
  const data: unknown = 'data' in object ? object.data : null;
  const encoded = typeof data === 'object' && data !== null && 'token' in data ? data.token : null;
  if (typeof encoded !== 'string') return null;
  try {
    return tokenSecretBytes(parseEnrollmentToken(Buffer.from(encoded, 'base64').toString('utf8')).secret);
  } catch {
    // Altered by hand: what it says can't be registered.
    return null;
  }
}
