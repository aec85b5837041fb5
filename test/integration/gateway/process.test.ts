/**
 * The controller process while its servers go away: Postgres is killed, the API server can't be reached. It stays,
 * says so on its health port, keeps its hosts connected, and works again when they are back.
 */
import { createHash, randomBytes, randomUUID, X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer, type ServerResponse } from 'node:http';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import type { PostgresCluster } from '#hack/stack/postgres.ts';
import type { RunningProcess } from '#hack/stack/process.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { useDatabase, useDedicatedPostgres } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { makeFleet, makeHost, openTestDatabase, publish, publishInput } from '../db/builders.ts';
import { call, codeOf, dialEdge, enroll, hello, makeHostKey, openHeartbeat, type EdgeClient, type HeartbeatStream } from './edge-client.ts';

/** Passes bytes on, until it is told that the network is cut. */
async function startProxy(target: URL): Promise<{ readonly port: number; cut(): void; heal(): void; close(): void }> {
  const sockets = new Set<Socket>();
  let isCut = false;
  const server = createServer((client) => {
    if (isCut) return client.destroy();
    const upstream = connect(Number(target.port), target.hostname);
    for (const [from, to] of [[client, upstream], [upstream, client]] as const) {
      sockets.add(from);
      from.on('error', () => {}).on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port, // A TCP server that listens.
    cut: () => {
      isCut = true;
      for (const socket of sockets) socket.destroy();
    },
    heal: () => {
      isCut = false;
    },
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

/** A log sink that takes everything, or from a moment on answers nothing. */
async function startSink(): Promise<{ readonly url: string; isHanging: boolean; held(): number; release(): void }> {
  const held = new Set<ServerResponse>();
  const server = createHttpServer((request, response) => {
    request.resume();
    if (sink.isHanging) held.add(response);
    else response.writeHead(204).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const sink = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/loki/api/v1/push`, // A TCP server that listens.
    isHanging: false,
    held: () => held.size,
    release: () => {
      sink.isHanging = false;
      for (const response of held) response.destroy();
    },
  };
  fileScope().defer(() => {
    sink.release();
    server.close();
  });
  return sink;
}

let kubernetes: TestKubernetes;
let sink: Awaited<ReturnType<typeof startSink>>;
let writeLog: () => Promise<unknown>;
let postgres: PostgresCluster;
let controller: RunningProcess;
let proxy: Awaited<ReturnType<typeof startProxy>>;
let http: string;
let client: EdgeClient;
let stream: HeartbeatStream;

async function readyz(): Promise<{ readonly isReady: boolean; readonly text: string }> {
  const response = await fetch(`http://${http}/readyz`);
  return { isReady: response.ok, text: await response.text() };
}

beforeAll(async () => {
  const scope = fileScope();
  const [api, cluster, programs] = await Promise.all([useKubernetes({ exclusive: true }), useDedicatedPostgres(), scope.shared('programs')]);
  kubernetes = api;
  postgres = cluster;
  const database = await useDatabase({ postgres });
  // A guest with something to say, and somebody who hears it.
  sink = await startSink();
  const db = openTestDatabase(database);
  scope.defer(() => db.close());
  const fleet = await makeFleet(db);
  const owner = await makeHost(fleet);
  const { microvmId } = await publish(fleet, publishInput(fleet, owner));
  writeLog = () => db.logs.append(fleet.tenantId, owner.hostId, { microvmId, source: 'serial', incarnation: 1, offset: 0, data: Buffer.from('hello\n'), gapBytes: 0 });
  const kubeconfig = readFileSync(kubernetes.access.kubeconfig, 'utf8');
  const server = /https:\/\/[^"\s]+/.exec(kubeconfig)?.[0] ?? '';
  proxy = await startProxy(new URL(server));
  scope.defer(() => proxy.close());
  const throughProxy = join(scope.directory, 'kubeconfig-proxy');
  writeFileSync(throughProxy, kubeconfig.replace(server, `https://127.0.0.1:${proxy.port}`), { mode: 0o600 });
  const readyFile = join(scope.directory, 'ready.json');
  await kubernetes.kubectl(['create', 'namespace', 'nkudo-system'], { mayFail: true });
  controller = await scope.start({
    name: 'controller',
    command: programs.node,
    args: [programs.controller, 'serve'],
    environment: {
      KUBECONFIG: throughProxy,
      NKUDO_DATABASE_URL: database.appUrl,
      NKUDO_DATABASE_SYSTEM_URL: database.systemUrl,
      NKUDO_EDGE_LISTEN: '127.0.0.1:0',
      NKUDO_FLEET_LISTEN: '127.0.0.1:0',
      NKUDO_HTTP_LISTEN: '127.0.0.1:0',
      NKUDO_READY_FILE: readyFile,
      NKUDO_LOG_SINK: 'loki',
      NKUDO_LOG_SINK_URL: sink.url,
    },
  });
  await controller.waitForLine(/"msg":"ready"/);
  const addresses = JSON.parse(readFileSync(readyFile, 'utf8')) as { edge: string; http: string }; // Written whole by the controller.
  http = addresses.http;
  await until(async () => (await readyz()).isReady, 'readiness');
  // A site and a token as a user makes them; the secret text comes from the Secret that the status names.
  const namespace = await kubernetes.createNamespace('process');
  const input = ['Site', 'EnrollmentToken'].map((kind) => JSON.stringify({ apiVersion: 'nkudo.dev/v1alpha1', kind, metadata: { name: 'shop' }, spec: kind === 'Site' ? {} : { siteRef: { name: 'shop' } } })).join('\n---\n');
  await kubernetes.kubectl(['apply', '-f', '-'], { namespace, input });
  await kubernetes.kubectl(['wait', '--for=condition=Ready', 'enrollmenttoken/shop', '--timeout=60s'], { namespace });
  const { stdout } = await kubernetes.kubectl(['get', 'secret', 'shop-token', '-o', 'jsonpath={.data.token}'], { namespace });
  const ca = await kubernetes.kubectl(['get', 'secret', 'nkudo-ca', '-o', 'jsonpath={.data.root\\.crt}'], { namespace: 'nkudo-system' });
  const trustBundlePem = Buffer.from(ca.stdout, 'base64').toString();
  const anonymous = dialEdge({ address: addresses.edge, trustBundlePem });
  const key = await makeHostKey();
  const enrolled = await enroll(anonymous, { token: Buffer.from(stdout, 'base64').toString(), key, hostName: `h-${createHash('sha256').update(randomBytes(8)).digest('hex').slice(0, 8)}` });
  anonymous.close();
  client = dialEdge({ address: addresses.edge, trustBundlePem, identity: { keyPem: key.keyPem, chainPem: enrolled.certificateChainPem } });
  scope.defer(() => client.close());
  await kubernetes.kubectl(['wait', '--for=jsonpath={.metadata.name}', `nkhost/${enrolled.hostName}`, '--timeout=60s'], { namespace, mayFail: true });
  stream = openHeartbeat(client);
  stream.send(hello(randomUUID()));
  await stream.next('welcome');
});

async function beatIsAnswered(): Promise<void> {
  stream.send({ $case: 'beat', value: { sequence: 1 } });
  await stream.next('ack');
}

const report = (): Promise<string> => codeOf(call(client.edge.reportExecutions.bind(client.edge), { executions: [], observations: [] }));

it('stays when Postgres is killed, tells so, keeps its hosts, and goes on when it is back', async () => {
  await postgres.crash();
  await until(async () => !(await readyz()).isReady, 'unreadiness');
  expect((await readyz()).text).toContain('[-]database failed');
  expect(await report()).toBe('DATABASE_UNAVAILABLE');
  await beatIsAnswered();
  await postgres.start();
  await until(async () => (await readyz()).isReady, 'readiness after the restart');
  expect(await report()).toBe('OK');
  await beatIsAnswered();
  expect(controller.exitStatus()).toBeNull();
});

it('steps down when the API server is away for longer than the Lease can wait, also with a log sink that hangs, keeps its hosts, and leads again', async () => {
  const begun = controller.lines().length;
  proxy.cut();
  // Some seconds into the time that the Lease has, so that the delivery outlasts it and the step-down.
  await until(() => controller.lines().slice(begun).filter((line) => line.includes('lease request failed')).length >= 3, 'the Lease to be missed');
  sink.isHanging = true;
  await writeLog();
  await until(() => sink.held() > 0, 'the sink to be asked');
  await controller.waitForLine(/stepping down/);
  await controller.waitForLine(/logs could not be handed to the sink/, { after: begun });
  await beatIsAnswered();
  expect(await report()).toBe('OK');
  const before = controller.lines().filter((line) => line.includes('"msg":"leading"')).length;
  sink.release();
  proxy.heal();
  await until(() => controller.lines().filter((line) => line.includes('"msg":"leading"')).length > before, 'leadership');
  await until(async () => (await readyz()).isReady, 'readiness after the cut');
  await beatIsAnswered();
  expect(controller.exitStatus()).toBeNull();
});

it('ca rotate leaves a new intermediate below the root of before, and the root and the controller as they are', async () => {
  const readAuthority = async (): Promise<{ readonly root: X509Certificate; readonly intermediate: X509Certificate; readonly rootKey: string }> => {
    const { stdout } = await kubernetes.kubectl(['get', 'secret', 'nkudo-ca', '-o', 'json'], { namespace: 'nkudo-system' });
    const { data } = JSON.parse(stdout) as { data: Record<string, string> }; // A Secret as kubectl prints it.
    const field = (name: string): string => Buffer.from(data[name] ?? '', 'base64').toString();
    return { root: new X509Certificate(field('root.crt')), intermediate: new X509Certificate(field('intermediate.crt')), rootKey: field('root.key') };
  };
  const before = await readAuthority();
  const scope = fileScope();
  const programs = await scope.shared('programs');
  const rotate = await scope.start({ name: 'rotate', command: programs.node, args: [programs.controller, 'ca', 'rotate'], environment: { KUBECONFIG: kubernetes.access.kubeconfig } });
  const end = await rotate.exited;
  expect(end.code, rotate.lines().join('\n')).toBe(0);
  expect(rotate.lines().join('\n')).not.toContain('PRIVATE KEY');
  const after = await readAuthority();
  expect(after.root.fingerprint256).toBe(before.root.fingerprint256);
  expect(after.rootKey).toBe(before.rootKey);
  expect(after.intermediate.fingerprint256).not.toBe(before.intermediate.fingerprint256);
  expect(after.intermediate.checkIssued(after.root) && after.intermediate.verify(after.root.publicKey)).toBe(true);
  await beatIsAnswered();
});
