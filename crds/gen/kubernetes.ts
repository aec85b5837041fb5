/**
 * Written by hack/generate-crd-types.ts; do not edit.
 * What every kind of this group has in common. Times are RFC 3339 strings, as the API server sends
 * them, so that no client library's Date conversion is needed.
 */

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

export interface ObjectMeta {
  name: string;
  namespace: string;
  uid: string;
  resourceVersion: string;
  generation: number;
  creationTimestamp: string;
  deletionTimestamp?: string;
  deletionGracePeriodSeconds?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  finalizers?: string[];
  ownerReferences?: OwnerReference[];
}

/** Metadata of an object that is about to be created. */
export type NewObjectMeta = Pick<ObjectMeta, 'name'> & Partial<ObjectMeta>;

export interface ListMeta {
  resourceVersion: string;
  continue?: string;
  remainingItemCount?: number;
}

export interface Condition {
  type: string;
  status: 'True' | 'False' | 'Unknown';
  /** Generation of the object that this condition was derived from. */
  observedGeneration?: number;
  lastTransitionTime: string;
  reason: string;
  message: string;
}
