/**
 * The authorisation matrix of the tenants' API: every method of the proto and every route over HTTPS, with every kind of
 * credential that must be refused and every id of another tenant inside the message. Real Postgres, real API server.
 */
import { Server } from '@grpc/grpc-js';
import pino from 'pino';
import { beforeAll, describe, expect, it } from 'vitest';
import { PlanAction_Kind } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { encodeApiKey } from '#api/codec/api-key.ts';
import { createCallLimits, defaultCallLimits } from '#controller/domain/quota/call-limits.ts';
import { fleetRights, roleAllows, roleRights, writeRights, type FleetMethod, type ResourceRight } from '#controller/fleet-api/rights.ts';
import { fleetAccess } from '#controller/fleet-api/fleet-service.ts';
import { registerServices } from '#controller/grpc/access.ts';
import { createHttpApi } from '#controller/http-api/server.ts';
import { httpRoutes, type HttpRoute } from '#controller/http-api/routes.ts';
import { FleetServiceService } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { callHttp, dialGrpc, type GrpcClient, type Message, type Outcome } from '../identity/fleet-client.ts';
import { useFleetWorld, type FleetServer, type FleetWorld, type TestTenant } from '../identity/fleet-server.ts';
import { makeAccount, requestToken, withExpiry } from '../identity/kubernetes-callers.ts';
import { createSnapshots, runMatrix, type Cell } from './matrix.ts';
import { idFieldsOf, sampleOf, unknownFieldsOf, withForeign } from './samples.ts';

/** One way to make a call: a method over gRPC or a route over HTTPS. */
interface Door {
  readonly name: string;
  readonly method: FleetMethod;
  readonly call: (message: Message, authorization: string | undefined) => Promise<Outcome>;
  /** Fields that can be sent this way. */
  readonly takes: (field: string) => boolean;
}

const methods = Object.keys(fleetRights) as FleetMethod[]; // Keys of a closed record.
const allRights: readonly ResourceRight[] = [...roleRights.read, ...roleRights.operate, ...roleRights.admin];
const kinds = { Create: PlanAction_Kind.CREATE, Start: PlanAction_Kind.START, Stop: PlanAction_Kind.STOP, Delete: PlanAction_Kind.DELETE } as const;
const same = (left: ResourceRight, right: ResourceRight): boolean => left.verb === right.verb && left.resource === right.resource && left.subresource === right.subresource;
const accountWithout = (right: ResourceRight): string => `not-${right.verb}-${right.resource}${right.subresource === undefined ? '' : `-${right.subresource}`}`;

/** Enough for a matrix that is walked at once. */
const wide = { perSecond: 1e6, burst: 1e6 };
const limits = () => createCallLimits({ ...defaultCallLimits, caller: wide, tenant: wide, unknownCredentials: wide });

let world: FleetWorld;
let server: FleetServer;
let own: TestTenant;
let other: TestTenant;
/** Credentials that nobody may use, by what is wrong with them. */
let invalid: Readonly<Record<string, string | undefined>>;
let strangers: Readonly<Record<string, string>>;
let admin: string;
let adminKey: string;
let lowerKeys: Readonly<Record<'read' | 'operate', string>>;
let siteKey: string;
let snapshot: () => Promise<string>;
const lowerAccounts = new Map<string, string>();

const bearer = (text: string): string => `Bearer ${text}`;

function doorsOf(at: FleetServer, grpc: GrpcClient): readonly Door[] {
  const trustBundlePem = world.pki.trustBundlePem();
  const overHttp = (route: HttpRoute): Door => ({
    name: `${route.method} ${route.path}`,
    method: route.call,
    call: (message, authorization) => callHttp({ address: at.http, trustBundlePem }, route, { message, authorization }),
    takes: (field) => !(route.without ?? []).includes(field) && (route.takes !== 'nothing' || route.path.includes(`{${field}}`)),
  });
  return [
    ...methods.map((method): Door => ({ name: method, method, call: (message, authorization) => grpc.call(method, message, authorization), takes: () => true })),
    ...httpRoutes.map(overHttp),
  ];
}

function dial(at: FleetServer): readonly Door[] {
  const grpc = dialGrpc(at.grpc, world.pki.trustBundlePem());
  fileScope().defer(() => grpc.close());
  return doorsOf(at, grpc);
}

