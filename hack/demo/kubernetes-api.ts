/**
 * The Kubernetes API of the demo, in this order: the user's cluster, only when asked for; kind, where Docker works; a
 * real kube-apiserver with etcd.
 *
 * Owns getting one and giving it back. On a cluster that is not ours alone it leaves nothing: namespaces, CRDs, policies
 * and roles that the demo made are removed at the end. The kind branch is small and has not been run: no machine with
 * Docker was at hand.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ensureKubernetes } from '../build-kubernetes.ts';
import { installCrds, installRoles, removeCrds } from '../stack/crds.ts';
import { createKubernetesClient, type KubernetesClient } from '../stack/kubernetes-client.ts';
import { renderKubeconfig, startKubernetes } from '../stack/kubernetes.ts';
import { startProcess } from '../stack/process.ts';
import { findOnPath } from './hypervisor.ts';

/** A Kubernetes API with n-kudo's CRDs and the demo's namespaces. */
export interface KubernetesApi {
  readonly description: string;
  readonly client: KubernetesClient;
  readonly kubectl: string;
  /** Admin's, with the demo's namespace as the default. */
  readonly kubeconfig: string;
  readonly namespace: string;
  /** Where the controller keeps its Lease and its CA. */
  readonly systemNamespace: string;
  /** Gives back what the run folder's end does not. */
  release(): Promise<void>;
}

/** What the demo was asked for and where it runs. */
export interface KubernetesApiOptions {
  /** Path of a kubeconfig, only when the user asked for it. */
  readonly userKubeconfig: string | null;
  readonly runDirectory: string;
  readonly logDirectory: string;
  readonly report: (line: string) => void;
}

export async function startKubernetesApi(options: KubernetesApiOptions): Promise<KubernetesApi> {
  if (options.userKubeconfig !== null) {
    return useForeignCluster(options, { kubeconfig: options.userKubeconfig, description: `the cluster of ${options.userKubeconfig}`, remove: () => {} });
  }
  const kind = findOnPath('kind');
  if (kind !== null && isDockerRunning()) {
    return startKind(options, kind);
  }
  return startOwnServer(options);
}

async function startOwnServer(options: KubernetesApiOptions): Promise<KubernetesApi> {
  const programs = await ensureKubernetes(options.report);
  const cluster = await startKubernetes({
    programs,
    runDirectory: options.runDirectory,
    directory: join(options.runDirectory, 'kubernetes'),
    logDirectory: options.logDirectory,
    isDurable: true,
  });
  const namespaces = { namespace: 'demo', systemNamespace: 'nkudo-system' };
  await prepare(cluster.client, namespaces);
  writeFileSync(cluster.kubeconfig, renderKubeconfig(cluster, undefined, namespaces.namespace), { mode: 0o600 });
  return {
    description: `kube-apiserver and etcd, built from source (${cluster.server})`,
    client: cluster.client,
    kubectl: cluster.kubectl,
    kubeconfig: cluster.kubeconfig,
    ...namespaces,
    release: () => {
      cluster.client.close();
      return Promise.resolve();
    },
  };
}

function isDockerRunning(): boolean {
  return findOnPath('docker') !== null && spawnSync('docker', ['info'], { stdio: 'ignore', timeout: 20_000 }).status === 0;
}

function startKind(options: KubernetesApiOptions, kind: string): Promise<KubernetesApi> {
  const name = `nkudo-demo-${process.pid}`;
  const kubeconfig = join(options.runDirectory, 'kind-kubeconfig');
  options.report(`kind: creating cluster ${name}`);
  const created = spawnSync(kind, ['create', 'cluster', '--name', name, '--kubeconfig', kubeconfig, '--wait', '120s'], { stdio: 'inherit' });
  const remove = (): void => void spawnSync(kind, ['delete', 'cluster', '--name', name], { stdio: 'inherit' });
  if (created.status !== 0) {
    remove();
    throw new Error('kind could not create a cluster; its messages are above');
  }
  return useForeignCluster(options, { kubeconfig, description: `kind cluster ${name}`, remove });
}

interface ForeignCluster {
  readonly kubeconfig: string;
  readonly description: string;
  readonly remove: () => void;
}

/** Reached through `kubectl proxy` on a unix socket, so that every kind of credential works. */
async function useForeignCluster(options: KubernetesApiOptions, cluster: ForeignCluster): Promise<KubernetesApi> {
  const kubectl = findOnPath('kubectl') ?? (await ensureKubernetes(options.report)).kubectl;
  const namespaces = { namespace: `nkudo-demo-${process.pid}`, systemNamespace: `nkudo-demo-${process.pid}-system` };
  const kubeconfig = copyKubeconfig(kubectl, { source: cluster.kubeconfig, target: join(options.runDirectory, 'kubeconfig'), namespace: namespaces.namespace });
  const proxySocket = join(options.runDirectory, 'proxy.sock');
  const proxy = await startProcess({
    name: 'kubectl proxy',
    command: kubectl,
    args: ['proxy', `--unix-socket=${proxySocket}`],
    environment: { KUBECONFIG: kubeconfig },
    inheritEnvironment: true,
    runDirectory: options.runDirectory,
    logFile: join(options.logDirectory, 'kubectl-proxy.log'),
  });
  await proxy.waitForLine(/Starting to serve/);
  const client = createKubernetesClient({ proxySocket });
  if ((await client.find(sitesCrd)) !== null) {
    throw new Error(`n-kudo's CRDs are installed on ${cluster.description} already; a demo there would be a second controller`);
  }
  await prepare(client, namespaces);
  return {
    description: cluster.description,
    client,
    kubectl,
    kubeconfig,
    ...namespaces,
    release: async () => {
      await removeFrom(client, namespaces);
      client.close();
      cluster.remove();
    },
  };
}

const sitesCrd = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/sites.nkudo.dev';

function copyKubeconfig(kubectl: string, copy: { source: string; target: string; namespace: string }): string {
  if (!existsSync(copy.source)) {
    throw new Error(`there is no kubeconfig at ${copy.source}`);
  }
  const environment = { ...process.env, KUBECONFIG: copy.source };
  const flat = spawnSync(kubectl, ['config', 'view', '--flatten', '--minify', '--raw'], { encoding: 'utf8', env: environment });
  if (flat.status !== 0) {
    throw new Error(`kubectl can't read ${copy.source}: ${flat.stderr.trim()}`);
  }
  writeFileSync(copy.target, flat.stdout, { mode: 0o600 });
  spawnSync(kubectl, ['config', 'set-context', '--current', `--namespace=${copy.namespace}`, `--kubeconfig=${copy.target}`]);
  return copy.target;
}

interface Namespaces {
  readonly namespace: string;
  readonly systemNamespace: string;
}

async function prepare(client: KubernetesClient, { namespace, systemNamespace }: Namespaces): Promise<void> {
  await installCrds(client);
  await installRoles(client);
  for (const name of [namespace, systemNamespace]) {
    await client.apply(`/api/v1/namespaces/${name}`, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
  }
}

/** The controller has ended and the run folder's end kills the VMs. */
async function removeFrom(client: KubernetesClient, { namespace, systemNamespace }: Namespaces): Promise<void> {
  await removeCrds(client);
  for (const name of [namespace, systemNamespace]) {
    await client.request('DELETE', `/api/v1/namespaces/${name}`);
  }
}
