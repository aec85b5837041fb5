/** The hash by which a plan knows the generation that it made. */
import { createHash } from 'node:crypto';
import { canonicalJson } from '#api/model/canonical-json.ts';
import { isUuid, planId, type PlanId } from '#api/model/ids.ts';
import type { KubernetesObject } from '#controller/runtime/kubernetes-api.ts';
import { planAnnotation } from './decide-write.ts';

/** SHA-256 over the canonical JSON of a spec, lower-case hexadecimal. */
export function hashSpec(spec: object): string {
  return createHash('sha256').update(canonicalJson(spec)).digest('hex');
}

/** What the publication of a generation shows of its origin. */
export function sourceOf(object: KubernetesObject & { readonly spec: object }): { readonly specHash: string; readonly createdBy: PlanId | null } {
  const named = object.metadata.annotations?.[planAnnotation] ?? '';
  return { specHash: hashSpec(object.spec), createdBy: isUuid(named) ? planId(named) : null };
}
