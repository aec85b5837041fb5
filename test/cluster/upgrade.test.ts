/**
 * [R3] Upgrade from the previous release while microVMs come and go, the way back, uninstallation and a new installation: what
 * runs goes on running, nothing is done twice, nothing is left over. The steps build on each other, in this order.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { repositoryRoot } from '#hack/build-cache.ts';
import { buildPrograms } from '#hack/build-programs.ts';
import { buildControllerArchive, buildPostgresImage } from '#hack/cluster/images.ts';
import { contractChanges, preparePreviousRelease, type PreviousRelease } from '#hack/release/previous-release.ts';
import type { RunningProcess } from '#hack/stack/process.ts';
import { until } from '#test/harness/until.ts';
import { liveVmms, type LiveVmm } from '../e2e/vmm-observer.ts';
import { ask } from './database.ts';
import { startLoad, type Load } from './load.ts';
import { createClusterWorld, documentedCommands, print, type ClusterWorld } from './world.ts';

const system = 'nkudo-system';
const standing = ['standing-1', 'standing-2', 'standing-3'];
/** A sample of VMMs this often: a start is seconds before its end. */
const sampleMs = 100;

let previous: PreviousRelease;
let currentImage: string;
let world: ClusterWorld;
let agent: RunningProcess;
let load: Load;
let standingVmms: readonly LiveVmm[];
/** VMMs ever seen, by directory. */
const seen = new Map<string, Set<string>>();
let mostAtOnce = 0;
let sampler: NodeJS.Timeout | undefined;

beforeAll(async () => {
  previous = await preparePreviousRelease(print);
  const current = await buildControllerArchive();
  currentImage = current.name;
  world = await createClusterWorld([previous.image, current, await buildPostgresImage(print)], previous);
  sampler = setInterval(sample, sampleMs);
}, 900_000);
afterAll(() => clearInterval(sampler));

const vmms = (): readonly LiveVmm[] => liveVmms(world.stateDirectory, world.hypervisor.path);
const identity = ({ pid, startTime }: LiveVmm): string => `${pid} of ${startTime}`;

function sample(): void {
  const now = Map.groupBy(vmms(), ({ directory }) => directory);
  for (const [directory, found] of now) {
    mostAtOnce = Math.max(mostAtOnce, found.length);
    const known = seen.get(directory) ?? new Set();
    for (const vmm of found) known.add(identity(vmm));
    seen.set(directory, known);
  }
}

function microvmSpec(): object {
  return { siteRef: { name: 'shop-1' }, cpu: { count: 1 }, memory: { size: '64Mi' }, boot: { kernel: { path: join(world.imageDirectory, 'vmlinux'), cmdline: 'tick' } }, terminationGracePeriod: '5s' };
}

async function conditionOf(plural: string, name: string, type: string): Promise<string> {
  const object = await world.client.find(`/apis/nkudo.dev/v1alpha1/namespaces/shops/${plural}/${name}`);
  const { conditions = [] } = (object?.['status'] ?? {}) as { conditions?: readonly { type: string; status: string }[] }; // The CRD's schema.
  return conditions.find((condition) => condition.type === type)?.status ?? 'none';
}

/** Images of the controllers that are ready. */
async function servingImages(): Promise<readonly string[]> {
  const pods = await world.client.list(`/api/v1/namespaces/${system}/pods?labelSelector=app.kubernetes.io/component=controller`);
  return pods.filter(({ metadata }) => metadata.deletionTimestamp === undefined).flatMap((pod) => (pod['spec'] as { containers: { image: string }[] }).containers.map(({ image }) => image)); // Shape of every Pod.
}

/** What was ever ordered for a microVM, and how often it was carried out. */
async function history(uids: readonly string[]): Promise<readonly string[]> {
  // In this version the older name holds what replicas of the previous one write.
  const [{ name } = { name: '' }] = await ask(world, system, `select coalesce(to_regclass('nkudo.execution_records'), 'nkudo.executions'::regclass)::text as name`, []);
  const rows = await ask(
    world,
    system,
    `select o.microvm_id, o.kind, o.status, count(e.id)::int as executions, count(*) filter (where e.status = 'Succeeded')::int as succeeded
       from nkudo.operations o left join ${String(name)} e on e.operation_id = o.id and e.tenant_id = o.tenant_id
      where o.microvm_id = any ($1::uuid[]) group by o.microvm_id, o.revision, o.kind, o.status order by o.microvm_id, o.revision`,
    [uids],
  );
  return rows.map(({ microvm_id, kind, status, succeeded }) => `${String(microvm_id)} ${String(kind)} ${String(status)} carried out ${String(succeeded)}`);
}