/** A route that names by UID gets the UID, one that names by name the name. */
function messageFor(door: Door, tenant: TestTenant, kind?: PlanAction_Kind): Message {
  const message = sampleOf(door.method, tenant, kind);
  const byId = ['uid', 'id'].find((field) => door.takes(field) && !door.takes('name') && field in message);
  return byId === undefined ? message : withForeign(door.method, byId, { own: tenant, foreign: tenant });
}

function refusedCells(door: Door): readonly Cell[] {
  const cell = (what: string, expected: string, message: Message, authorization: string | undefined): Cell => ({
    name: `${door.name} × ${what}`, expected, call: () => door.call(message, authorization),
  });
  const message = messageFor(door, own);
  const lowerKey = (role: 'read' | 'operate', needs: ResourceRight, asked: Message): Cell[] =>
    roleAllows(role, needs) ? [] : [cell(`API key of role ${role}`, 'PERMISSION_DENIED', asked, bearer(lowerKeys[role]))];
  const rights = fleetRights[door.method];
  const lower = (needs: ResourceRight, asked: Message, what = ''): Cell[] => [
    cell(`every right but this one${what}`, 'PERMISSION_DENIED', asked, bearer(lowerAccounts.get(accountWithout(needs)) ?? '')),
    ...lowerKey('read', needs, asked),
    ...lowerKey('operate', needs, asked),
  ];
  return [
    ...Object.entries(invalid).map(([what, authorization]) => cell(what, 'UNAUTHENTICATED', message, authorization)),
    ...Object.entries(strangers).map(([what, token]) => cell(what, 'PERMISSION_DENIED', message, bearer(token))),
    cell('API key of another site', 'PERMISSION_DENIED', message, bearer(siteKey)),
    ...(rights === 'perWrite'
      ? [
          ...(['Create', 'Start', 'Stop', 'Delete'] as const).flatMap((kind) => lower(writeRights[kind], messageFor(door, own, kinds[kind]), ` (${kind})`)),
          ...lower({ verb: 'force', resource: 'microvms' }, { ...message, force: true }, ' (force)'),
        ]
      : lower(rights, message)),
  ];
}

/** Answers that are empty where a filter names what the tenant does not have. */
const filters: ReadonlySet<FleetMethod> = new Set(['GetStatus', 'WatchStatus', 'ListExecutions', 'ListSites', 'ListHosts', 'ListMicroVMs', 'ListPlans', 'ListAuditEvents', 'TailLogs']);

function foreignCells(door: Door): readonly Cell[] {
  const { name, tenantId, siteName, hostName, microvmName } = { name: door.name, ...other };
  const hidden = [tenantId, other.namespace, `"${siteName}"`, `"${hostName}"`, `"${microvmName}"`, `hello from ${microvmName}`];
  const ofField = (field: string): Cell => ({
    name: `${name} × ${field} of another tenant`,
    expected: door.method === 'ApplyPlan' ? 'SITE_NOT_FOUND' : filters.has(door.method) ? 'OK' : 'NOT_FOUND',
    hidden,
    call: () => door.call(withForeign(door.method, field, { own, foreign: other }), bearer(admin)),
  });
  const cells = idFieldsOf(door.method).filter((field) => door.takes(field)).map(ofField);
  if (door.method !== 'ApplyPlan') return cells;
  const foreignAction = { ...messageFor(door, own), actions: [{ kind: kinds.Stop, name: other.microvmName, uid: other.microvmId, objectJson: '' }] };
  const dryRun: Cell = {
    name: `${name} × actions[0].uid of another tenant, dry run`, expected: 'OK', shows: ['NOT_FOUND'],
    call: () => door.call({ ...foreignAction, dryRun: true, idempotencyKey: '' }, bearer(admin)),
  };
  return [...cells, dryRun];
}

