/**
 * The step that turns the keys of Secrets that a spec names into references with versions. Values are looked at, to say
 * what is wrong with them before anything is published, and not kept: the gateway reads them again when it sends them.
 *
 * What was published for its present host stays good without its Secret: the host has the value, so that the microVM can
 * still be stopped, changed and emptied off its host.
 */
import { isSameSecret, type SecretKey, type SecretReference } from '#api/model/microvm.ts';
import { waiting } from '#controller/runtime/outcome.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import { secretKeysOf } from '#controller/domain/secret-keys.ts';
import type { MicroVMStep } from './scope.ts';

export const resolveSecrets: MicroVMStep = async (scope, deps) => {
  const { desired, object, record } = scope;
  const keys = secretKeysOf(object.spec);
  if (desired === null || keys.length === 0) return null;
  const { namespace } = object.metadata;
  const kept = keptByHost(record);
  /** As published, while the Secret is still the one that was looked at then. */
  const unchanged = (key: SecretKey): SecretReference | undefined => {
    const seen = deps.caches.guestSecrets.get({ namespace, name: key.name })?.metadata.resourceVersion;
    return kept.find((reference) => isSameSecret(reference, key) && reference.resourceVersion === seen);
  };
  const readings = await deps.guestSecrets.read(namespace, keys.filter((key) => unchanged(key) === undefined));
  const notes: string[] = [];
  const secrets: SecretReference[] = [];
  for (const key of keys) {
    const reading = readings.find((candidate) => isSameSecret(candidate.kind === 'found' ? candidate.reference : candidate.key, key));
    if (reading?.kind === 'found') {
      secrets.push(reading.reference);
      continue;
    }
    const known = unchanged(key) ?? kept.find((reference) => isSameSecret(reference, key));
    if (known !== undefined) {
      secrets.push(known);
      if (reading !== undefined) notes.push(reading.message);
    } else if (reading !== undefined) {
      // The change of the Secret wakes it.
      scope.obstacle = { condition: 'Accepted', reason: reading.reason, message: reading.message };
      return waiting(reading.reason, reading.message);
    }
  }
  scope.desired = { ...desired, secrets };
  scope.secretNote = notes.length === 0 ? null : notes.join('; ');
  return null;
};

/** Of an operation that failed for want of a value the host has none. */
function keptByHost(record: MicroVMRecord | null): readonly SecretReference[] {
  const newest = record?.newestOperation ?? null;
  if (record?.binding == null || newest?.error?.code === 'SECRET_UNAVAILABLE') return [];
  return record.desired?.secrets ?? [];
}
