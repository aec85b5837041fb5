/** Which values of Secrets a spec asks for, each once and in one order, so that equal specs ask alike. Pure. */
import { credentialKeys, isSameSecret, type SecretKey } from '#api/model/microvm.ts';
import type { MicroVMSpec } from '#crds/gen/microvm.ts';

export function secretKeysOf(spec: MicroVMSpec): readonly SecretKey[] {
  const credentials = (spec.disks ?? []).flatMap(({ http, oci }) => [
    ...keysOf(http?.secretRef?.name, credentialKeys.http),
    ...keysOf(oci?.pullSecretRef?.name, credentialKeys.oci),
  ]);
  const asked = [spec.cloudInit?.userDataSecretRef, ...credentials].filter((key) => key !== undefined);
  const once = asked.filter((key, index) => asked.findIndex((other) => isSameSecret(key, other)) === index);
  return once.map(({ name, key }) => ({ name, key })).toSorted((a, b) => (sortKey(a) < sortKey(b) ? -1 : 1));
}

function keysOf(name: string | undefined, keys: readonly string[]): readonly SecretKey[] {
  return name === undefined ? [] : keys.map((key) => ({ name, key }));
}

function sortKey({ name, key }: SecretKey): string {
  return `${name}/${key}`;
}
