/**
 * A real cluster, Helm and kubectl for it, and a host outside of it: this machine, with an agent and the real hypervisor where
 * there is one. Owns their start and that nothing of them is left; what is installed into the cluster is the test's.
 */
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { repositoryRoot } from '#hack/build-cache.ts';
import { ensureGoTool } from '#hack/build-go-tools.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { ensureKubernetes } from '#hack/build-kubernetes.ts';
import { importImages, startCluster, stopCluster, type ClusterAccess } from '#hack/cluster/cluster.ts';
import type { ImageArchive } from '#hack/cluster/images.ts';
import { chooseHypervisor, type Hypervisor } from '#hack/demo/hypervisor.ts';
import { createKubernetesClient, type KubernetesClient } from '#hack/stack/kubernetes-client.ts';
import type { RunningProcess } from '#hack/stack/process.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { commandsOf, readBlocks, runCommand } from '../e2e/api-docs.ts';

export interface AgentProgram {
  readonly node: string;
  /** The bundle. */
  readonly edge: string;
}

export interface ClusterWorld {
  readonly access: ClusterAccess;
  readonly client: KubernetesClient;
  readonly hypervisor: Hypervisor;
  /** Of the agent on this machine. */
  readonly stateDirectory: string;
  /** Of kernels that its microVMs may have. */
  readonly imageDirectory: string;
  /** Another version of the agent, from its next start. */
  setAgent(agent: AgentProgram): void;
  /** Runs a command as a reader of docs/install.md types it; gives its standard output. @throws Error with all that it printed when it fails */
  run(command: string): Promise<string>;
  /** What the systemd unit starts. */
  startAgent(): Promise<RunningProcess>;
}

export const print = (line: string): void => void process.stdout.write(`${line}\n`);

/** The default `edge.service.nodePort` of the chart. */
const edgePort = 30843;

/** Where docs/install.md has its kernel. */
const documentedImages = '/var/lib/nkudo/images';

/** @param images as the charts name them */
export async function createClusterWorld(images: readonly ImageArchive[], agent: AgentProgram): Promise<ClusterWorld> {
  const scope = fileScope();
  const [{ kubectl }, helm, guest] = [await ensureKubernetes(), await ensureGoTool('helm'), await buildGuest()];
  const hypervisor = await chooseHypervisor({ isSimulatorForced: false, report: print });
  const access = await startCluster(join(scope.directory, 'cluster'), print);
  scope.defer(async () => {
    keepLogs(access, scope.logDirectory);
    await stopCluster(access);
  });
  importImages(access, images);

  const stateDirectory = join(scope.makeDirectory('host'), 'state');
  const imageDirectory = scope.makeDirectory('images');
  mkdirSync(stateDirectory, { mode: 0o700 });
  copyFileSync(guest.guest64, join(imageDirectory, 'vmlinux'));
  chmodSync(join(imageDirectory, 'vmlinux'), 0o644);

  const desk = scope.makeDirectory('desk');
  const programs = join(desk, 'bin');
  mkdirSync(programs);
  const program = (name: string, line: string): void => writeFileSync(join(programs, name), `#!/bin/sh\n${line}\n`, { mode: 0o755 });
  program('kubectl', `exec ${kubectl} "$@"`);
  program('helm', `exec ${helm} "$@"`);
  let present = agent;
  const setAgent = (next: AgentProgram): void => {
    present = next;
    program('nkudo-edge', `exec ${next.node} ${next.edge} "$@"`);
  };
  setAgent(agent);
  // This machine may have no systemd: the test starts what the unit would.
  program('systemctl', 'exit 0');
  writeFileSync(join(desk, 'exported'), '');
  const environment = {
    PATH: `${programs}:${process.env['PATH'] ?? ''}`,
    HOME: desk,
    KUBECONFIG: access.kubeconfig,
    NKUDO_EDGE_STATE_DIR: stateDirectory,
    NKUDO_EDGE_ALLOW_PATHS: imageDirectory,
    NKUDO_EDGE_RUNTIME_DIR: join(stateDirectory, '..', 'run'),
    NKUDO_EDGE_HYPERVISOR: hypervisor.path,
  };

  // Through a proxy, so that every kind of credential works.
  const proxySocket = join(scope.directory, 'proxy.sock');
  const proxy = await scope.start({ name: 'kubectl-proxy', command: kubectl, args: ['proxy', `--unix-socket=${proxySocket}`], environment: { KUBECONFIG: access.kubeconfig } });
  await proxy.waitForLine(/Starting to serve/);
  const client = createKubernetesClient({ proxySocket });
  scope.defer(() => client.close());
  return {
    access,
    client,
    hypervisor,
    stateDirectory,
    imageDirectory,
    setAgent,
    run: async (command) => {
      // The node's proxy hears of a pod that is ready a moment after Helm does; a technician is never so fast.
      if (command.startsWith('nkudo-edge enroll')) await until(() => isListening(access.nodeAddress, edgePort), 'the Service to be reached from outside');
      const text = command.replaceAll(documentedImages, imageDirectory).replaceAll(' charts/', ` ${repositoryRoot}/charts/`);
      const { code, stdout, stderr } = await runCommand({ directory: desk, variables: environment }, text, null);
      if (code !== 0) throw new Error(`${command}\nended with ${code}:\n${stdout}${stderr}`);
      return `${stdout}${stderr}`;
    },
    startAgent: async () => {
      const agent = await scope.start({ name: 'agent', command: present.node, args: [present.edge, 'run'], environment });
      // Before the cluster: without it, the address that it dials is anybody's.
      scope.defer(async () => void (await agent.stop()));
      return agent;
    },
  };
}

function isListening(host: string, port: number): Promise<boolean> {
  const socket = connect({ host, port });
  return new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
  }).finally(() => socket.destroy());
}

/** Commands of docs/install.md below a heading of the second level. */
export function documentedCommands(heading: string): readonly string[] {
  const page = readFileSync(join(repositoryRoot, 'docs/install.md'), 'utf8').split('\n');
  const from = page.indexOf(`## ${heading}`) + 1;
  if (from === 0) throw new Error(`docs/install.md has no heading "${heading}"`);
  const length = page.slice(from).findIndex((line) => line.startsWith('## '));
  const to = length === -1 ? page.length : from + length;
  return readBlocks('docs/install.md').filter(({ line }) => line > from && line <= to).flatMap(commandsOf);
}

/** The cluster's folder goes; what its programs said stays with the logs of the test. */
function keepLogs({ directory }: ClusterAccess, logDirectory: string): void {
  for (const part of ['logs', 'var-log/pods']) {
    const folder = join(directory, part);
    if (!existsSync(folder)) continue;
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }).filter((found) => found.isFile())) {
      const path = join(entry.parentPath, entry.name);
      copyFileSync(path, join(logDirectory, path.slice(directory.length + 1).replaceAll('/', '_')));
    }
  }
}
