/** Secrets of one namespace for the certificate authority: read, and create without ever overwriting. */
import { AppError } from '#api/model/error-codes.ts';
import type { SecretPort, WritableSecretPort } from '#controller/pki/authority-store.ts';
import { isAlreadyExists, isNotFound, type KubernetesApi, type KubernetesObject, type Resource } from '#controller/runtime/kubernetes-api.ts';

const secretResource: Resource = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', isNamespaced: true };

function valuesOf(secret: KubernetesObject): Readonly<Record<string, string>> {
  const data = 'data' in secret ? (secret.data as Readonly<Record<string, string>>) : {}; // The API server vouches for the shape of a Secret.
  return Object.fromEntries(Object.entries(data).map(([key, value]) => [key, Buffer.from(value, 'base64').toString('utf8')]));
}

export function createSecrets(api: Pick<KubernetesApi, 'get' | 'create'>, namespace: string): SecretPort {
  return {
    read: async (name) => {
      const secret = await api.get(secretResource, { namespace, name });
      return secret === null ? null : valuesOf(secret);
    },
    create: async (name, values) => {
      const data = Object.fromEntries(Object.entries(values).map(([key, value]) => [key, Buffer.from(value).toString('base64')]));
      try {
        await api.create(secretResource, { namespace, name }, { apiVersion: 'v1', kind: 'Secret', metadata: { namespace, name, labels: { 'app.kubernetes.io/part-of': 'nkudo' } }, type: 'Opaque', data });
        return 'created';
      } catch (error) {
        if (isAlreadyExists(error)) return 'exists';
        if (isNotFound(error)) throw new AppError('NOT_FOUND', `namespace ${namespace} does not exist; create it, or set NKUDO_NAMESPACE`, { cause: error });
        throw error;
      }
    },
  };
}

/** With the right to replace values, on exactly the version that was read. */
export function createWritableSecrets(api: Pick<KubernetesApi, 'get' | 'create' | 'patch'>, namespace: string): WritableSecretPort {
  return {
    ...createSecrets(api, namespace),
    replace: async (name, values) => {
      const secret = await api.get(secretResource, { namespace, name });
      if (secret === null) throw new AppError('NOT_FOUND', `there is no secret ${name} in namespace ${namespace}`);
      const { uid, resourceVersion } = secret.metadata;
      const data = Object.fromEntries(Object.entries(values).map(([key, value]) => [key, Buffer.from(value).toString('base64')]));
      await api.patch(secretResource, { namespace, name }, { metadata: { uid, resourceVersion }, data }, { type: 'merge' });
    },
  };
}
