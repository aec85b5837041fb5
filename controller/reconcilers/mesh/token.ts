/** The API token of a mesh account, from its Secret. Read anew at every look; it lives in memory only and is never logged. */
import type { KubernetesApi, ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { secretResource } from '../kinds.ts';

export interface MeshToken {
  /** Changes with the Secret. */
  readonly version: string;
  /** A function, so that no logger or encoder prints the secret by accident. */
  readonly reveal: () => string;
}

/** Null when there is no such Secret, or no text in its key `token`. */
export async function loadMeshToken(kube: Pick<KubernetesApi, 'get'>, key: ObjectKey): Promise<MeshToken | null> {
  const secret = key.name === '' ? null : await kube.get(secretResource, key);
  const data: unknown = secret !== null && 'data' in secret ? secret.data : null;
  const encoded = typeof data === 'object' && data !== null && 'token' in data ? data.token : null;
  const token = typeof encoded === 'string' ? Buffer.from(encoded, 'base64').toString('utf8').trim() : '';
  if (secret === null || !/^[\x21-\x7e]{1,4096}$/.test(token)) return null;
  return { version: `${secret.metadata.uid}/${secret.metadata.resourceVersion}`, reveal: () => token };
}
