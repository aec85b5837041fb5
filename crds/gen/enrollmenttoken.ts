/**
 * Generated from crds/v1alpha1/enrollmenttoken.yaml by hack/generate-crd-types.ts; do not edit.
 * Times are RFC 3339 strings, as the API server sends them. Fields with a default are present on
 * every object that was read from the API server; they are optional here because writers may leave them out.
 */
import type { Condition, ListMeta, ObjectMeta } from './kubernetes.ts';

/**
 * EnrollmentToken lets one machine join a Site once. The secret itself is in the Secret that the status names; n-kudo keeps only its hash.
 */
export interface EnrollmentToken {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'EnrollmentToken';
  metadata: ObjectMeta;
  spec: EnrollmentTokenSpec;
  status?: EnrollmentTokenStatus;
}
/**
 * What the token is good for.
 */
export interface EnrollmentTokenSpec {
  siteRef: EnrollmentTokenSiteRef;
  /**
   * Name of the one Host that may use it; any name when left out.
   */
  hostName?: string;
  /**
   * How long it can be used, from its creation.
   *
   * Default: "1h".
   */
  ttl?: string;
}
/**
 * The site that the host joins.
 */
export interface EnrollmentTokenSiteRef {
  /**
   * Name of the Site, in the same namespace.
   */
  name: string;
}
/**
 * What became of the token. Written by the controller only.
 */
export interface EnrollmentTokenStatus {
  /**
   * Generation of the spec that this status was derived from.
   */
  observedGeneration?: number;
  /**
   * Pending: the Secret is not written yet. Available: it can be used. Used, Expired: it can not any more. Failed: see conditions.
   */
  printableStatus?: 'Pending' | 'Available' | 'Used' | 'Expired' | 'Failed';
  /**
   * Secret with the token, in the same namespace; deleted on use and on expiry.
   */
  secretName?: string;
  /**
   * End of its use.
   */
  expiresAt?: string;
  /**
   * When a host used it.
   */
  usedAt?: string;
  /**
   * Name of the Host that used it.
   */
  usedBy?: string;
  /**
   * What is true of the object now, by type. The types and reasons are a closed list (crds/conditions.ts).
   */
  conditions?: Condition[];
}

export interface EnrollmentTokenList {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'EnrollmentTokenList';
  metadata: ListMeta;
  items: EnrollmentToken[];
}
