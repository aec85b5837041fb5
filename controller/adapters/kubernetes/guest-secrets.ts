/**
 * Secrets for guests out of the Kubernetes API, read anew at every call and kept nowhere. Owns the rule which Secrets
 * may be read for a guest; the namespace is the caller's promise, and must be the microVM's own.
 */
import { secretValueMax, type SecretKey } from '#api/model/microvm.ts';
import { guestLabel, type GuestSecrets, type SecretReading, type SecretRefusal } from '#controller/ports/guest-secrets.ts';
import type { KubernetesApi, KubernetesObject, Resource } from '#controller/runtime/kubernetes-api.ts';

const secretResource: Resource = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', isNamespaced: true };

export function createGuestSecrets(api: Pick<KubernetesApi, 'get'>): GuestSecrets {
  return {
    read: async (namespace, keys) => {
      const names = [...new Set(keys.map(({ name }) => name))];
      const found = new Map(await Promise.all(names.map(async (name) => [name, await api.get(secretResource, { namespace, name })] as const)));
      return keys.map((key) => readValue(namespace, key, found.get(key.name) ?? null));
    },
  };
}

function readValue(namespace: string, key: SecretKey, secret: KubernetesObject | null): SecretReading {
  const refused = (reason: SecretRefusal, message: string): SecretReading => ({ kind: 'refused', key, reason, message });
  if (secret === null) return refused('SecretNotFound', `there is no Secret ${key.name} in namespace ${namespace}: create it with the key ${key.key} and the label ${guestLabel}="true"`);
  if (secret.metadata.labels?.[guestLabel] !== 'true') {
    return refused('SecretNotForGuests', `the Secret ${key.name} is not for guests: kubectl -n ${namespace} label secret ${key.name} ${guestLabel}=true; whoever may create microVMs can then read it`);
  }
  const encoded = dataOf(secret)[key.key];
  if (typeof encoded !== 'string') return refused('SecretKeyNotFound', `the Secret ${key.name} has no key ${key.key}: add it, or correct the key in the spec`);
  const bytes = Buffer.from(encoded, 'base64');
  if (bytes.byteLength > secretValueMax) return refused('SecretTooLarge', `the value ${key.key} of the Secret ${key.name} has ${bytes.byteLength} bytes; at most ${secretValueMax} can be given to a guest`);
  const { name } = key;
  return { kind: 'found', reference: { name, key: key.key, resourceVersion: secret.metadata.resourceVersion }, value: { name, key: key.key, reveal: () => bytes } };
}

function dataOf(secret: KubernetesObject): Readonly<Record<string, unknown>> {
  return 'data' in secret && typeof secret.data === 'object' && secret.data !== null ? (secret.data as Readonly<Record<string, unknown>>) : {}; // The API server vouches for the shape of a Secret.
}
