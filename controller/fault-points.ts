/**
 * The controller's durable writes and effects on the create and delete paths, as data. Each is a fault
 * point before and after it; the kill tests walk this list, so a step that is not in it can't be reached.
 */
import { pointsOf, type FaultPoints, type PointOf } from '#api/fault-points/fault-points.ts';

export const gatewaySteps = [
  /** Consumes a token and records host and certificate. */
  'db.enroll',
  /** Marks operations as handed out. */
  'db.claim',
  /** Writes one operation to the stream of its host. */
  'gateway.push',
  /** Records the answer of a host to an operation. */
  'db.receipt',
  /** Stores a batch of executions and observations. */
  'db.reports',
] as const;

export const reconcilerSteps = [
  /** Makes the Host object of an enrolled machine. */
  'k8s.host.create',
  /** Takes over what the Host object says. */
  'db.saveHost',
  'k8s.finalizer.add',
  /** Publishes the intent of one generation: binding, plan and operation in one commit. */
  'db.publish',
  'k8s.status',
  /** Publishes the deletion with its operation. */
  'db.publishDeletion',
  /** Releases the binding after the confirmed teardown. */
  'db.completeDeletion',
  'k8s.finalizer.remove',
] as const;

/** Beside the life of microVMs, so in a list of its own: what the gateway does for the mesh. */
export const meshGatewaySteps = [
  /** Stores what a host says of its membership. */
  'db.meshReport',
  /** Writes an order, with a key or without, to the stream of its host. */
  'gateway.meshPush',
] as const;

/** The same for the version of agents. */
export const agentGatewaySteps = [
  /** Stores what a host says of the order for its agent. */
  'db.agentReport',
  /** Writes an order for the agent to the stream of its host. */
  'gateway.agentPush',
] as const;

/** And what rollouts of the agent write: rows of what hosts are told. */
export const rolloutSteps = [
  /** Commits what hosts are told, and what became of it. */
  'db.saveRollout',
  /** Withdraws it all before the object goes. */
  'db.withdrawRollout',
] as const;

export const controllerSteps = [...gatewaySteps, ...reconcilerSteps] as const;

/** On the path of a caller's plan, which not every create takes; the tests of plans walk this list. */
export const planSteps = [
  /** Commits plan, key and actions: the acknowledgement. */
  'db.plan.accept',
  /** Commits that the object is about to be written. */
  'db.plan.intent',
  /** Makes, changes or deletes the object. */
  'k8s.plan.write',
  /** Records that the API server has it. */
  'db.plan.written',
] as const;

export const planFaultPoints = pointsOf(planSteps);

export type PlanStep = (typeof planSteps)[number];
export type PlanFaultPoints = FaultPoints<PointOf<PlanStep>>;

/** All that this process can reach. */
export type ProcessFaultPoints = FaultPoints<PointOf<ControllerStep | PlanStep>>;

export const controllerFaultPoints = pointsOf(controllerSteps);

export type ControllerStep = (typeof controllerSteps)[number] | (typeof meshGatewaySteps)[number] | (typeof agentGatewaySteps)[number] | (typeof rolloutSteps)[number];
export type ControllerFaultPoints = FaultPoints<PointOf<ControllerStep>>;
