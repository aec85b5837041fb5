/** The hash by which a plan knows the generation that it made. */
import { createHash } from 'node:crypto';
import { canonicalJson } from '#api/model/canonical-json.ts';
import { isUuid, planId } from '#api/model/ids.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { PublishInput } from '#controller/ports/microvm-store.ts';
import { describeWinner, planAnnotation } from './decide-write.ts';

/** SHA-256 over the canonical JSON of a spec, lower-case hexadecimal. */
export function hashSpec(spec: object): string {
  return createHash('sha256').update(canonicalJson(spec)).digest('hex');
}

/** What the publication of a generation shows of its origin. */
export function sourceOf(object: MicroVM): NonNullable<PublishInput['source']> {
  const named = object.metadata.annotations?.[planAnnotation] ?? '';
  return { specHash: hashSpec(object.spec), createdBy: isUuid(named) ? planId(named) : null, supersedes: describeWinner(object) };
}
