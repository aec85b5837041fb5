/**
 * The HTTPS API on a real database, over real TLS: streams that are resumed, answers that are refused before the first byte,
 * limits of HTTP, pages, certificates that are replaced.
 */
import { connect } from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';
import { serverName } from '#controller/pki/certificates.ts';
import { actor, publishAndClaim, makeHost } from '../db/builders.ts';
import { useFleetWorld, type FleetServer, type FleetWorld, type TestTenant } from '../identity/fleet-server.ts';
import { ask, read, type Answer, type Target } from './http-reader.ts';

let world: FleetWorld;
let server: FleetServer;
let tenant: TestTenant;
let target: Target;
let base: string;

const problemOf = ({ text }: Answer): { readonly code: string; readonly status: number; readonly detail: string; readonly fields?: readonly { readonly field: string }[] } => JSON.parse(text) as ReturnType<typeof problemOf>; // RFC 9457, by the server under test.

beforeAll(async () => {
  world = await useFleetWorld();
  tenant = await world.makeTenant('http');
  server = await world.serve();
  const { text } = await world.makeKey(tenant, { role: 'admin' });
  target = { address: server.http, trustBundlePem: world.pki.trustBundlePem(), token: text };
  base = `/v1/namespaces/${tenant.namespace}`;
});

describe('a watch of the status', () => {
  const path = (): string => `${base}/status/watch`;

  it('is resumed behind the last event: what was missed comes, and nothing twice', async () => {
    const first = await read(target, { path: path() });
    const synced = await first.waitFor(({ name }) => name === 'isSynced');
    expect(first.events.map(({ name }) => name)).toEqual(['site', 'host', 'microvm', 'plan', 'isSynced']);
    first.cut();

    const second = await read(target, { path: path(), headers: { 'last-event-id': synced.id } });
    await second.waitFor(({ name }) => name === 'isSynced');
    expect(second.events.map(({ name }) => name)).toEqual(['isSynced']);
    second.cut();

    // Behind the host: what came after it is due again.
    const host = first.events.find(({ name }) => name === 'host');
    const third = await read(target, { path: path(), headers: { 'last-event-id': host?.id ?? '' } });
    await third.waitFor(({ name }) => name === 'isSynced');
    expect(third.events.map(({ name }) => name)).toEqual(['microvm', 'plan', 'isSynced']);
    const at = third.events.at(-1)?.id ?? '';
    third.cut();

    await world.database.plans.cancel(tenant.tenantId, tenant.planId, actor);
    const fourth = await read(target, { path: path(), headers: { 'last-event-id': at } });
    const plan = await fourth.waitFor(({ name }) => name === 'plan');
    expect(plan.data).toMatchObject({ plan: { id: tenant.planId, status: 'PLAN_STATUS_CANCELLED' } });
    expect(fourth.events[0]?.name).not.toBe('reset');
    fourth.cut();
  });

  it('that nobody knows any more begins anew, and says so first', async () => {
    const reader = await read(target, { path: path(), headers: { 'last-event-id': 'unknown.7' } });
    await reader.waitFor(({ name }) => name === 'isSynced');
    expect(reader.events.map(({ name }) => name).slice(0, 3)).toEqual(['reset', 'site', 'host']);
    reader.cut();
  });

  it('is refused with a status and a problem before the first byte', async () => {
    expect(await ask({ ...target, token: 'nonsense' }, { path: path() })).toMatchObject({ status: 401, headers: { 'content-type': 'application/problem+json', 'www-authenticate': 'Bearer realm="nkudo"' } });
    const other = await ask(target, { path: '/v1/namespaces/kube-system/status/watch' });
    expect({ status: other.status, code: problemOf(other).code }).toEqual({ status: 403, code: 'PERMISSION_DENIED' });
    expect(problemOf(await ask(target, { path: `${path()}?site=Not_A_Name&page=2` })).fields?.map(({ field }) => field)).toEqual(['page', 'site']);
  });

  it('ends well when the server stops', async () => {
    const stopping = await world.serve();
    const reader = await read({ ...target, address: stopping.http }, { path: path() });
    await reader.waitFor(({ name }) => name === 'isSynced');
    await stopping.stop();
    await reader.ended;
    expect(reader.events.at(-1)?.name).not.toBe('problem');
  });
});

describe('a log', () => {
  const path = (): string => `${base}/microvms/by-uid/${tenant.microvmId}/logs`;
  const line = (): string => `hello from ${tenant.microvmName}\n`;

  it('is text, the whole or its end', async () => {
    expect(await ask(target, { path: path() })).toMatchObject({ status: 200, text: line() });
    expect(await ask(target, { path: `${path()}?tailBytes=4` })).toMatchObject({ status: 200, text: line().slice(-4) });
    expect((await ask(target, { path: `${path()}?source=disk&tailBytes=x` })).status).toBe(400);
  });

  it('as events goes on behind the place of the last one', async () => {
    const reader = await read(target, { path: `${path()}/watch`, headers: { 'last-event-id': '1.6' } });
    const event = await reader.waitFor(({ name }) => name === 'log');
    expect(event).toMatchObject({ id: `1.${line().length}`, data: { incarnation: 1, offset: 6, gapBytes: 0, data: Buffer.from(line().slice(6)).toString('base64') } });
    reader.cut();
  });
});

