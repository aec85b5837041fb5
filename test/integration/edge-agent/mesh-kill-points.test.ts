/**
 * The agent is killed with SIGKILL before and after each of its writes and effects on the way into the mesh and out of
 * it. In the end there is one peer, or none, and the microVM noticed nothing.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { meshFaultPoints } from '#edge-agent/fault-points.ts';
import { useFaultServer, type FaultServer } from '#test/harness/fault-server.ts';
import { createMeshScene, type MeshScene } from './mesh-scene.ts';

let scene: MeshScene;
let faults: FaultServer;
const keys: string[] = [];

beforeAll(async () => {
  faults = await useFaultServer();
  scene = await createMeshScene({ NKUDO_FAULT_SOCKET: faults.socketPath });
  scene.installNetbird();
  for (let serial = 0; serial < 4 * meshFaultPoints.length; serial += 1) keys.push(await scene.makeKey());
}, 60_000);

afterAll(() => scene.close());

const join = (): void => void scene.order({}, () => keys.pop() ?? null);
const leave = (): void => void scene.order({ join: false, managementUrl: '', hostName: '' });

async function settled(isMember: boolean): Promise<void> {
  const { revision } = scene.lastOrder();
  await scene.untilReported(isMember ? 'the mesh to be joined' : 'the mesh to be left', ({ state, orderRevision }) => orderRevision === revision && state === (isMember ? 'Connected' : 'NotConfigured'));
  expect(await scene.peers()).toHaveLength(isMember ? 1 : 0);
}

async function begin(isMember: boolean): Promise<void> {
  if ((await scene.peers()).length === (isMember ? 1 : 0)) return;
  if (isMember) join();
  else leave();
  await settled(isMember);
}

async function killedAt(point: string, start: () => void): Promise<void> {
  const killed = faults.killAt({ process: 'edge', point });
  start();
  await killed;
  await scene.agent().exited;
  await scene.startAgent();
}

test.each(meshFaultPoints.filter((point) => !point.startsWith('mesh.down')))('%s on the way in: one peer', async (point) => {
  await begin(false);
  await killedAt(point, join);
  await settled(true);
  expect(scene.disturbances()).toEqual([]);
}, 60_000);

test.each(meshFaultPoints.filter((point) => !point.startsWith('mesh.up')))('%s on the way out: no peer', async (point) => {
  await begin(true);
  await killedAt(point, leave);
  await settled(false);
  expect(scene.disturbances()).toEqual([]);
}, 60_000);
