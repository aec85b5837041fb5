/**
 * Every call of the controller to the management API of a mesh, as data: each is a fault point before and after it. The
 * list is made from the kinds of calls, so that a call without a point does not compile, and one that is not in it can't
 * be made.
 */
import { pointsOf, type FaultPoints, type PointOf } from '#api/fault-points/fault-points.ts';
import type { MeshCall } from '#controller/domain/mesh/model.ts';

type MeshStepOf<Kind extends string> = `mesh.${Kind}`;

const stepByKind = {
  createGroup: 'mesh.createGroup',
  updateGroup: 'mesh.updateGroup',
  deleteGroup: 'mesh.deleteGroup',
  createPolicy: 'mesh.createPolicy',
  updatePolicy: 'mesh.updatePolicy',
  deletePolicy: 'mesh.deletePolicy',
  createSetupKey: 'mesh.createSetupKey',
  deleteSetupKey: 'mesh.deleteSetupKey',
  renamePeer: 'mesh.renamePeer',
  deletePeer: 'mesh.deletePeer',
  createNetwork: 'mesh.createNetwork',
  updateNetwork: 'mesh.updateNetwork',
  deleteNetwork: 'mesh.deleteNetwork',
  createResource: 'mesh.createResource',
  updateResource: 'mesh.updateResource',
  deleteResource: 'mesh.deleteResource',
  createRouter: 'mesh.createRouter',
  updateRouter: 'mesh.updateRouter',
  deleteRouter: 'mesh.deleteRouter',
} as const satisfies { readonly [Kind in MeshCall['kind']]: MeshStepOf<Kind> };

/** The reading of an account; it changes nothing there and is a point all the same. */
export const meshListStep = 'mesh.list';

export const meshSteps = [meshListStep, ...Object.values(stepByKind)] as const;
export type MeshStep = (typeof meshSteps)[number];
export type MeshFaultPoints = FaultPoints<PointOf<MeshStep>>;
export const meshFaultPoints = pointsOf(meshSteps);

export function meshStepOf(kind: MeshCall['kind']): MeshStep {
  return stepByKind[kind];
}