beforeAll(async () => {
  world = await useFleetWorld();
  snapshot = await createSnapshots(world.rows);
  [own, other] = [await world.makeTenant('own'), await world.makeTenant('other')];
  server = await world.serve({ limits: limits() });
  const { kubernetes } = world;
  const token = async (tenant: TestTenant, name: string, rights: readonly ResourceRight[]): Promise<string> => {
    await makeAccount(kubernetes, tenant.namespace, { name, rights });
    return requestToken(kubernetes, tenant.namespace, { name, audience: 'nkudo' });
  };
  const distinct = allRights.filter((right, index) => allRights.findIndex((each) => same(each, right)) === index);
  admin = await token(own, 'admin', distinct);
  for (const right of distinct) lowerAccounts.set(accountWithout(right), await token(own, accountWithout(right), distinct.filter((each) => !same(each, right))));
  const { text, id, secret } = await world.makeKey(own, { role: 'admin' });
  adminKey = text;
  const revoked = await world.makeKey(own, { role: 'admin' });
  await world.revokeKey(own, revoked.id);
  const expired = await world.makeKey(own, { role: 'admin', ttlMs: -1_000 });
  const flipped = Buffer.from(secret);
  flipped[0] = (flipped[0] ?? 0) ^ 1;
  invalid = {
    'no credentials': undefined,
    'another scheme': 'Basic YWRtaW46YWRtaW4=',
    'no token': 'Bearer',
    'nonsense as token': bearer('nonsense'),
    'token of the audience that has expired': bearer(withExpiry(admin, world.signingKeyFile, Math.floor(Date.now() / 1000) - 60)),
    'token of the API server’s own audience': bearer(await requestToken(kubernetes, own.namespace, { name: 'admin', audience: null })),
    'API key with a letter wrong': bearer(`${adminKey.slice(0, -1)}${adminKey.endsWith('A') ? 'B' : 'A'}`),
    'API key with another secret': bearer(encodeApiKey({ keyId: id, secret: flipped })),
    'API key that never was': bearer(encodeApiKey({ keyId: own.tenantId, secret })),
    'revoked API key': bearer(revoked.text),
    'expired API key': bearer(expired.text),
  };
  strangers = {
    'administrator of another tenant': await token(other, 'admin', distinct),
    'API key of another tenant': (await world.makeKey(other, { role: 'admin' })).text,
    'account without rights': await token(own, 'nobody', []),
  };
  lowerKeys = { read: (await world.makeKey(own, { role: 'read' })).text, operate: (await world.makeKey(own, { role: 'operate' })).text };
  siteKey = (await world.makeKey(own, { role: 'admin', siteName: 'elsewhere' })).text;
});

describe('the authorisation matrix', () => {
  it('knows every field of every request, and every method of the proto', () => {
    const unknown = methods.flatMap((method) => unknownFieldsOf(method).map((field) => `${method}.${field}`));
    expect(unknown, 'say in samples.ts whether these name something of a tenant').toEqual([]);
    expect(Object.values(FleetServiceService).map(({ path }) => path.split('/').at(-1)).toSorted()).toEqual(methods.toSorted());
    expect([...new Set(httpRoutes.map((route) => route.call))].toSorted()).toEqual(methods.toSorted());
  });

  it('[C1] refuses every call of both front doors to everybody who may not make it, with the expected code and no change in any row', async () => {
    const doors = dial(server);
    const refused = await runMatrix(snapshot, doors.flatMap(refusedCells));
    const foreign = await runMatrix(snapshot, doors.flatMap(foreignCells));
    console.log(`[C1] ${doors.length} routes, ${refused.cells} cells of callers and ${foreign.cells} cells of foreign ids`);
    expect([...refused.failures, ...foreign.failures]).toEqual([]);
  });

  it('[C1] answers each of those calls to an administrator by token, and by API key, so that the refusals above mean something', async () => {
    const failures: string[] = [];
    // The signature made with the API server's key is a good one: only its end is wrong in the cell above.
    const renewed = withExpiry(admin, world.signingKeyFile, Math.floor(Date.now() / 1000) + 600);
    for (const door of dial(server)) {
      for (const token of [admin, adminKey, renewed]) {
        const outcome = await door.call(messageFor(door, own), bearer(token));
        if (outcome.code !== 'OK') failures.push(`${door.name}: ${outcome.code}`);
      }
    }
    const here = await world.makeKey(own, { role: 'read', siteName: own.siteName });
    for (const door of dial(server)) {
      const rights = fleetRights[door.method];
      if (rights === 'perWrite' || !roleAllows('read', rights) || door.method === 'ListSites') continue;
      const message = messageFor(door, own);
      const isWhole = ['GetStatus', 'WatchStatus', 'ListExecutions', 'ListHosts', 'ListMicroVMs', 'ListPlans'].includes(door.method);
      const outcome = await door.call(isWhole ? { ...message, site: own.siteName } : message, bearer(here.text));
      // By its UID a site is not known to be the one of the key.
      if (outcome.code !== (door.name.endsWith('/sites/by-uid/{uid}') ? 'PERMISSION_DENIED' : 'OK')) failures.push(`${door.name} with a key of the site: ${outcome.code}`);
    }
    expect(failures).toEqual([]);
  });

  it('[C1] a plan that names a microVM of another tenant changes nothing there, and only the row of its own', async () => {
    const [door] = dial(server).filter(({ name }) => name === 'ApplyPlan');
    const theirs = async (): Promise<string> =>
      JSON.stringify(await Promise.all(['plans', 'plan_actions', 'operations', 'microvms', 'audit_events'].map((table) => world.rows.query(`select count(*)::int as n from nkudo.${table} where tenant_id = $1`, [other.tenantId]))));
    const before = await theirs();
    const message = { ...sampleOf('ApplyPlan', own), actions: [{ kind: kinds.Delete, name: other.microvmName, uid: other.microvmId, objectJson: '' }] };
    expect(await door?.call(message, bearer(admin))).toMatchObject({ code: 'OK' });
    expect(await theirs()).toBe(before);
  });
});

