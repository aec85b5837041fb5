/**
 * Generated from crds/v1alpha1/apikey.yaml by hack/generate-crd-types.ts; do not edit.
 * Times are RFC 3339 strings, as the API server sends them. Fields with a default are present on
 * every object that was read from the API server; they are optional here because writers may leave them out.
 */
import type { Condition, ListMeta, ObjectMeta } from './kubernetes.ts';

/**
 * APIKey lets a program call the tenants' API for this namespace without an account of the cluster. The key itself is in the Secret that the status names; n-kudo keeps only its hash.
 */
export interface APIKey {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'APIKey';
  metadata: ObjectMeta;
  spec: APIKeySpec;
  status?: APIKeyStatus;
}
/**
 * What the key is good for.
 */
export interface APIKeySpec {
  /**
   * read: status, plans, executions and logs. operate: plans that create, start, stop and delete microVMs as well. admin: force and the audit log as well. docs/identity.md has the table.
   */
  role: 'read' | 'operate' | 'admin';
  siteRef?: APIKeySiteRef;
  /**
   * How long it can be used, from its creation; 2160h (90 days) when left out, 8760h (a year) at most.
   *
   * Default: "2160h".
   */
  ttl?: string;
  /**
   * true: it can not be used any more, ever, from a few seconds later on; open streams end. The object stays as a record until it is deleted, which revokes it as well.
   */
  revoked?: boolean;
}
/**
 * The one site that it is good for; every site of the namespace when left out.
 */
export interface APIKeySiteRef {
  /**
   * Name of the Site, in the same namespace.
   */
  name: string;
}
/**
 * What became of the key. Written by the controller only.
 */
export interface APIKeyStatus {
  /**
   * Generation of the spec that this status was derived from.
   */
  observedGeneration?: number;
  /**
   * Pending: the Secret is not written yet. Active: it can be used. Revoked, Expired: it can not any more. Failed: see conditions.
   */
  printableStatus?: 'Pending' | 'Active' | 'Revoked' | 'Expired' | 'Failed';
  /**
   * Secret with the key, in the same namespace; deleted when the key is revoked or has expired.
   */
  secretName?: string;
  /**
   * End of its use.
   */
  expiresAt?: string;
  /**
   * A use of the key within the hour before its last one; left out when it was never used. Written at most once in an hour.
   */
  lastUsedTime?: string;
  /**
   * What is true of the object now, by type. The types and reasons are a closed list (crds/conditions.ts).
   */
  conditions?: Condition[];
}

export interface APIKeyList {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'APIKeyList';
  metadata: ListMeta;
  items: APIKey[];
}
