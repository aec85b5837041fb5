/**
 * Generated from crds/v1alpha1/microvmclass.yaml by hack/generate-crd-types.ts; do not edit.
 * Times are RFC 3339 strings, as the API server sends them. Fields with a default are present on
 * every object that was read from the API server; they are optional here because writers may leave them out.
 */
import type { Condition, ListMeta, ObjectMeta } from './kubernetes.ts';

/**
 * MicroVMClass is a size that microVMs of its namespace may name instead of writing their own.
 */
export interface MicroVMClass {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'MicroVMClass';
  metadata: ObjectMeta;
  spec: MicroVMClassSpec;
  status?: MicroVMClassStatus;
}
/**
 * The sizes. What a microVM writes itself wins. A change reaches its microVMs as a change of their own spec would, each by its updateStrategy.
 */
export interface MicroVMClassSpec {
  cpu: MicroVMClassCpu;
  memory: MicroVMClassMemory;
}
/**
 * Virtual CPUs.
 */
export interface MicroVMClassCpu {
  /**
   * Number of virtual CPUs.
   */
  count: number;
}
/**
 * Memory of the guest.
 */
export interface MicroVMClassMemory {
  /**
   * Memory that the guest starts with.
   */
  size: number | string;
}
/**
 * Nothing yet.
 */
export interface MicroVMClassStatus {
  /**
   * Generation of the spec that this status was derived from.
   */
  observedGeneration?: number;
}

export interface MicroVMClassList {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'MicroVMClassList';
  metadata: ListMeta;
  items: MicroVMClass[];
}
