/**
 * Generated from crds/v1alpha1/microvmset.yaml by hack/generate-crd-types.ts; do not edit.
 * Times are RFC 3339 strings, as the API server sends them. Fields with a default are present on
 * every object that was read from the API server; they are optional here because writers may leave them out.
 */
import type { Condition, ListMeta, ObjectMeta } from './kubernetes.ts';

/**
 * MicroVMSet keeps microVMs of one template, a number of them at a site, or one for each host or site.
 */
export interface MicroVMSet {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'MicroVMSet';
  metadata: ObjectMeta;
  spec: MicroVMSetSpec;
  status?: MicroVMSetStatus;
}
/**
 * Which microVMs there should be.
 */
export interface MicroVMSetSpec {
  /**
   * Replicas: as many as replicas says, at the site of siteRef. PerHost: one on each host of the site that the template's placement allows. PerSite: one at each site that siteSelector takes.
   *
   * Default: "Replicas".
   */
  mode?: 'Replicas' | 'PerHost' | 'PerSite';
  /**
   * How many, with mode Replicas. kubectl scale and autoscalers write it.
   */
  replicas?: number;
  siteRef?: MicroVMSetSiteRef;
  siteSelector?: MicroVMSetSiteSelector;
  template: MicroVMSetTemplate;
  /**
   * Differences of single microVMs from the template, by the last part of their name - the number, the host or the site.
   */
  overrides?: MicroVMSetOverride[];
  updateStrategy?: MicroVMSetUpdateStrategy;
}
/**
 * The site of all of them, with modes Replicas and PerHost.
 */
export interface MicroVMSetSiteRef {
  /**
   * Name of the Site, in the same namespace.
   */
  name: string;
}
/**
 * The sites, with mode PerSite; an empty one takes all sites of the namespace.
 */
export interface MicroVMSetSiteSelector {
  /**
   * Labels that the Site has.
   */
  matchLabels?: Record<string, string>;
}
/**
 * What each microVM is made from.
 */
export interface MicroVMSetTemplate {
  metadata?: MicroVMSetTemplateMetadata;
  /**
   * The spec of a MicroVM without siteRef, which the set writes; with mode PerHost it writes placement.hostName as well.
   */
  spec: Record<string, unknown>;
}
/**
 * Labels and annotations that each microVM gets.
 */
export interface MicroVMSetTemplateMetadata {
  /**
   * Labels. nkudo.dev/microvmset is added.
   */
  labels?: Record<string, string>;
  /**
   * Annotations.
   */
  annotations?: Record<string, string>;
}
/**
 * One difference.
 */
export interface MicroVMSetOverride {
  /**
   * The number, with mode Replicas; the host with PerHost; the site with PerSite.
   */
  name: string;
  /**
   * Merged into the spec of the template (RFC 7386); null takes a field away, lists are replaced whole.
   */
  spec: Record<string, unknown>;
}
/**
 * How a changed template reaches the microVMs.
 *
 * Default: {}.
 */
export interface MicroVMSetUpdateStrategy {
  /**
   * RollingUpdate: one after the other, at most maxUnavailable at once. OnDelete: a microVM gets it when it is deleted and made again.
   *
   * Default: "RollingUpdate".
   */
  type?: 'RollingUpdate' | 'OnDelete';
  /**
   * How many may be missing, not Ready or in a change at once. Those that are not Ready anyway are changed first.
   *
   * Default: 1.
   */
  maxUnavailable?: number;
}
/**
 * What became of the set. Written by the controller only.
 */
export interface MicroVMSetStatus {
  /**
   * Generation of the spec that this status was derived from.
   */
  observedGeneration?: number;
  /**
   * MicroVMs that there should be.
   */
  desiredReplicas?: number;
  /**
   * MicroVMs of the set that exist.
   */
  replicas?: number;
  /**
   * Those whose spec is what the template and the overrides say now.
   */
  updatedReplicas?: number;
  /**
   * Those that are Ready.
   */
  readyReplicas?: number;
  /**
   * Labels of its microVMs, as autoscalers want them.
   */
  selector?: string;
  /**
   * What is true of the object now, by type. The types and reasons are a closed list (crds/conditions.ts).
   */
  conditions?: Condition[];
}

export interface MicroVMSetList {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'MicroVMSetList';
  metadata: ListMeta;
  items: MicroVMSet[];
}
