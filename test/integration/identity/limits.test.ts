/**
 * A tenant that asks for too much, beside one that does not: counted, not timed. Real listeners, Postgres and API server.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { createCallLimits, defaultCallLimits } from '#controller/domain/quota/call-limits.ts';
import { httpRoutes } from '#controller/http-api/routes.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { callHttp, dialGrpc, type GrpcClient } from './fleet-client.ts';
import { useFleetWorld, type FleetServer, type FleetWorld, type TestTenant } from './fleet-server.ts';

/** Nothing is refilled while a test runs. */
const burst = 50;
const perSecond = 1 / 3_600;

let world: FleetWorld;
let server: FleetServer;
let grpc: GrpcClient;
let noisy: TestTenant;
let quiet: TestTenant;

const status = (tenant: TestTenant) => ({ namespace: tenant.namespace, site: '', pageSize: 0, pageToken: '' });
const keyOf = async (tenant: TestTenant): Promise<string> => `Bearer ${(await world.makeKey(tenant, { role: 'read' })).text}`;

beforeAll(async () => {
  world = await useFleetWorld();
  [noisy, quiet] = [await world.makeTenant('noisy'), await world.makeTenant('quiet')];
  server = await world.serve({
    limits: createCallLimits({ ...defaultCallLimits, caller: { perSecond, burst: burst * 10 }, tenant: { perSecond, burst }, unknownCredentials: { perSecond, burst: 100 }, streamsPerCaller: 3 }),
  });
  grpc = dialGrpc(server.grpc, world.pki.trustBundlePem());
  fileScope().defer(() => grpc.close());
});

describe('limits', () => {
  it('stop a tenant at its own number of calls and tell it when to come again, while every call of another tenant is answered', async () => {
    const [loud, calm] = [await keyOf(noisy), await keyOf(quiet)];
    const flood = Array.from({ length: 400 }, () => grpc.call('GetStatus', status(noisy), loud));
    const others = Array.from({ length: burst }, () => grpc.call('GetStatus', status(quiet), calm));
    const [answered, admitted] = [await Promise.all(flood), await Promise.all(others)];
    const refused = answered.filter(({ code }) => code === 'RATE_LIMITED');
    expect(answered.filter(({ code }) => code === 'OK')).toHaveLength(burst);
    expect(refused).toHaveLength(400 - burst);
    expect(refused.every(({ retryAfterMs }) => retryAfterMs !== undefined && retryAfterMs > 0)).toBe(true);
    expect(admitted.map(({ code }) => code)).toEqual(Array.from({ length: burst }, () => 'OK'));
    // Another caller of the same tenant, at the other front door, finds the same limit.
    const route = httpRoutes.find(({ call, kind }) => call === 'GetStatus' && kind === 'json');
    if (route === undefined) throw new Error('there is no route for the status');
    const overHttp = await callHttp({ address: server.http, trustBundlePem: world.pki.trustBundlePem() }, route, { message: status(noisy), authorization: await keyOf(noisy) });
    expect(overHttp).toMatchObject({ code: 'RATE_LIMITED' });
    expect(overHttp.retryAfterMs).toBeGreaterThan(0);
  });

  it('do not let a stranger use up the calls of a tenant', async () => {
    const tenant = await world.makeTenant('aimed-at');
    const stranger = await keyOf(await world.makeTenant('stranger'));
    for (let index = 0; index < burst + 10; index += 1) expect((await grpc.call('GetStatus', status(tenant), stranger)).code).toBe('PERMISSION_DENIED');
    expect((await grpc.call('GetStatus', status(tenant), await keyOf(tenant))).code).toBe('OK');
  });

  it('bound the streams of one caller, and give a place back when one ends', async () => {
    const tenant = await world.makeTenant('streams');
    const key = await keyOf(tenant);
    const watch = () => grpc.open('WatchStatus', { namespace: tenant.namespace, site: '' }, key);
    const open = [watch(), watch(), watch()];
    await Promise.all(open.map(({ first }) => first));
    expect(await watch().ended).toBe('RATE_LIMITED');
    open[0]?.cancel();
    // The server hears of the end a moment later.
    for (;;) {
      const next = watch();
      const outcome = await Promise.race([next.first.then(() => 'open'), next.ended]);
      if (outcome === 'open') break;
      expect(outcome).toBe('RATE_LIMITED');
    }
    for (const { cancel } of open) cancel();
  });

  it('refuse a message above the bound of the listener', async () => {
    const tenant = await world.makeTenant('large');
    const message = { ...status(tenant), pageToken: 'x'.repeat(5 * 2 ** 20) };
    expect((await grpc.call('GetStatus', message, await keyOf(tenant))).code).toMatch(/larger than max/);
  });

  it('bound the guesses from one address, which cost a question each', async () => {
    const codes: string[] = [];
    for (let index = 0; index < 150; index += 1) codes.push((await grpc.call('GetStatus', status(quiet), `Bearer guess-${index}`)).code);
    expect(codes.at(-1)).toBe('RATE_LIMITED');
    expect(new Set(codes)).toEqual(new Set(['UNAUTHENTICATED', 'RATE_LIMITED']));
  });
});
