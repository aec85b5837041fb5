/**
 * The tenants' API of a real controller process on a real API server and Postgres, called by a foreign client:
 * an unchanged grpcurl that knows nothing but reflection.
 */
import { credentials, Metadata } from '@grpc/grpc-js';
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { FleetServiceClient, type WatchStatusResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { ensureGoTool } from '#hack/build-go-tools.ts';
import type { RunningProcess } from '#hack/stack/process.ts';
import { serverName } from '#controller/pki/certificates.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { useDatabase } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';

const run = promisify(execFile);

interface Addresses {
  readonly edge: string;
  readonly fleet: string;
  readonly http: string;
}

let kubernetes: TestKubernetes;
let controller: RunningProcess;
let addresses: Addresses;
let grpcurl: string;
let caFile: string;
let namespace: string;

/** Runs grpcurl; gives what it printed and whether it worked. */
async function curl(address: string, args: readonly string[], options: { readonly token?: string; readonly data?: object } = {}): Promise<{ readonly isOk: boolean; readonly text: string }> {
  const flags = ['-cacert', caFile, '-authority', serverName, '-max-time', '20'];
  if (options.token !== undefined) flags.push('-H', `authorization: Bearer ${options.token}`);
  if (options.data !== undefined) flags.push('-d', JSON.stringify(options.data));
  try {
    const { stdout } = await run(grpcurl, [...flags, address, ...args]);
    return { isOk: true, text: stdout };
  } catch (error) {
    const failed = error as { readonly stdout?: string; readonly stderr?: string }; // What execFile rejects with.
    return { isOk: false, text: `${failed.stdout ?? ''}${failed.stderr ?? ''}` };
  }
}

async function tokenFor(account: string, audience: string): Promise<string> {
  const { stdout } = await kubernetes.kubectl(['create', 'token', account, '--audience', audience], { namespace });
  return stdout.trim();
}

beforeAll(async () => {
  const scope = fileScope();
  const [api, database, programs, client] = await Promise.all([useKubernetes({ exclusive: true }), useDatabase(), scope.shared('programs'), ensureGoTool('grpcurl')]);
  kubernetes = api;
  grpcurl = client;
  const readyFile = join(scope.directory, 'ready.json');
  await kubernetes.kubectl(['create', 'namespace', 'nkudo-system'], { mayFail: true });
  controller = await scope.start({
    name: 'controller',
    command: programs.node,
    args: [programs.controller, 'serve'],
    environment: {
      KUBECONFIG: kubernetes.access.kubeconfig,
      NKUDO_DATABASE_URL: database.appUrl,
      NKUDO_DATABASE_SYSTEM_URL: database.systemUrl,
      NKUDO_EDGE_LISTEN: '127.0.0.1:0',
      NKUDO_FLEET_LISTEN: '127.0.0.1:0',
      NKUDO_HTTP_LISTEN: '127.0.0.1:0',
      NKUDO_READY_FILE: readyFile,
    },
  });
  await controller.waitForLine(/"msg":"ready"/);
  addresses = JSON.parse(readFileSync(readyFile, 'utf8')) as Addresses; // Written whole by the controller.
  const { stdout } = await kubernetes.kubectl(['get', 'secret', 'nkudo-ca', '-o', 'jsonpath={.data.root\\.crt}'], { namespace: 'nkudo-system' });
  caFile = join(scope.directory, 'ca.pem');
  writeFileSync(caFile, Buffer.from(stdout, 'base64'));
  namespace = await kubernetes.createNamespace('fleet');
  for (const account of ['reader', 'nobody']) await kubernetes.kubectl(['create', 'serviceaccount', account], { namespace });
  await kubernetes.kubectl(['create', 'role', 'reader', '--verb=get,list,watch', '--resource=microvms.nkudo.dev', '--resource=microvms.nkudo.dev/log'], { namespace });
  await kubernetes.kubectl(['create', 'rolebinding', 'reader', '--role=reader', `--serviceaccount=${namespace}:reader`], { namespace });
});

describe('a foreign client', () => {
  it('lists and describes what the fleet listener offers', async () => {
    const list = await curl(addresses.fleet, ['list']);
    expect(list.text.trim().split('\n').toSorted()).toEqual(['grpc.health.v1.Health', 'grpc.reflection.v1.ServerReflection', 'nkudo.v1.FleetService']);
    const service = await curl(addresses.fleet, ['describe', 'nkudo.v1.FleetService']);
    expect(service.text).toContain('rpc GetStatus ( .nkudo.v1.GetStatusRequest ) returns ( .nkudo.v1.GetStatusResponse );');
    // A message with a Timestamp: its import must come along.
    expect((await curl(addresses.fleet, ['describe', 'nkudo.v1.HostStatus'])).text).toContain('.google.protobuf.Timestamp last_beat_at = 5;');
    expect((await curl(addresses.fleet, ['describe', 'nkudo.v1.FleetService.GetPlan'])).isOk).toBe(true);
    expect((await curl(addresses.fleet, ['describe'])).isOk).toBe(true);
    expect((await curl(addresses.fleet, ['describe', 'nkudo.v1.Nothing'])).isOk).toBe(false);
  });

  it('asks for the health of the server and of a service', async () => {
    expect((await curl(addresses.fleet, ['grpc.health.v1.Health/Check'])).text).toContain('"status": "SERVING"');
    expect((await curl(addresses.fleet, ['grpc.health.v1.Health/Check'], { data: { service: 'nkudo.v1.FleetService' } })).text).toContain('SERVING');
    expect((await curl(addresses.fleet, ['grpc.health.v1.Health/Check'], { data: { service: 'other' } })).text).toContain('Code: NotFound');
  });

  it('finds no reflection on the listener for agents', async () => {
    const list = await curl(addresses.edge, ['list']);
    expect(list.isOk).toBe(false);
    expect(list.text).toContain('does not support the reflection API');
  });

  it('reads the status of its namespace with a token for the audience and the right, and nothing without them', async () => {
    const data = { namespace };
    const method = 'nkudo.v1.FleetService/GetStatus';
    expect((await curl(addresses.fleet, [method], { data })).text).toContain('Code: Unauthenticated');
    expect((await curl(addresses.fleet, [method], { data, token: 'nonsense' })).text).toContain('Code: Unauthenticated');
    expect((await curl(addresses.fleet, [method], { data, token: await tokenFor('reader', 'https://kubernetes.default.svc') })).text).toContain('Code: Unauthenticated');
    const denied = await curl(addresses.fleet, [method], { data, token: await tokenFor('nobody', 'nkudo') });
    expect(denied.text).toContain('Code: PermissionDenied');
    expect(denied.text).toContain(`may not list microvms in namespace ${namespace}`);
    const token = await tokenFor('reader', 'nkudo');
    expect((await curl(addresses.fleet, [method], { data: { namespace: 'kube-system' }, token })).text).toContain('Code: PermissionDenied');
    // Allowed, but the namespace has no site: there is no tenant yet.
    expect((await curl(addresses.fleet, [method], { data, token })).text).toContain('Code: NotFound');
  });

  it('is told every field of a plan that is wrong, and which right it lacks', async () => {
    const token = await tokenFor('nobody', 'nkudo');
    const method = 'nkudo.v1.FleetService/ApplyPlan';
    const wrong = await curl(addresses.fleet, [method], { data: { namespace }, token });
    expect(wrong.text).toContain('Code: InvalidArgument');
    for (const name of ['site', 'idempotency_key', 'actions']) expect(wrong.text).toContain(`${name} must`);
    const action = { kind: 'KIND_DELETE', name: 'web', uid: randomUUID() };
    const denied = await curl(addresses.fleet, [method], { data: { namespace, site: 'shop-1', idempotencyKey: 'one', actions: [action] }, token });
    expect(denied.text).toContain('Code: PermissionDenied');
    expect(denied.text).toContain(`may not delete microvms web in namespace ${namespace}`);
  });
});

describe('the status of a tenant', () => {
  it('is read, and watched from the list through each change', async () => {
    const site = (name: string): string => JSON.stringify({ apiVersion: 'nkudo.dev/v1alpha1', kind: 'Site', metadata: { name }, spec: {} });
    await kubernetes.kubectl(['apply', '-f', '-'], { namespace, input: site('shop-1') });
    const token = await tokenFor('reader', 'nkudo');
    await until(async () => (await curl(addresses.fleet, ['nkudo.v1.FleetService/GetStatus'], { data: { namespace }, token })).text.includes('"name": "shop-1"'), 'the site in the status');
    expect((await curl(addresses.fleet, ['nkudo.v1.FleetService/ListExecutions'], { data: { namespace }, token })).isOk).toBe(true);
    expect((await curl(addresses.fleet, ['nkudo.v1.FleetService/GetStatus'], { data: { namespace, pageToken: 'made-up' }, token })).text).toContain('Code: InvalidArgument');
    expect((await curl(addresses.fleet, ['nkudo.v1.FleetService/GetPlan'], { data: { namespace, planId: randomUUID() }, token })).text).toContain('Code: NotFound');

    const client = new FleetServiceClient(addresses.fleet, credentials.createSsl(readFileSync(caFile)), { 'grpc.ssl_target_name_override': serverName });
    fileScope().defer(() => client.close());
    const metadata = new Metadata();
    metadata.set('authorization', `Bearer ${token}`);
    const watching = client.watchStatus({ namespace, site: '' }, metadata);
    const seen: string[] = [];
    const waiters: (() => void)[] = [];
    watching.on('error', () => {});
    watching.on('data', ({ change }: WatchStatusResponse) => {
      seen.push(change?.$case === 'site' ? `site ${change.value.name}` : (change?.$case ?? 'nothing'));
      waiters.splice(0).forEach((wake) => wake());
    });
    const sees = async (what: string): Promise<void> => {
      while (!seen.includes(what)) await new Promise<void>((resolve) => waiters.push(resolve));
    };
    await sees('isSynced');
    expect(seen).toEqual(['site shop-1', 'isSynced']);
    await kubernetes.kubectl(['apply', '-f', '-'], { namespace, input: site('shop-2') });
    await sees('site shop-2');
    watching.cancel();
  });
});

describe('the process', () => {
  it('says whether it is ready, and shows its metrics', async () => {
    await until(async () => (await fetch(`http://${addresses.http}/readyz`)).ok, 'readiness');
    expect(await (await fetch(`http://${addresses.http}/readyz`)).text()).toContain('[+]database ok');
    const metrics = await (await fetch(`http://${addresses.http}/metrics`)).text();
    expect(metrics).toContain('nkudo_grpc_calls_total{method="/grpc.health.v1.Health/Check",code="OK"}');
    expect((await fetch(`http://${addresses.http}/livez`)).status).toBe(200);
    expect((await fetch(`http://${addresses.http}/other`)).status).toBe(404);
  });

  it('gives the Lease back and ends with 0 when it is asked to stop', async () => {
    await controller.stop();
    expect(controller.exitStatus()).toMatchObject({ code: 0 });
    const { stdout } = await kubernetes.kubectl(['get', 'lease', 'nkudo-controller', '-o', 'jsonpath={.spec.holderIdentity}'], { namespace: 'nkudo-system' });
    expect(stdout).toBe('');
  });
});
