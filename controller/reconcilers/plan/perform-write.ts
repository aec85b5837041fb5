/**
 * Makes the write that was decided on, or its dry run, and says how the API server took it. A create is a plain POST;
 * a change of the run policy is an apply under a manager of its own, with the uid and the version that was read; a
 * delete carries the uid. Never an upsert.
 */
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { PlanError } from '#controller/ports/plan-store.ts';
import { isAlreadyExists, isConflict, isFieldConflict, isNotFound, isRefusal, sentenceOf, type KubernetesApi, type ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { isAppError } from '#api/model/error-codes.ts';
import { microvmResource, parseMicroVM } from '../kinds.ts';
import { planError, planManager, powerManager, runPolicyManagers, type WriteDecision } from './decide-write.ts';

export type WriteResult =
  /** Null: the object is gone. */
  | { readonly result: 'written'; readonly object: MicroVM | null }
  /** Somebody was faster: read and decide again. */
  | { readonly result: 'again' }
  | { readonly result: 'refused'; readonly error: PlanError };

interface WriteOptions {
  readonly isForced: boolean;
  readonly isDryRun: boolean;
}

export type Write = Extract<WriteDecision, { readonly write: 'create' | 'power' | 'delete' }>;

/** @throws UNAVAILABLE, DEADLINE_EXCEEDED when the outcome is unknown */
export async function performWrite(kube: KubernetesApi, key: ObjectKey, write: Write, options: WriteOptions): Promise<WriteResult> {
  try {
    return { result: 'written', object: await send(kube, key, write, options) };
  } catch (error) {
    if (isFieldConflict(error) && write.write === 'power') return settleFieldConflict(kube, key, write, options);
    return translate(error);
  }
}

async function send(kube: KubernetesApi, key: ObjectKey, write: Write, { isForced, isDryRun }: WriteOptions): Promise<MicroVM | null> {
  switch (write.write) {
    case 'create':
      return parseMicroVM(await kube.create(microvmResource, key, write.body, { fieldManager: planManager, isDryRun }));
    case 'power': {
      const { uid, resourceVersion, name, namespace } = write.before.metadata;
      const body = {
        apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name, namespace, uid, resourceVersion }, spec: { runPolicy: write.runPolicy },
      };
      return parseMicroVM(await kube.patch(microvmResource, key, body, { type: 'apply', fieldManager: powerManager, isForced, isDryRun }));
    }
    case 'delete': {
      await kube.delete(microvmResource, key, write.before.metadata.uid, { isDryRun });
      const left = await kube.get(microvmResource, key);
      return left === null || left.metadata.uid !== write.before.metadata.uid ? null : parseMicroVM(left);
    }
  }
}

/** What a plan of ours set before is ours to change; everything else is somebody's. */
async function settleFieldConflict(kube: KubernetesApi, key: ObjectKey, write: Write & { readonly write: 'power' }, options: WriteOptions): Promise<WriteResult> {
  const owners = runPolicyManagers(write.before);
  if (owners.length > 0) {
    const message = `spec.runPolicy of the MicroVM ${key.name} is owned by the field manager ${owners.join(', ')}`;
    return { result: 'refused', error: planError('FIELD_OWNED_ELSEWHERE', message) };
  }
  try {
    return { result: 'written', object: await send(kube, key, write, { ...options, isForced: true }) };
  } catch (error) {
    return translate(error);
  }
}

function translate(error: unknown): WriteResult {
  if (isAlreadyExists(error) || isConflict(error) || isNotFound(error)) return { result: 'again' };
  if (isRefusal(error) && isAppError(error)) return { result: 'refused', error: { code: error.code, message: sentenceOf(error) } };
  throw error;
}

