/**
 * [E7] Values of the Secrets of a spec are on the host of their microVM and nowhere else: two hosts, the real controller,
 * Postgres and API server; everything that anybody could read is read and searched for the values.
 */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { randomBytes } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { filesBelow, formsOf, readProcesses, startHunt, type Hunt } from './secret-hunt.ts';
import { createWorld, type TestHost, type World } from './world.ts';

/** Letters and digits only, so that no encoder changes them; the second one comes with a change of the Secret. */
const canaries = ['first', 'second', 'absent'].map((name) => `canary${name}${randomBytes(12).toString('hex')}`);
const [first = '', second = '', absent = ''] = canaries;

let world: World;
let holder: TestHost;
let other: TestHost;
let object: KubernetesObject;
const traces: Buffer[] = [];

/** Takes whatever the controller exports. */
async function startCollector(): Promise<string> {
  const server = createServer((request, response) => {
    request.on('data', (chunk: Buffer) => traces.push(chunk)).on('end', () => response.writeHead(200, { 'content-type': 'application/json' }).end('{}'));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  fileScope().defer(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`; // It listens on TCP.
}

async function putSecret(name: string, value: string, labels: Readonly<Record<string, string>> = { 'nkudo.dev/guest': 'true' }): Promise<void> {
  const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace: world.namespace, labels }, stringData: { 'user-data': `#cloud-config\npassword: ${value}\n` } };
  await world.kubernetes.client.apply(`/api/v1/namespaces/${world.namespace}/secrets/${name}`, secret);
}

const seedPath = (): string => join(holder.stateDirectory, 'vms', String(object.metadata.uid), 'seed.iso');
const userData = (name: string) => ({ cloudInit: { userDataSecretRef: { name, key: 'user-data' } } });

beforeAll(async () => {
  world = await createWorld({ controllerEnvironment: { OTEL_EXPORTER_OTLP_ENDPOINT: await startCollector() } });
  await world.startController();
  await world.createSite();
  holder = await world.addHost('edge-1');
  other = await world.addHost('edge-2');
  // All that a value goes through: its first start, a change, a restart, deaths of both programs, a refusal.
  await putSecret('till-init', first);
  await world.applyMicroVM('till', { ...userData('till-init'), placement: { hostName: 'edge-1' } });
  await world.applyMicroVM('neighbour', { placement: { hostName: 'edge-2' } });
  object = await world.waitForCondition('microvms', 'till', { type: 'Running', status: 'True' });
  await world.waitForCondition('microvms', 'neighbour', { type: 'Running', status: 'True' });
  await putSecret('till-init', second);
  await world.waitForCondition('microvms', 'till', { type: 'RestartRequired', status: 'True', reason: 'SecretChanged' });
  await holder.crashAgent();
  await world.crashController();
  await world.startController();
  await holder.startAgent();
  await world.patchMicroVM('till', { restartNonce: 1 });
  await until(() => readFileSync(seedPath()).includes(second), 'the seed of the next start');
  await world.waitForCondition('microvms', 'till', { type: 'RestartRequired', status: 'False' });
  await putSecret('unlabelled', absent, {});
  await world.applyMicroVM('refused', userData('unlabelled'));
  await world.waitForCondition('microvms', 'refused', { type: 'Accepted', status: 'False', reason: 'SecretNotForGuests' });
}, 300_000);

describe('the values of a guest\'s Secrets', () => {
  it('[E7] are on its host, readable by the agent and its VMM alone', () => {
    const keptPath = join(holder.stateDirectory, 'secrets', `${String(object.metadata.uid)}.json`);
    const seed = readFileSync(seedPath());
    expect([seed.includes(second), seed.includes(first)]).toEqual([true, false]);
    const kept = readFileSync(keptPath, 'utf8');
    expect(formsOf(second).some((form) => kept.includes(form))).toBe(true);
  });

  it('[E7] are in no row of Postgres, whatever the table', async () => {
    const hunt = startHunt(canaries);
    await huntRows(hunt);
    expect(hunt.places().length).toBeGreaterThan(20);
    expect(hunt.finds()).toEqual([]);
  });

  it('[E7] are in no object of the cluster but the Secrets themselves, status and events included', async () => {
    const hunt = startHunt(canaries);
    await huntObjects(hunt);
    expect(hunt.places().length).toBeGreaterThan(5);
    expect(hunt.finds()).toEqual([]);
  });

  it('[E7] are in no log, trace or metric, no process list, and in nothing that the commands of the host show', async () => {
    const hunt = startHunt(canaries);
    hunt.look('log of the controller', readFileSync(world.controller().logFile), 'ready');
    for (const host of [holder, other]) hunt.look(`log of ${host.name}`, readFileSync(host.agent().logFile), 'received an operation');
    const metrics = await fetch(`http://${world.endpoints().http}/metrics`);
    hunt.look('metrics', await metrics.text(), 'nkudo');
    const processes = readProcesses();
    expect(processes.count).toBeGreaterThan(5);
    hunt.look('arguments and environments', processes.text, holder.stateDirectory);
    for (const args of [['status'], ['vm', 'ls'], ['vm', 'show', 'till'], ['config']]) {
      const { code, output } = await holder.command([...args, '--output', 'json']);
      expect([args.join(' '), code, output]).toEqual([args.join(' '), 0, expect.any(String)]);
      hunt.look(`nkudo-edge ${args.join(' ')}`, output);
    }
    const bundle = join(holder.stateDirectory, '..', 'bundle.tar.gz');
    expect((await holder.command(['support-bundle', '--file', bundle])).code).toBe(0);
    hunt.look('support bundle', gunzipSync(readFileSync(bundle)), 'nkudo-support/vms.json');
    await world.stopController();
    await until(() => traces.length > 0, 'traces to be exported');
    hunt.look('traces', Buffer.concat(traces), 'publish');
    await world.startController();
    expect(hunt.finds()).toEqual([]);
  });

  it('[E7] are in no other file of the host, the journal included, and on no other host at all', () => {
    const hunt = startHunt(canaries);
    const own = new Set([join(holder.stateDirectory, 'secrets', `${String(object.metadata.uid)}.json`), seedPath()]);
    for (const host of [holder, other]) {
      const files = filesBelow(host.stateDirectory).filter((path) => !own.has(path));
      expect(files.map((path) => path.slice(host.stateDirectory.length + 1))).toContain('journal.db');
      const content = Buffer.concat(files.map((path) => readFileSync(path)));
      hunt.look(`files of ${host.name}`, content, host === holder ? 'till-init' : 'neighbour');
    }
    expect(hunt.finds()).toEqual([]);
  });

  it('are found by this search where they are', async () => {
    const hunt = startHunt(canaries);
    hunt.look('the Secret', JSON.stringify(await world.kubernetes.client.get(`/api/v1/namespaces/${world.namespace}/secrets/till-init`)));
    for (const path of filesBelow(join(holder.stateDirectory, 'secrets'))) hunt.look(path, readFileSync(path));
    expect(hunt.finds()).toHaveLength(2);
    expect(() => startHunt(canaries).look('an empty place', '')).toThrow(/nothing to look at/);
    expect(() => startHunt(canaries).finds()).toThrow(/nothing was looked at/);
  });
});

async function huntRows(hunt: Hunt): Promise<void> {
  const tables = await world.database.query(`select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')`);
  let rows = 0;
  for (const { name } of tables) {
    const found = await world.database.query(`select t::text as row from ${String(name)} t`);
    rows += found.length;
    hunt.look(`table ${String(name)}`, `${String(name)}\n${found.map(({ row }) => String(row)).join('\n')}`, String(name) === 'nkudo.operations' ? 'till-init' : undefined);
  }
  expect(rows).toBeGreaterThan(50);
}

async function huntObjects(hunt: Hunt): Promise<void> {
  const { client } = world.kubernetes;
  const namespaces = [world.namespace, 'nkudo-system'];
  const groups = (await client.request('GET', '/apis')).body as { readonly groups: readonly { readonly preferredVersion: { readonly groupVersion: string } }[] }; // Discovery.
  for (const root of ['/api/v1', ...groups.groups.map(({ preferredVersion }) => `/apis/${preferredVersion.groupVersion}`)]) {
    const { resources } = (await client.request('GET', root)).body as { readonly resources: readonly { readonly name: string; readonly namespaced: boolean; readonly verbs: readonly string[] }[] }; // Discovery.
    for (const { name } of resources.filter(({ namespaced, verbs }) => namespaced && verbs.includes('list'))) {
      for (const namespace of namespaces) {
        const items = (await client.list(`${root}/namespaces/${namespace}/${name}`)).filter(({ metadata }) => name !== 'secrets' || !['till-init', 'unlabelled'].includes(metadata.name));
        if (items.length > 0) hunt.look(`${root} ${name} of ${namespace}`, JSON.stringify(items), name === 'microvms' ? 'till-init' : undefined);
      }
    }
  }
  for (const kind of ['microvms', 'events']) expect(hunt.places().some((place) => place.includes(` ${kind} of `)), kind).toBe(true);
}
