/**
 * Tells the deletion of an object from that of its whole kind. An API server that is told to forget a CRD first marks all
 * its objects as deleted; an order about a schema is none about machines.
 */
import { isAppError } from '#api/model/error-codes.ts';
import type { KubernetesApi, Resource } from '#controller/runtime/kubernetes-api.ts';

const definitionResource: Resource = { group: 'apiextensions.k8s.io', version: 'v1', plural: 'customresourcedefinitions', kind: 'CustomResourceDefinition', isNamespaced: false };

/** Nobody tells when a definition is there again. */
export const definitionRetryMs = 30_000;

/** Why a deletion of an object of the kind waits; null: it need not. Looks each time: what was seen before the object's mark says nothing. */
export async function describeDefinitionHold(kube: Pick<KubernetesApi, 'get'>, resource: Resource): Promise<string | null> {
  const name = `${resource.plural}.${resource.group}`;
  try {
    const definition = await kube.get(definitionResource, { namespace: '', name });
    if (definition?.metadata.deletionTimestamp === undefined) return null;
    return `the CustomResourceDefinition ${name} is being deleted, and with it every object of its kind: nothing is touched on any host; see docs/operations.md, "The definitions were deleted"`;
  } catch (error) {
    if (!isAppError(error) || error.code !== 'PERMISSION_DENIED') throw error;
    return `whether the CustomResourceDefinition ${name} is being deleted can not be read: allow the controller to get customresourcedefinitions`;
  }
}