async function uidsOf(names: readonly string[]): Promise<readonly string[]> {
  return Promise.all(names.map(async (name) => (await world.client.get(`/apis/nkudo.dev/v1alpha1/namespaces/shops/microvms/${name}`)).metadata.uid ?? ''));
}

const standingHistory = async (): Promise<readonly string[]> => (await history(await uidsOf(standing))).map((line) => line.slice(37));

/** Everything that must not have changed, after each step. */
async function expectUntouched(): Promise<void> {
  expect(vmms().filter(({ directory }) => standingVmms.some((known) => known.directory === directory)).map(identity).sort()).toEqual(standingVmms.map(identity).sort());
  for (const name of standing) await until(async () => (await conditionOf('microvms', name, 'Running')) === 'True', `${name} to be shown as running`);
  expect(agent.exitStatus()).toBe(null);
}

async function timed(command: string): Promise<string> {
  const startedAt = performance.now();
  const output = await world.run(command);
  print(`  ${((performance.now() - startedAt) / 1000).toFixed(1).padStart(6)} s  ${command}`);
  return output;
}

/** Runs it while tenants work, and some of their work after it. */
async function underLoad(command: string): Promise<void> {
  const before = load.cycles();
  load.longestWaitMs();
  await timed(command);
  const meanwhile = load.cycles() - before;
  await load.more(3);
  print(`          ${meanwhile} microVMs came and went meanwhile; the longest wait of a tenant was ${(load.longestWaitMs() / 1000).toFixed(1)} s`);
}

