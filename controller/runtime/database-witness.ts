/**
 * What is kept in Kubernetes of how far the database had come: a ConfigMap that is written once in each term of a leader,
 * and an annotation of the Lease that follows with the renewals. Two objects, so that the loss of one costs nothing.
 * What they mean is decided in api/model/recovery.ts; this only reads and writes text.
 */
import { isAlreadyExists, type KubernetesApi, type ObjectKey, type Resource } from './kubernetes-api.ts';

const configMapResource: Resource = { group: '', version: 'v1', plural: 'configmaps', kind: 'ConfigMap', isNamespaced: true };
const witnessConfigMap = 'nkudo-incarnation';
export const witnessAnnotation = 'nkudo.dev/database';
const witnessKey = 'database';

export interface DatabaseWitness {
  /** Undefined: there is none. */
  read(): Promise<string | undefined>;
  write(text: string): Promise<void>;
}

export function createDatabaseWitness(api: Pick<KubernetesApi, 'get' | 'create' | 'patch'>, namespace: string): DatabaseWitness {
  const key: ObjectKey = { namespace, name: witnessConfigMap };
  return {
    read: async () => {
      const object = await api.get(configMapResource, key);
      if (object === null || !('data' in object)) return undefined;
      return (object.data as Readonly<Record<string, string>> | undefined)?.[witnessKey]; // The API server validated it.
    },
    write: async (text) => {
      const data = { [witnessKey]: text };
      if ((await api.get(configMapResource, key)) === null) {
        try {
          await api.create(configMapResource, key, { apiVersion: 'v1', kind: 'ConfigMap', metadata: { namespace, name: witnessConfigMap }, data });
          return;
        } catch (error) {
          if (!isAlreadyExists(error)) throw error;
        }
      }
      await api.patch(configMapResource, key, { data }, { type: 'merge' });
    },
  };
}
