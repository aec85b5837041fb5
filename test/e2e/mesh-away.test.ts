/** A management API that is no help for the whole life of a microVM: the microVM notices nothing, the mesh catches up later. */
import { beforeAll, describe, expect, it } from 'vitest';
import type { FaultRule } from '#test/simulators/mock-netbird/faults.ts';
import { until } from '#test/harness/until.ts';
import { createMeshWorld, type MeshWorld } from './mesh-world.ts';
import { siteName, statusOf } from './world.ts';

let mesh: MeshWorld;
/** Requests of one look: five lists, and the parts of the one host's network when those were answered. */
const requestsOfOneLook = 7;
const requestsOfOneFailure = 5;
/** The shortest time between two tries: half of the first wait. See the gate of the mesh reconciler. */
const shortestWaitMs = 500;
const residentBytesMax = 512 * 1024 * 1024;

beforeAll(async () => {
  mesh = await createMeshWorld();
  await mesh.world.startController();
  await mesh.api('POST', '/api/groups', { name: 'admins' });
  await mesh.world.createSite(siteName, mesh.meshSpec());
  await mesh.world.addHost('edge-1');
  await mesh.world.waitForCondition('hosts', 'edge-1', { type: 'MeshConnected', status: 'True' });
  await mesh.untilAccount('the host to be routed', (view) => view.networks.some(({ routers }) => routers.length === 1) && view.setupKeys.length === 0);
  await mesh.world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'True' });
});

interface Trouble {
  readonly title: string;
  readonly fault: FaultRule;
  readonly reason: string;
}

const troubles: readonly Trouble[] = [
  { title: 'away', fault: { do: 'drop' }, reason: 'MeshUnavailable' },
  { title: 'slow beyond any patience', fault: { do: 'hang' }, reason: '' },
  { title: 'slow', fault: { do: 'delay', ms: 1_500 }, reason: '' },
  { title: 'answering 401', fault: { do: 'status', status: 401 }, reason: 'MeshUnauthorized' },
  { title: 'answering 429', fault: { do: 'status', status: 429, headers: { 'retry-after': '1' } }, reason: 'MeshRateLimited' },
  { title: 'answering 500', fault: { do: 'status', status: 500 }, reason: 'MeshUnavailable' },
];

async function residentBytes(): Promise<number> {
  const text = await (await fetch(`http://${mesh.world.endpoints().http}/metrics`)).text();
  return Number(/^process_resident_memory_bytes (\S+)$/m.exec(text)?.[1]);
}

/** Another policy each time, so that every trouble holds up work that shows in the account. */
const policyOf = (index: number) => ({ name: `round-${index}`, peers: ['admins'] });

const patchSite = async (patch: object): Promise<void> => {
  const answer = await mesh.world.kubernetes.client.request('PATCH', mesh.world.path('sites', siteName), patch, 'application/merge-patch+json');
  expect(answer.status).toBe(200);
};

describe('a management API', () => {
  it.each(troubles.map((trouble, index) => ({ ...trouble, index })))('[N3] $title: a microVM is created, runs and is deleted, requests stay few, and the mesh catches up', async ({ fault, reason, index }) => {
    const { world, mock } = mesh;
    mock.faults.replace([fault]);
    mesh.resetRequests();
    const startedMs = performance.now();
    await patchSite({ spec: { mesh: { policies: [policyOf(index)] } } });
    if (fault.do !== 'hang' && fault.do !== 'delay') await until(() => mesh.requestCount() > 0, 'a first try');
    if (reason !== '') await world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'False', reason });
    const name = `vm-${index}`;
    await world.applyMicroVM(name);
    await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
    // An address in the mesh needs no account either. It does not run: its tap would be one of this machine.
    const guest = `guest-${index}`;
    if (fault.do === 'drop') {
      await world.applyMicroVM(guest, { runPolicy: 'Halted', networks: [{ name: 'fleet', mesh: {} }] });
      await world.waitUntil('microvms', guest, 'an address in the mesh', (object) => /^10\.96\.0\.\d+$/.test(String(statusOf(object)['meshAddress'])));
      await world.deleteObject('microvms', guest);
    }
    // Each of these wakes the mesh reconciler; none of them may cost a request.
    const before = { requests: mesh.requestCount(), atMs: performance.now() };
    for (let poke = 0; poke < 40; poke += 1) await patchSite({ metadata: { annotations: { poke: `${index}-${poke}` } } });
    const pokedMs = performance.now() - before.atMs;
    const looksMeanwhile = 1 + Math.floor(pokedMs / shortestWaitMs);
    expect(mesh.requestCount() - before.requests, `requests in ${Math.round(pokedMs)} ms of changes`).toBeLessThanOrEqual(looksMeanwhile * (fault.do === 'delay' ? requestsOfOneLook : requestsOfOneFailure));
    await world.deleteObject('microvms', name);
    await world.waitUntilGone('microvms', name);
    await world.waitUntilGone('microvms', guest);
    const elapsedMs = performance.now() - startedMs;
    const looks = 2 + Math.floor(elapsedMs / shortestWaitMs);
    expect(mesh.requestCount(), `requests in ${Math.round(elapsedMs)} ms`).toBeLessThanOrEqual(looks * requestsOfOneLook);
    expect(await residentBytes()).toBeLessThan(residentBytesMax);
    mock.faults.replace([]);
    await mesh.untilAccount('the policy of this round to be there', (view) => view.policies.some((policy) => policy.name.endsWith(policyOf(index).name)), 90_000);
    await world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'True' });
    await world.waitForCondition('hosts', 'edge-1', { type: 'MeshConnected', status: 'True' });
    console.log(`[N3] ${fault.do} ${fault.status ?? ''}: ${mesh.requestCount()} requests in all, ${Math.round((await residentBytes()) / 1024 / 1024)} MiB resident`);
    expect(mock.violations()).toEqual([]);
  });

  it('[N3] a token that is replaced is tried at once', async () => {
    const { world } = mesh;
    await mesh.writeToken('nbp_wrong');
    await patchSite({ spec: { mesh: { policies: [] } } });
    await world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'False', reason: 'MeshUnauthorized' });
    await mesh.restoreToken();
    await world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'True' });
    await world.kubernetes.client.request('DELETE', mesh.secretPath);
    await patchSite({ spec: { mesh: { policies: [policyOf(99)] } } });
    await world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'False', reason: 'SecretMissing' });
    await mesh.restoreToken();
    await world.waitForCondition('sites', siteName, { type: 'MeshReady', status: 'True' });
  });
});
