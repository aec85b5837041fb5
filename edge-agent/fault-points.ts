/**
 * The durable writes and effects of the agent on the create and delete paths, as data. Each is
 * reached before and after, so that a test can kill the agent at every one of them.
 */
import { pointsOf, type FaultPoints, type PointOf } from '#api/fault-points/fault-points.ts';

export const edgeFaultSteps = [
  /** Values of Secrets become durable, before the operation that needs them; or those that it needs no more go, after it. */
  'secrets.keep',
  /** The operation becomes durable. */
  'journal.accept',
  /** The receipt goes onto the stream. */
  'receipt.send',
  /** The intent of a start, a stop or an end that was seen becomes durable. */
  'journal.intent',
  'vmdir.prepare',
  'vmdir.identity',
  /** A disk of the host's own is made, or the transfer of its image begins. */
  'disk.ensure',
  /** The disk that cloud-init reads is made. */
  'seed.ensure',
  'net.ensure',
  /** User, folder and limits of a VMM, inside the step that starts it. */
  'vmm.confine',
  'vmm.spawn',
  'vmm.create',
  'vmm.boot',
  'vmm.powerButton',
  'vmm.shutdown',
  'net.remove',
  'vmdir.remove',
  /** What is kept of Secrets goes, after the directory. */
  'secrets.remove',
  /** The result of an operation becomes durable. */
  'journal.result',
  /** The teardown becomes durable: the record turns into a tombstone. */
  'journal.forget',
  /** A batch of reports goes out and is acknowledged. */
  'report.send',
] as const;

/** Only reached when the machine of a running guest is changed. */
export const machineFaultSteps = ['vmm.resizeCpus', 'vmm.resizeMemory', 'vmm.plugDisk', 'vmm.unplugDisk', 'vmm.growDisk', 'vmm.plugNetwork', 'vmm.unplugNetwork'] as const;

/** Beside the life of microVMs, so in a list of its own: the way into the mesh and out of it. */
export const meshFaultSteps = [
  /** The order becomes durable, without a key. */
  'journal.meshOrder',
  /** The note that the agent joined becomes durable, before it does; or that it left, after it did. */
  'journal.meshMembership',
  'mesh.up',
  'mesh.down',
  'mesh.report',
] as const;

/** Beside the life of microVMs as well: what somebody at the site orders. Its effects are steps of the life. */
export const siteFaultSteps = [
  /** An order becomes durable, or a confirmed lease ends a start without one. */
  'journal.siteOrder',
  /** Orders that the control plane has are forgotten. */
  'journal.siteTold',
] as const;

/** The same for a change of the agent's own version. */
export const versionFaultSteps = [
  /** The order becomes durable. */
  'journal.agentOrder',
  /** The attempt becomes durable, before anything is fetched; or how it ended, after it did. */
  'journal.agentAttempt',
  /** The files of a version come into the free slot. */
  'agent.stage',
  /** The launcher is told to try another version at the next start. */
  'agent.select',
] as const;

/** Beside the life of microVMs: what is too much of a log is freed. */
export const logFaultSteps = ['log.free'] as const;

export type EdgeFaultStep = (typeof edgeFaultSteps)[number] | (typeof machineFaultSteps)[number] | (typeof meshFaultSteps)[number] | (typeof siteFaultSteps)[number] | (typeof versionFaultSteps)[number] | (typeof logFaultSteps)[number];
export type EdgeFaultPoint = PointOf<EdgeFaultStep>;
export type EdgeFaultPoints = FaultPoints<EdgeFaultPoint>;

export const edgeFaultPoints: readonly EdgeFaultPoint[] = pointsOf(edgeFaultSteps);
export const machineFaultPoints: readonly EdgeFaultPoint[] = pointsOf(machineFaultSteps);
export const meshFaultPoints: readonly EdgeFaultPoint[] = pointsOf(meshFaultSteps);
export const siteFaultPoints: readonly EdgeFaultPoint[] = pointsOf(siteFaultSteps);
export const versionFaultPoints: readonly EdgeFaultPoint[] = pointsOf(versionFaultSteps);
export const logFaultPoints: readonly EdgeFaultPoint[] = pointsOf(logFaultSteps);

/** Runs an effect between its two points. */
export async function around<Value>(faults: EdgeFaultPoints, step: EdgeFaultStep, effect: () => Value | Promise<Value>): Promise<Value> {
  await faults.reach(`${step}:before`);
  const value = await effect();
  await faults.reach(`${step}:after`);
  return value;
}