describe('a plan', () => {
  it('that has ended is sent once, and the stream says that it is over', async () => {
    const reader = await read(target, { path: `${base}/plans/${tenant.planId}/watch` });
    await reader.ended;
    expect(reader.events.map(({ name }) => name)).toEqual(['plan', 'end']);
  });

  it('is refused with every field that is wrong, of form and of rules', async () => {
    const answer = await ask(target, {
      method: 'POST', path: `${base}/plans`, headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ site: 'UPPER', namespace: 'x', actions: [{ kind: 'KIND_POD', name: 'a' }, { kind: 'KIND_STOP', name: 'b', uid: 'none', objectJson: '{}' }] }),
    });
    expect(answer.status).toBe(400);
    expect(problemOf(answer).fields?.map(({ field }) => field).toSorted()).toEqual(['actions[0].kind', 'actions[1].objectJson', 'actions[1].uid', 'idempotencyKey', 'namespace', 'site', 'actions[0].uid'].toSorted());
  });
});

describe('limits of HTTP', () => {
  const post = (body: string, type = 'application/json'): Promise<Answer> => ask(target, { method: 'POST', path: `${base}/plans`, headers: { 'content-type': type }, body });

  it('refuse what is too large or no JSON, each with a status of its own', async () => {
    const large = await post(JSON.stringify({ site: 'x'.repeat(4 * 2 ** 20) }));
    expect({ status: large.status, code: problemOf(large).code }).toEqual({ status: 413, code: 'INVALID_REQUEST' });
    expect((await post('{}', 'text/plain')).status).toBe(415);
    expect((await post('{')).status).toBe(400);
    expect((await post('[1]')).status).toBe(400);
    expect((await ask(target, { path: `${base}/sites`, headers: { 'x-large': 'x'.repeat(20_000) } })).status).toBe(431);
  });

  it('name a field that is there twice', async () => {
    expect(problemOf(await ask(target, { path: `${base}/sites?pageSize=1&pageSize=2` }))).toMatchObject({ code: 'INVALID_REQUEST', detail: 'pageSize must be there once' });
  });
});

describe('pages', () => {
  it('of every list give each object once, by opaque tokens', async () => {
    const fleet = { db: world.database, epoch: (await world.database.leadership.acquire(actor)).epoch, tenantId: tenant.tenantId, siteId: tenant.siteId, namespace: tenant.namespace };
    const host = await makeHost(fleet, 'paged');
    for (const name of ['p1', 'p2', 'p3', 'p4']) await publishAndClaim(fleet, host, { name });
    const walk = async (path: string, list: string, key: string): Promise<readonly unknown[]> => {
      const seen: unknown[] = [];
      for (let token = '', isFirst = true; isFirst || token !== ''; isFirst = false) {
        const answer = JSON.parse((await ask(target, { path: `${base}/${path}${path.includes('?') ? '&' : '?'}pageSize=2&pageToken=${token}` })).text) as Record<string, unknown>; // Of the server under test.
        seen.push(...(answer[list] as readonly Record<string, unknown>[]).map((each) => each[key]));
        token = String(answer['nextPageToken']);
      }
      return seen;
    };
    expect(await walk('microvms', 'microvms', 'name')).toEqual(['p1', 'p2', 'p3', 'p4', tenant.microvmName]);
    expect(await walk('microvms?host=paged', 'microvms', 'name')).toEqual(['p1', 'p2', 'p3', 'p4']);
    expect(await walk('hosts', 'hosts', 'name')).toEqual([tenant.hostName, 'paged'].toSorted());
    const plans = await walk('plans?includeController=true', 'plans', 'id');
    expect(new Set(plans).size).toBe(plans.length);
    expect(plans.length).toBe(6);
    const events = await walk('audit-events', 'events', 'id');
    expect(events).toEqual([...new Set(events)].toSorted((left, right) => Number(right) - Number(left)));
    expect((await ask(target, { path: `${base}/microvms?pageToken=made-up` })).status).toBe(400);
  });
});

describe('the certificate', () => {
  it('is replaced while the server runs', async () => {
    const [host = '', port = ''] = server.http.split(':');
    const fingerprint = (): Promise<string> =>
      new Promise((resolve, reject) => {
        const socket = connect({ host, port: Number(port), servername: serverName, rejectUnauthorized: false }, () => {
          resolve(socket.getPeerCertificate().fingerprint256);
          socket.destroy();
        });
        socket.on('error', reject);
      });
    const before = await fingerprint();
    expect(await fingerprint()).toBe(before);
    await world.pki.renewServerCertificate(Date.now() + 10 * 86_400_000);
    expect(await fingerprint()).not.toBe(before);
  });
});
