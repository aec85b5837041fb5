/** The adapter against an account that fails: on the simulator only, because a real one does not fail on demand. */
import { inspect } from 'node:util';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { hostId } from '#api/model/ids.ts';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { createNetbirdAccounts } from '#controller/adapters/netbird/netbird.ts';
import type { DesiredMesh, MeshCall } from '#controller/domain/mesh/model.ts';
import { hostGroupName, setupKeyName, siteGroupName } from '#controller/domain/mesh/names.ts';
import type { Time } from '#controller/runtime/time.ts';
import { createManualTime } from '#test/fakes/manual-time.ts';
import { startMockNetbird } from '#test/simulators/mock-netbird/server.ts';
import type { FaultRule } from '#test/simulators/mock-netbird/faults.ts';
import { until } from '#test/harness/until.ts';
import { converge, foreignOf, look, namesOf, ownNames } from './convergence.ts';
import { raw } from './raw-api.ts';
import { anyScope, time } from './targets.ts';

const token = 'nbp_canary_of_the_fault_tests';
const simulator = await startMockNetbird({ tokens: [token] });
const target = { managementUrl: simulator.managementUrl, token };
const wide = { concurrencyMax: 4, perSecond: 1000, burst: 1000, waitersMax: 1000 };
const never = new AbortController().signal;

const open = (change: { readonly time?: Time; readonly limits?: typeof wide; readonly address?: typeof target } = {}): ReturnType<ReturnType<typeof createNetbirdAccounts>> =>
  createNetbirdAccounts(change.time ?? time, change.limits ?? wide)(change.address ?? target);
const site = (change: Partial<DesiredMesh> = {}): DesiredMesh => ({
  scope: anyScope(),
  isDeleting: false,
  hosts: [{ hostId: hostId(randomUUID()), peerName: 'edge-1', knownPeerId: null, reportedAddress: null, subnets: ['10.96.1.0/24'], key: { isWanted: false, heldId: null } }],
  policies: [],
  extraGroups: [],
  setupKeyTtlSeconds: 600,
  ...change,
});

/** Mutating requests of making, repairing and removing a site, by operation of the API. */
const mutations: readonly (readonly [string, string])[] = [
  ['POST', '/api/groups'],
  ['POST', '/api/policies'],
  ['POST', '/api/networks'],
  ['POST', '/api/networks/{networkId}/resources'],
  ['POST', '/api/networks/{networkId}/routers'],
  ['PUT', '/api/policies/{policyId}'],
  ['PUT', '/api/networks/{networkId}'],
  ['PUT', '/api/networks/{networkId}/resources/{resourceId}'],
  ['PUT', '/api/networks/{networkId}/routers/{routerId}'],
  ['PUT', '/api/groups/{groupId}'],
  ['PUT', '/api/peers/{peerId}'],
  ['DELETE', '/api/peers/{peerId}'],
  ['DELETE', '/api/setup-keys/{keyId}'],
  ['DELETE', '/api/policies/{policyId}'],
  ['DELETE', '/api/networks/{networkId}'],
  ['DELETE', '/api/groups/{groupId}'],
  ['POST', '/api/setup-keys'],
];

beforeEach(() => simulator.faults.replace([]));
afterEach(() => expect(simulator.violations()).toEqual([]));
afterAll(() => simulator.close());

/** Asks until it works, as the reconciler does; every failure must be one of the port. */
async function insist(desired: DesiredMesh): Promise<number> {
  let failures = 0;
  for (;;) {
    try {
      await converge(open(), desired);
      return failures;
    } catch (error) {
      if (!isAppError(error) || failures > 20) throw error;
      failures += 1;
    }
  }
}

