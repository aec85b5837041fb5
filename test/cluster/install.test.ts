/** [R2] The chart with its defaults on a real cluster, from `helm install` to a microVM that runs on a host outside, as docs/install.md says it. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildPrograms } from '#hack/build-programs.ts';
import { startCluster, stopCluster } from '#hack/cluster/cluster.ts';
import { buildControllerArchive, buildPostgresImage } from '#hack/cluster/images.ts';
import { findProcessesOf } from '#hack/stack/run-directory.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { liveVmms } from '../e2e/vmm-observer.ts';
import { createClusterWorld, documentedCommands, print, type ClusterWorld } from './world.ts';

const system = 'nkudo-system';
let world: ClusterWorld;
beforeAll(async () => {
  world = await createClusterWorld([await buildControllerArchive(), await buildPostgresImage(print)], await buildPrograms());
}, 900_000);

/** Runs until a command that begins so has been run; the rest is for the next call. */
function walker(commands: readonly string[]): (last: string) => Promise<string> {
  let next = 0;
  return async (last) => {
    for (;;) {
      const command = commands[next];
      if (command === undefined) throw new Error(`docs/install.md has no more command that begins with "${last}"`);
      next += 1;
      const startedAt = performance.now();
      const output = await world.run(isBeyondThisHost(command) ? `${command} || true` : command);
      print(`  ${((performance.now() - startedAt) / 1000).toFixed(1).padStart(6)} s  ${command.split('\n')[0]}`);
      if (command.startsWith(last)) return output;
    }
  };
}

/** A host without a hypervisor of its own is found out, and the simulator stands for it. */
const isBeyondThisHost = (command: string): boolean => command === 'nkudo-edge check' && world.hypervisor.kind === 'simulated';

interface Pod {
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly spec: { readonly containers: readonly { readonly image: string }[] };
  readonly status: { readonly phase: string; readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

/** Of the release, without those of its jobs. */
async function servingPods(): Promise<readonly Pod[]> {
  const pods = (await world.client.list(`/api/v1/namespaces/${system}/pods`)) as unknown as readonly Pod[]; // Shape of every Pod.
  return pods.filter(({ metadata }) => ['controller', 'postgres'].includes(metadata.labels['app.kubernetes.io/component'] ?? ''));
}

describe('the default installation on a real cluster', () => {
  it('[R2] goes from helm install to a running microVM by the commands of docs/install.md, in a namespace of restricted pod security', async () => {
    const startedAt = performance.now();
    const walk = walker(documentedCommands('Five minutes to a running microVM'));
    await walk('helm install');
    const pods = await servingPods();
    expect(pods.map(({ metadata, status }) => `${metadata.labels['app.kubernetes.io/component']} ${status.phase} ready ${status.conditions?.find(({ type }) => type === 'Ready')?.status}`).sort()).toEqual(['controller Running ready True', 'postgres Running ready True']);
    expect(await walk('helm test')).toMatch(/Phase:\s+Succeeded/);

    await walk('nkudo-edge enroll');
    const agent = await world.startAgent();
    expect(await walk('kubectl --namespace shops get microvms')).toMatch(/hello/);
    print(`  from helm install to a running microVM: ${((performance.now() - startedAt) / 1000).toFixed(0)} s, ${world.hypervisor.description}`);
    // It runs on this machine, not only by its status.
    await until(() => liveVmms(world.stateDirectory, world.hypervisor.path).length === 1, 'the VMM');
    await until(async () => (await world.run('nkudo-edge vm logs shops/hello')).includes('NKUDO-TICK'), 'a line of the guest');
    expect(agent.exitStatus()).toBe(null);
  });

  it('[R2] the agent is outside: it dials the node at the port of the Service', async () => {
    const hosts = await world.client.list('/apis/nkudo.dev/v1alpha1/namespaces/shops/hosts');
    expect(hosts.map(({ metadata }) => metadata.name)).toEqual(['till-1']);
    const service = await world.client.get(`/api/v1/namespaces/${system}/services/nkudo-edge`);
    expect(service['spec']).toMatchObject({ type: 'NodePort', ports: [{ nodePort: 30_843 }] });
    expect(await world.run('nkudo-edge status')).toContain(`${world.access.nodeAddress}:30843`);
  });

  it('[R2] the namespace refuses what is not restricted, so what runs in it is', async () => {
    const answer = await world.client.request('POST', `/api/v1/namespaces/${system}/pods?dryRun=All`, {
      apiVersion: 'v1', kind: 'Pod', metadata: { name: 'greedy' }, spec: { containers: [{ name: 'greedy', image: 'nkudo/controller:0', securityContext: { privileged: true } }] },
    });
    expect(answer).toMatchObject({ status: 403, body: { message: expect.stringContaining('violates PodSecurity "restricted') as string } });
  });

  it('[R2] network policies stand for the controller, its jobs and the database', async () => {
    const policies = await world.client.list(`/apis/networking.k8s.io/v1/namespaces/${system}/networkpolicies`);
    expect(policies.map(({ metadata }) => metadata.name).sort()).toEqual(['nkudo-controller', 'nkudo-jobs', 'nkudo-postgres']);
  });

  it('[R2] the embedded Postgres starts again on its volume, and the controller goes on', async () => {
    const before = await world.client.get(`/api/v1/namespaces/${system}/pods/nkudo-postgres-0`);
    await world.run(`kubectl --namespace ${system} delete pod nkudo-postgres-0`);
    await world.run(`kubectl --namespace ${system} rollout status statefulset/nkudo-postgres --timeout=120s`);
    expect((await world.client.get(`/api/v1/namespaces/${system}/pods/nkudo-postgres-0`)).metadata.uid).not.toBe(before.metadata.uid);
    await world.run('kubectl --namespace shops delete microvm hello --timeout=120s');
    await until(() => liveVmms(world.stateDirectory, world.hypervisor.path).length === 0, 'the end of the VMM');
  });
});

describe('hack/cluster', () => {
  it('[R2] leaves nothing on the machine: no process, interface, mount or control group', async () => {
    if (world.access.kind === 'kind') return print('  not looked at: the cluster is by kind');
    const directory = join(fileScope().directory, 'second');
    const second = await startCluster(directory, print);
    if (second.kind === 'kind') throw new Error('one cluster is by kind, the other is not');
    const interfaceName = `nkc${second.controlGroup.slice(-8)}`;
    const traces = (): readonly string[] => [
      ...findProcessesOf(directory).map((pid) => `process ${pid}`),
      ...(networkInterfaces()[interfaceName] === undefined ? [] : [interfaceName]),
      ...readFileSync('/proc/self/mounts', 'utf8').split('\n').filter((line) => line.includes(directory)),
      ...readdirSync('/sys/fs/cgroup').map((name) => join('/sys/fs/cgroup', name, second.controlGroup)).filter((path) => existsSync(path)),
      ...(existsSync(directory) ? [directory] : []),
    ];
    expect(traces().length).toBeGreaterThan(3);
    await stopCluster(second);
    await until(() => traces().length === 0, 'the end of all traces');
    expect(traces()).toEqual([]);
  });
});