describe('from one release to the next and back', () => {
  it('[R3] the previous release is the commit that the change log names, and its contracts are others', () => {
    const head = spawnSync('git', ['rev-parse', 'HEAD'], { cwd: repositoryRoot, encoding: 'utf8' }).stdout.trim();
    const isDirty = spawnSync('git', ['status', '--porcelain'], { cwd: repositoryRoot, encoding: 'utf8' }).stdout.trim() !== '';
    const changes = contractChanges(previous.tree, repositoryRoot);
    print(`  from ${previous.version}, commit ${previous.commit}`);
    print(`  to this tree, commit ${head}${isDirty ? ' with changes' : ''}`);
    print(`  contracts that differ: ${changes.join(', ')}`);
    expect(head).toMatch(/^[0-9a-f]{40}$/);
    expect(previous.commit).not.toBe(head);
    // An upgrade between equals would show nothing.
    expect(changes.length).toBeGreaterThan(0);
  });

  it('[R3] the previous release is installed, a host is in, microVMs run, and tenants are at work', async () => {
    await world.run(`kubectl create namespace ${system}`);
    await world.run(`kubectl label namespace ${system} pod-security.kubernetes.io/enforce=restricted`);
    await world.run(`helm package ${join(previous.tree, 'charts/nkudo')} --version ${previous.version} --app-version ${previous.version}`);
    await timed(`helm install nkudo nkudo-${previous.version}.tgz --namespace ${system} --wait`);
    expect(await servingImages()).toEqual([previous.image.name]);
    const letIn = documentedCommands('Five minutes to a running microVM');
    for (const command of letIn.slice(letIn.indexOf('kubectl create namespace shops'), letIn.findIndex((line) => line.startsWith('nkudo-edge check')))) await world.run(command);
    await world.run('nkudo-edge enroll --token-file token --name till-1');
    agent = await world.startAgent();
    for (const name of standing) {
      await world.client.apply(`/apis/nkudo.dev/v1alpha1/namespaces/shops/microvms/${name}`, { apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name, namespace: 'shops' }, spec: microvmSpec() });
    }
    for (const name of standing) await until(async () => (await conditionOf('microvms', name, 'Running')) === 'True', `${name} to run`, { timeoutMs: 120_000 });
    standingVmms = vmms();
    expect(standingVmms).toHaveLength(standing.length);
    await until(async () => (await standingHistory()).every((line) => line === 'Create Succeeded carried out 1'), 'the reports of the host');
    load = startLoad(world.client, 'shops', microvmSpec());
    await load.more(3);
  });

  it('[R3] helm upgrade under load: microVMs come and go meanwhile, and no other is touched', async () => {
    const [upgrade = ''] = documentedCommands('Upgrade');
    await underLoad(upgrade);
    expect(await servingImages()).toEqual([currentImage]);
    await expectUntouched();
    expect(await standingHistory()).toEqual(standing.map(() => 'Create Succeeded carried out 1'));
    expect(await world.run(`helm test nkudo --namespace ${system}`)).toMatch(/Phase:\s+Succeeded/);
  });

  it('[R3] helm rollback under load: the version before works on the newer schema', async () => {
    const [rollback = ''] = documentedCommands('Go back');
    await underLoad(rollback);
    expect(await servingImages()).toEqual([previous.image.name]);
    await expectUntouched();
    expect(await standingHistory()).toEqual(standing.map(() => 'Create Succeeded carried out 1'));
  });

  it('[R3] and forward again; then the load ends: everything that tenants began came to its end, once', async () => {
    const [upgrade = ''] = documentedCommands('Upgrade');
    await underLoad(upgrade);
    expect(await servingImages()).toEqual([currentImage]);
    await load.stop();
    await expectUntouched();
    print(`  ${load.cycles()} microVMs came and went in all`);
    const lines = await history(load.uids);
    const byMicrovm = Map.groupBy(lines, (line) => line.slice(0, 36));
    expect(byMicrovm.size).toBe(load.uids.length);
    // What a host had observed already may be shown before its order was reported as done; the next order then supersedes it.
    const step = (kind: string): unknown => expect.stringMatching(new RegExp(`^(${kind}) (Succeeded carried out 1|Superseded carried out [01])$`));
    for (const uid of load.uids) {
      expect(byMicrovm.get(uid)?.map((line) => line.slice(37))).toEqual([step('Create'), step('Stop|Update'), 'Delete Succeeded carried out 1']);
    }
    print(`          ${lines.length} orders, each carried out once at most; ${lines.filter((line) => line.includes(' Superseded ')).length} of them superseded by the next`);
  });

  it('[R3] helm uninstall warns and takes away the controller only', async () => {
    const [uninstall = ''] = documentedCommands('Uninstall');
    const output = await timed(uninstall);
    expect(output).toContain('What stays: 1 sites, 1 hosts, 3 microVMs');
    expect(output).toContain('The microVMs go on running on their hosts');
    expect(await servingImages()).toEqual([]);
    for (const kept of ['secrets/nkudo-ca', 'secrets/nkudo-audit', 'secrets/nkudo-database', 'persistentvolumeclaims/data-nkudo-postgres-0']) {
      expect((await world.client.find(`/api/v1/namespaces/${system}/${kept}`))?.metadata.name, kept).toBe(kept.split('/')[1]);
    }
    for (const name of standing) expect(await conditionOf('microvms', name, 'Running')).toBe('True');
    expect(vmms().map(identity).sort()).toEqual(standingVmms.map(identity).sort());
  });

  it('[R3] a new installation finds everything again: the same authority, hosts and microVMs, and no order is given again', async () => {
    const authority = async (): Promise<unknown> => (await world.client.get(`/api/v1/namespaces/${system}/secrets/nkudo-ca`))['data'];
    const before = await authority();
    const [, install = '', hostReady = ''] = documentedCommands('Uninstall');
    await timed(install);
    await timed(hostReady);
    expect(await authority()).toEqual(before);
    await expectUntouched();
    expect(await standingHistory()).toEqual(standing.map(() => 'Create Succeeded carried out 1'));
  });

  it('[R3] the agent follows, and takes over what the one before it left running', async () => {
    await agent.stop();
    expect(vmms().map(identity).sort()).toEqual(standingVmms.map(identity).sort());
    world.setAgent(await buildPrograms());
    agent = await world.startAgent();
    await until(async () => (await conditionOf('hosts', 'till-1', 'Ready')) === 'True', 'the host');
    await expectUntouched();
    expect(await standingHistory()).toEqual(standing.map(() => 'Create Succeeded carried out 1'));
  });

  it('[R3] in the end nothing is orphaned: no process, no file of a microVM, no live row; and never were there two VMMs of one', async () => {
    const uids = [...load.uids, ...(await uidsOf(standing))];
    await timed('kubectl --namespace shops delete microvms --all --timeout=120s');
    await until(() => vmms().length === 0, 'the end of the VMMs');
    const folder = join(world.stateDirectory, 'vms');
    await until(() => !existsSync(folder) || readdirSync(folder).length === 0, 'the end of their folders');
    expect(
      await ask(
        world,
        system,
        `select (select count(*) from nkudo.bindings where released_at is null)::int as bindings,
                (select count(*) from nkudo.operations where status in ('Pending', 'Dispatched', 'Running'))::int as operations,
                (select count(*) from nkudo.plans where status in ('Pending', 'Dispatched', 'Running'))::int as plans,
                (select count(*) from nkudo.microvms where released_at is null)::int as microvms`,
      ),
    ).toEqual([{ bindings: 0, operations: 0, plans: 0, microvms: 0 }]);
    expect(mostAtOnce).toBe(1);
    expect(seen.size).toBe(uids.length);
    expect([...seen].filter(([, found]) => found.size !== 1)).toEqual([]);
  });
});