/** A whole life: made, a peer joined, drifted in everything that can drift, repaired, removed. */
async function live(desired: DesiredMesh): Promise<number> {
  let failures = await insist(desired);
  const { scope } = desired;
  const [host] = desired.hosts;
  if (host === undefined) throw new Error('the site needs a host');
  const { account } = simulator;
  const siteGroup = account.groupByName(siteGroupName(scope));
  const hostGroup = account.groupByName(hostGroupName(scope, host.hostId));
  failures += await insistOnKey(desired);
  const key = [...account.setupKeys.values()].find(({ name }) => name === setupKeyName(scope, host.hostId));
  const peer = account.register({ key: key?.secret ?? '', name: 'renamed', hostname: 'vm', publicKey: randomUUID() });
  const policy = [...account.policies.values()].find(({ name }) => name === siteGroup.name);
  const network = [...account.networks.values()].find(({ name }) => name === hostGroup.name);
  const resource = [...(network?.resources.values() ?? [])][0];
  const router = [...(network?.routers.values() ?? [])][0];
  if (policy === undefined || network === undefined || resource === undefined || router === undefined) throw new Error('the site is not whole');
  account.savePolicy(policy.id, { ...policy, enabled: false, rules: [{ name: 'r', enabled: true, action: 'accept', bidirectional: true, protocol: 'all', sources: [hostGroup.id], destinations: [hostGroup.id] }] });
  account.updateNetwork(network.id, { name: 'renamed', description: network.description });
  account.saveResource(network.id, resource.id, { ...resource, address: '10.199.9.0/24' });
  account.saveRouter(network.id, router.id, { peer_groups: router.peer_groups, metric: 1, masquerade: false, enabled: false });
  account.updateGroup(siteGroup.id, { name: siteGroup.name, peers: [], resources: siteGroup.resources });
  failures += await insist({ ...desired, hosts: [{ ...host, reportedAddress: peer.ip }] });
  expect(account.groupsOf(peer.id).map(({ name }) => name).sort()).toEqual(['All', hostGroup.name, siteGroup.name].sort());
  failures += await insist({ ...desired, hosts: [], isDeleting: true });
  return failures;
}

async function insistOnKey(desired: DesiredMesh): Promise<number> {
  const { scope } = desired;
  const [host] = desired.hosts;
  if (host === undefined) return 0;
  const call: MeshCall = { kind: 'createSetupKey', hostId: host.hostId, name: setupKeyName(scope, host.hostId), groups: [siteGroupName(scope), hostGroupName(scope, host.hostId)], ttlSeconds: 600 };
  for (let failures = 0; ; failures += 1) {
    try {
      await open().perform(call, namesOf(await open().list(scope, never)), never);
      return failures;
    } catch (error) {
      if (!isAppError(error) || failures > 20) throw error;
    }
  }
}