describe('the matrix itself turns red', () => {
  const failuresOf = async (at: FleetServer, ofMethod: FleetMethod): Promise<readonly string[]> => {
    const doors = dial(at).filter(({ method }) => method === ofMethod);
    const { failures } = await runMatrix(snapshot, [...doors.flatMap(refusedCells), ...doors.flatMap(foreignCells)]);
    await at.stop();
    return failures;
  };

  it('[C1] when one route is made public and answers for somebody else', async () => {
    const seeded = await world.serve({
      limits: limits(),
      authentication: (plain) => ({
        ...plain,
        authenticateHeader: (_authorization, peer) => plain.authenticateHeader(bearer(admin), peer),
        authenticate: (_metadata, peer) => plain.authenticateHeader(bearer(admin), peer),
      }),
    });
    const failures = await failuresOf(seeded, 'GetPlan');
    console.log(`[C1] seeded: a public route, ${failures.length} cells red`);
    expect(failures.filter((line) => line.includes('no credentials: OK'))).toHaveLength(2);
  });

  it('[C1] when a handler forgets to ask for a right, and its answer does not leave even so', async () => {
    const seeded = await world.serve({
      limits: limits(),
      calls: (calls) => ({ ...calls, GetPlan: () => Promise.resolve({ plan: undefined }) }),
    });
    const failures = await failuresOf(seeded, 'GetPlan');
    console.log(`[C1] seeded: a handler without a right, ${failures.length} cells red`);
    expect(failures.some((line) => line.includes('administrator of another tenant: INTERNAL, not PERMISSION_DENIED'))).toBe(true);
    expect(failures.filter((line) => line.includes(': OK, not'))).toEqual([]);
  });

  it('[C1] when a handler takes the tenant from its message', async () => {
    const seeded = await world.serve({
      limits: limits(),
      authentication: (plain) => ({ ...plain, authorize: (caller, _namespace, right, target) => plain.authorize(caller, caller.user.username.includes(other.namespace) ? other.namespace : own.namespace, right, target) }),
    });
    const failures = await failuresOf(seeded, 'GetPlan');
    console.log(`[C1] seeded: the right is asked for in the caller's own namespace, ${failures.length} cells red`);
    expect(failures.some((line) => line.includes('administrator of another tenant: OK, not PERMISSION_DENIED'))).toBe(true);
  });
});

describe('a handler outside the table', () => {
  it('[C1] fails the start over gRPC, as does a rule without a handler', () => {
    const { GetPlan: _rule, ...rest } = Object.fromEntries(Object.entries(fleetAccess).map(([path, rule]) => [path.split('/').at(-1) ?? '', [path, rule] as const]));
    const without = Object.fromEntries(Object.values(rest));
    const services = [{ definition: FleetServiceService, implementation: {} }];
    expect(() => registerServices(new Server(), without, services)).toThrow('no access rule for /nkudo.v1.FleetService/GetPlan');
    expect(() => registerServices(new Server(), { ...fleetAccess, '/nkudo.v1.FleetService/Gone': 'caller' }, services)).toThrow('access rules without a handler: /nkudo.v1.FleetService/Gone');
  });

  it('[C1] fails the start over HTTPS', async () => {
    const { createServer } = await import('node:https');
    const api = createHttpApi(
      { calls: {} as never, authentication: {} as never, log: pino({ level: 'silent' }), clock: { nowMs: () => 0, monotonicMs: () => 0 }, uuid: () => '', allowedOrigins: [] }, // Nothing is called.
      (handler) => createServer({}, handler),
    );
    expect(() => api.app.get('/v1/namespaces/:namespace/secrets', () => 'all of them')).toThrow('no access rule for GET /v1/namespaces/:namespace/secrets');
    await api.app.close();
  });
});