describe('the NetBird adapter and an account that fails', () => {
  for (const [method, path] of mutations) {
    it(`[N2] makes nothing twice and leaves nothing when the answer to ${method} ${path} is lost before or after the work, or comes by half`, async () => {
      for (const fault of [{ do: 'drop' }, { do: 'drop', isDone: true }, { do: 'half' }, { do: 'status', status: 500, isDone: true }] satisfies FaultRule[]) {
        const desired = site();
        const before = await open().list(desired.scope, never);
        simulator.faults.replace([{ method, path, count: 1, ...fault }]);
        const failures = await live(desired);
        expect({ fault, failures, hits: simulator.faults.list()[0]?.hits }).toEqual({ fault, failures: 1, hits: 1 });
        const after = await open().list(desired.scope, never);
        expect(ownNames(desired.scope, after)).toEqual([]);
        expect(foreignOf(desired.scope, after)).toBe(foreignOf(desired.scope, before));
        expect(after.peers).toEqual(before.peers);
      }
    });
  }

  it('[N2] has each object once after every mutating answer in turn was lost', async () => {
    const desired = site();
    simulator.faults.replace(['/api/groups', '/api/policies', '/api/networks', '/api/networks/{networkId}/resources', '/api/networks/{networkId}/routers'].map((path) => ({ method: 'POST', path, count: 1, do: 'drop', isDone: true })));
    expect(await insist(desired)).toBe(5);
    const names = ownNames(desired.scope, await open().list(desired.scope, never));
    expect(new Set(names).size).toBe(names.length);
    expect(names).toHaveLength(6);
    simulator.faults.replace([]);
    await converge(open(), { ...desired, hosts: [], isDeleting: true });
  });

  it('[N3] gives the code of the port for every failure of the account', async () => {
    const { scope } = site();
    const cases: readonly [FaultRule, object][] = [
      [{ do: 'status', status: 401 }, { code: 'MESH_UNAUTHORIZED', details: { status: 401 } }],
      [{ do: 'status', status: 403 }, { code: 'MESH_UNAUTHORIZED', details: { status: 403 } }],
      [{ do: 'status', status: 500 }, { code: 'MESH_UNAVAILABLE', details: { status: 500 } }],
      [{ do: 'status', status: 502, body: '<html>' }, { code: 'MESH_UNAVAILABLE', details: { status: 502 } }],
      [{ do: 'status', status: 302, headers: { location: 'http://127.0.0.1:9/' } }, { code: 'MESH_REFUSED', details: { status: 302 } }],
      [{ do: 'status', status: 404 }, { code: 'MESH_REFUSED', details: { status: 404 } }],
      [{ do: 'status', status: 404, body: '<html>not here</html>' }, { code: 'MESH_REFUSED', details: { status: 404 } }],
      [{ do: 'drop' }, { code: 'MESH_UNAVAILABLE' }],
      [{ do: 'half' }, { code: 'MESH_UNAVAILABLE' }],
      [{ do: 'text', body: '<html>welcome</html>' }, { code: 'MESH_UNAVAILABLE' }],
      [{ do: 'text', body: '' }, { code: 'MESH_UNAVAILABLE' }],
      [{ do: 'text', body: '{"groups":[]}' }, { code: 'MESH_UNAVAILABLE' }],
      [{ do: 'text', body: '[{"id":7}]' }, { code: 'MESH_UNAVAILABLE' }],
    ];
    for (const [fault, expected] of cases) {
      simulator.faults.replace([{ path: '/api/groups', ...fault }]);
      const error: unknown = await open().list(scope, never).then(() => null, (failure: unknown) => failure);
      expect({ fault, error }).toMatchObject({ fault, error: expected });
    }
    simulator.faults.replace([]);
    const nobody = { managementUrl: 'http://127.0.0.1:9', token };
    await expect(open({ address: nobody }).list(scope, never)).rejects.toMatchObject({ code: 'MESH_UNAVAILABLE' });
  });

  it('[N3] asks nothing while the account said to wait, with and without Retry-After, and asks again afterwards', async () => {
    const { scope } = site();
    for (const [headers, waitMs] of [[{ 'retry-after': '7' }, 7000], [{}, 30_000], [{ 'retry-after': '999999' }, 600_000]] as const) {
      const manual = createManualTime();
      const openAccount = createNetbirdAccounts(manual, wide);
      simulator.faults.replace([{ do: 'status', status: 429, headers }]);
      await expect(openAccount(target).list(scope, never)).rejects.toMatchObject({ code: 'MESH_RATE_LIMITED', retryAfterMs: waitMs });
      // The other four lists were on their way at the same time.
      const asked = simulator.requests().length;
      simulator.faults.replace([]);
      for (let attempt = 0; attempt < 10; attempt += 1) await expect(openAccount(target).list(scope, never)).rejects.toMatchObject({ code: 'MESH_RATE_LIMITED' });
      expect(simulator.requests().length - asked).toBeLessThanOrEqual(4);
      await manual.advance(waitMs);
      await openAccount(target).list(scope, never);
    }
  });

  it('[N3] doubles the longest hint of when to come back with every failure, up to five minutes', async () => {
    const { scope } = site();
    const openAccount = createNetbirdAccounts(createManualTime({ random: 0.999 }), wide);
    simulator.faults.replace([{ do: 'status', status: 500 }]);
    const hints: number[] = [];
    for (let attempt = 0; attempt < 12; attempt += 1) {
      const error: unknown = await openAccount(target).list(scope, never).then(() => null, (failure: unknown) => failure);
      if (error instanceof AppError) hints.push(error.retryAfterMs ?? -1);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(hints[0]).toBeLessThan(1000);
    expect(Math.max(...hints)).toBeLessThan(300_000);
    expect(hints.at(-1)).toBeGreaterThan(200_000);
    expect(hints).toEqual(hints.toSorted((a, b) => a - b));
  });

  it('[N3] gives up on an account that hangs at the deadline, and at once when the caller does', async () => {
    const { scope } = site();
    simulator.faults.replace([{ do: 'hang' }]);
    const due: (() => void)[] = [];
    const stopped: Time = { ...time, schedule: (_delayMs, run) => (due.push(run), () => undefined) };
    const failure: Promise<unknown> = open({ time: stopped }).list(scope, never).then(() => null, (error: unknown) => error);
    const started = simulator.requests().length;
    await until(() => simulator.requests().length > started, 'a request to hang');
    for (const run of due) run();
    expect(await failure).toMatchObject({ code: 'MESH_UNAVAILABLE', details: { errno: 'DEADLINE' } });
    const controller = new AbortController();
    const reason = new Error('the caller has gone');
    const abandoned = open().list(scope, controller.signal);
    controller.abort(reason);
    await expect(abandoned).rejects.toBe(reason);
  });

  it('[N3] keeps to four requests at a time and to its rate, however much is asked', async () => {
    const { scope } = site();
    simulator.faults.replace([{ do: 'delay', ms: 5 }]);
    let running = 0;
    let runningMax = 0;
    const counting = createServer((_request, response) => {
      running += 1;
      runningMax = Math.max(runningMax, running);
      setImmediate(() => {
        running -= 1;
        response.end('[]');
      });
    });
    await new Promise<void>((resolve) => counting.listen(0, '127.0.0.1', resolve));
    const { port } = counting.address() as AddressInfo; // It listens.
    const openAccount = createNetbirdAccounts(time, wide);
    // Each opens the account for itself: the limits are the address's and the token's.
    await Promise.all(Array.from({ length: 20 }, () => openAccount({ managementUrl: `http://127.0.0.1:${port}`, token }).list(scope, never)));
    expect(runningMax).toBeGreaterThan(1);
    expect(runningMax).toBeLessThanOrEqual(4);
    counting.close();
  });

  it('[N4] has neither the token nor a key in any error, also when the token fits in no header', async () => {
    const secret = 'CANARY0-SETUP-KEY';
    const { scope } = site();
    const errors: unknown[] = [];
    const collect = (work: Promise<unknown>): Promise<unknown> => work.catch((error: unknown) => errors.push(error));
    for (const broken of [`${token}\nx-other: 1`, `${token}é`, '', ' ']) await collect(open({ address: { ...target, token: broken } }).list(scope, never));
    const desired = site();
    await converge(open(), desired);
    const [host] = desired.hosts;
    const call: MeshCall = { kind: 'createSetupKey', hostId: host?.hostId ?? hostId(randomUUID()), name: setupKeyName(desired.scope, host?.hostId ?? hostId(randomUUID())), groups: [siteGroupName(desired.scope)], ttlSeconds: 600 };
    await raw({ managementUrl: simulator.adminUrl, token }, 'POST', '/next-setup-keys', [secret, secret, secret]);
    const names = namesOf(await open().list(desired.scope, never));
    for (const fault of [{ do: 'half' }, { do: 'drop', isDone: true }, { do: 'text', body: `{"id":"","key":"${secret}"}` }] satisfies FaultRule[]) {
      simulator.faults.replace([{ method: 'POST', path: '/api/setup-keys', count: 1, ...fault }]);
      await collect(open().perform(call, names, never));
    }
    for (const status of [400, 401, 429, 500]) {
      simulator.faults.replace([{ do: 'status', status }]);
      await collect(open().list(desired.scope, never));
    }
    simulator.faults.replace([]);
    expect(errors).toHaveLength(11);
    for (const error of errors) {
      const text = inspect(error, { depth: 20, showHidden: true, getters: true });
      expect(text).not.toContain(token);
      expect(text).not.toContain('CANARY');
    }
    await converge(open(), { ...desired, hosts: [], isDeleting: true });
  });

  it('takes the token as a Secret holds it, with a line end', async () => {
    await expect(open({ address: { managementUrl: `${target.managementUrl}/`, token: `${token}\n` } }).list(anyScope(), never)).resolves.toBeDefined();
    expect(await look(open(), site({ hosts: [], isDeleting: true }))).toEqual([]);
  });
});
