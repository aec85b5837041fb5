/**
 * A real cluster of one node on a machine without Docker: etcd, API server, controllers, scheduler, kubelet, proxy and DNS
 * below Debian's containerd, in process, mount and network name spaces of their own.
 *
 * Owns their start, the wire from the host to the node, and that nothing is left: one process is killed and the kernel does
 * the rest, but for control groups and the folder. Loopback of the host and its packet filter are never touched.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash, generateKeyPairSync, randomBytes, webcrypto } from 'node:crypto';
import { existsSync, mkdirSync, openSync, closeSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { Resolver } from 'node:dns/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import 'reflect-metadata';
import { BasicConstraintsExtension, X509CertificateGenerator } from '@peculiar/x509';
import { ensureGoTool } from '../build-go-tools.ts';
import { ensureKubernetes, ensureKubernetesNode } from '../build-kubernetes.ts';
import { findOnPath } from '../demo/hypervisor.ts';
import { createKubernetesClient, type KubernetesClient, type KubernetesObject } from '../stack/kubernetes-client.ts';
import { tail } from '../stack/process.ts';
import { signalIfAlive } from '../stack/run-directory.ts';
import { buildPauseImage, type ImageArchive } from './images.ts';
import { accounts, apiServerPort, namespacesReadyFile, networkReadyFile, nodeName, renderFiles, volumeNames, type Account, type OneNodeFacts } from './one-node-files.ts';

type Report = (line: string) => void;

/** What the machine has to have, and the Debian package that has it. */
const neededPrograms = { containerd: 'containerd', ctr: 'containerd', runc: 'runc', iptables: 'iptables', conntrack: 'conntrack', ip: 'iproute2', nsenter: 'util-linux', unshare: 'util-linux', mount: 'mount' } as const;
const cniFolders = ['/usr/lib/cni', '/opt/cni/bin'];
const cniPackage = 'containernetworking-plugins';
/** A busy machine gets this long for a part that takes seconds. */
const patienceMs = 240_000;
const pollMs = 100;
/** Of benchmarks (RFC 2544): no network that a machine is in. */
const wirePrefix = '198.18';
const controlGroupPrefix = 'nkudo-cluster-';

/** How to reach a running cluster; plain data, kept in its folder. */
export interface OneNodeAccess {
  readonly kind: 'one-node';
  readonly directory: string;
  readonly kubeconfig: string;
  readonly nodeAddress: string;
  /** First process of the name spaces, as the host numbers it. */
  readonly initPid: number;
  readonly snapshotter: OneNodeFacts['snapshotter'];
  readonly controlGroup: string;
}

/** Why this machine can't have one, as a sentence, or null. */
export function oneNodeObstacle(): string | null {
  if (process.platform !== 'linux') return 'it needs Linux';
  if (process.getuid?.() !== 0) return 'it needs root';
  const missing = new Set<string>(Object.entries(neededPrograms).flatMap(([program, debianPackage]) => (findOnPath(program) === null ? [debianPackage] : [])));
  if (cniFolder() === null) missing.add(cniPackage);
  if (missing.size > 0) return `it needs more of Debian: apt-get install --no-install-recommends ${[...missing].join(' ')}`;
  return rightsObstacle();
}

/** Root of a container may lack what a cluster needs. */
function rightsObstacle(): string | null {
  const trial = 'mount -t tmpfs tmpfs /run && ip link add trial0 type veth peer name trial1 && iptables --table nat --list --numeric';
  const { status, stderr } = spawnSync('unshare', [...namespaceOptions, '/bin/sh', '-ec', trial], { encoding: 'utf8', timeout: 30_000 });
  if (status !== 0) return `name spaces, a mount, an interface and packet filters of its own do not work here: ${stderr.trim().split('\n').at(-1) ?? ''}`;
  for (const hierarchy of controlGroupHierarchies()) {
    const group = join(hierarchy, `${controlGroupPrefix}trial-${process.pid}`);
    try {
      mkdirSync(group);
      rmdirSync(group);
    } catch {
      return `no control group can be made in ${hierarchy}`;
    }
  }
  return null;
}

const namespaceOptions = ['--fork', '--kill-child', '--pid', '--mount-proc', '--mount', '--propagation', 'private', '--net', '--ipc', '--'] as const;

const cniFolder = (): string | null => cniFolders.find((folder) => existsSync(join(folder, 'ptp'))) ?? null;

/** Starts a cluster in a new folder; resolves when its node takes pods. @throws Error with the last lines of the part that failed; nothing is left then */
export async function startOneNode(directory: string, report: Report): Promise<OneNodeAccess> {
  const obstacle = oneNodeObstacle();
  if (obstacle !== null) throw new Error(`no cluster of one node on this machine: ${obstacle}`);
  const facts = await gatherFacts(directory, report);
  for (const folder of ['logs', 'var-lib', 'var-log', 'cni', 'sysctl', ...volumeNames.map((name) => `var-lib/nkudo-volumes/${name}`)]) mkdirSync(join(directory, folder), { recursive: true });
  for (const [name, text] of Object.entries(renderFiles(facts))) writeFileSync(join(directory, name), text, { mode: 0o600 });
  for (const hierarchy of controlGroupHierarchies()) mkdirSync(join(hierarchy, facts.controlGroup), { recursive: true });
  let access: OneNodeAccess = { kind: 'one-node', directory, kubeconfig: join(directory, 'admin.kubeconfig'), nodeAddress: facts.nodeAddress, initPid: 0, snapshotter: facts.snapshotter, controlGroup: facts.controlGroup };
  try {
    access = { ...access, initPid: await startNamespaces(directory) };
    layWire(access.initPid, facts);
    report(`cluster: node at ${facts.nodeAddress}, logs in ${join(directory, 'logs')}`);
    const client = createKubernetesClient({ server: `https://${facts.nodeAddress}:${apiServerPort}`, caFile: join(directory, 'certificates', 'apiserver.crt'), adminToken: facts.tokens.admin });
    try {
      await waitFor(directory, 'kube-apiserver', async () => (await client.request('GET', '/readyz')).status === 200);
      await applyBase(client);
      await waitFor(directory, 'containerd', () => Promise.resolve(runInside(access, ['ctr', 'version']).status === 0));
      importIntoOneNode(access, [await buildPauseImage()]);
      await waitFor(directory, 'kubelet', async () => isNodeReady(await client.find(`/api/v1/nodes/${nodeName}`)));
      const names = new Resolver({ timeout: 2_000, tries: 1 });
      names.setServers([facts.nodeAddress]);
      await waitFor(directory, 'coredns', async () => (await names.resolve4('kubernetes.default.svc.cluster.local')).length > 0);
      await waitFor(directory, 'kube-controller-manager', async () => (await client.find('/api/v1/namespaces/default/serviceaccounts/default')) !== null);
    } finally {
      client.close();
    }
    return access;
  } catch (error) {
    await stopOneNode(access);
    throw error;
  }
}

/** Ends every process of it and removes its folder and control groups. Safe to call for one that is half there. */
export async function stopOneNode({ directory, initPid, controlGroup }: OneNodeAccess): Promise<void> {
  if (initPid > 0 && isInit(initPid, directory)) signalIfAlive(initPid, 'SIGKILL');
  // The kernel frees the name spaces after the last of their processes.
  for (let waitedMs = 0; initPid > 0 && isInit(initPid, directory); waitedMs += pollMs) {
    if (waitedMs > patienceMs) throw new Error(`process ${initPid} of the cluster in ${directory} survived SIGKILL`);
    await delay(pollMs);
  }
  for (const hierarchy of controlGroupHierarchies()) await removeControlGroup(join(hierarchy, controlGroup));
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
}

/** Gives images to its containerd. @throws Error with what ctr said */
export function importIntoOneNode(access: OneNodeAccess, images: readonly ImageArchive[]): void {
  for (const { name, file } of images) {
    const { status, stdout, stderr } = runInside(access, ['ctr', '--namespace', 'k8s.io', 'images', 'import', '--snapshotter', access.snapshotter, file]);
    if (status !== 0) throw new Error(`the import of ${name} from ${file} failed: ${stdout}${stderr}`);
  }
}

function runInside({ initPid }: OneNodeAccess, command: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync('nsenter', ['--target', String(initPid), '--mount', '--net', '--', ...command], { encoding: 'utf8' });
}

async function gatherFacts(directory: string, report: Report): Promise<OneNodeFacts> {
  const programs = { ...(await ensureKubernetes(report)), ...(await ensureKubernetesNode(report)), coredns: await ensureGoTool('coredns', report) };
  const id = createHash('sha256').update(directory).digest('hex').slice(0, 8);
  mkdirSync(directory, { recursive: true });
  const wire = freeWire();
  return {
    directory,
    nodeAddress: `${wire}.2`,
    hostAddress: `${wire}.1`,
    programs: { ...programs, containerd: findOnPath('containerd') ?? '', runc: findOnPath('runc') ?? '' },
    cniPlugins: cniFolder() ?? '',
    snapshotter: canOverlay(directory) ? 'overlayfs' : 'native',
    controlGroup: `/${controlGroupPrefix}${id}`,
    tokens: Object.fromEntries(Object.keys(accounts).map((name) => [name, randomBytes(24).toString('hex')])) as Record<Account, string>, // The table's own keys.
    kubeletClient: await makeKubeletClient(),
    serviceAccountKey: generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
}

/** First three bytes of a network that no interface of the host is in. */
function freeWire(): string {
  const taken = new Set(Object.values(networkInterfaces()).flatMap((addresses) => (addresses ?? []).map(({ address }) => address.split('.').slice(0, 3).join('.'))));
  const free = Array.from({ length: 256 }, (_, third) => `${wirePrefix}.${(third + process.pid) % 256}`).find((network) => !taken.has(network));
  if (free === undefined) throw new Error(`all networks of ${wirePrefix}.0.0/16 are taken`);
  return free;
}

/** Whether an overlay may lie on the folder's file system; not where that is an overlay itself. */
function canOverlay(directory: string): boolean {
  const parts = ['lower', 'upper', 'work', 'merged'].map((part) => join(directory, 'overlay-trial', part));
  for (const part of parts) mkdirSync(part, { recursive: true });
  const [lower, upper, work, merged] = parts;
  const trial = spawnSync('unshare', ['--mount', 'mount', '-t', 'overlay', 'overlay', '-o', `lowerdir=${lower},upperdir=${upper},workdir=${work}`, merged ?? ''], { stdio: 'ignore' });
  return trial.status === 0;
}

/** Its own authority: the kubelet trusts this one certificate. */
async function makeKubeletClient(): Promise<OneNodeFacts['kubeletClient']> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.createSelfSigned(
    { name: 'O=system:masters, CN=kube-apiserver', notBefore: new Date(Date.now() - 3_600_000), notAfter: new Date(Date.now() + 365 * 86_400_000), signingAlgorithm: algorithm, keys, extensions: [new BasicConstraintsExtension(true, undefined, true)] },
    webcrypto,
  );
  const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  return { certificate: `${certificate.toString('pem')}\n`, key: `-----BEGIN PRIVATE KEY-----\n${key.replaceAll(/.{64}(?=.)/g, '$&\n')}\n-----END PRIVATE KEY-----\n` };
}

async function startNamespaces(directory: string): Promise<number> {
  const log = openSync(join(directory, 'logs', 'init.log'), 'a');
  const child = spawn('unshare', [...namespaceOptions, '/bin/sh', join(directory, 'init.sh')], { detached: true, stdio: ['ignore', log, log], cwd: '/' });
  closeSync(log);
  const { pid } = child;
  if (pid === undefined) throw new Error('unshare did not start');
  let hasEnded = false;
  child.once('exit', () => (hasEnded = true));
  child.unref();
  await waitFor(directory, 'init', () => {
    if (hasEnded) throw new Fatal('the first process of the cluster ended');
    return Promise.resolve(existsSync(join(directory, namespacesReadyFile)));
  });
  const initPid = Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0]);
  if (!isInit(initPid, directory)) throw new Error(`process ${initPid} is not the first one of the cluster`);
  return initPid;
}

const isInit = (pid: number, directory: string): boolean => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(join(directory, 'init.sh'));
  } catch {
    return false; // No such process.
  }
};

/** A pair of interfaces, one end in the cluster; both go with its network name space. */
function layWire(initPid: number, { directory, nodeAddress, hostAddress, controlGroup }: OneNodeFacts): void {
  const ip = (args: readonly string[], isInside = false): void => {
    const [command, ...rest] = isInside ? ['nsenter', '--target', String(initPid), '--net', '--', 'ip', ...args] : ['ip', ...args];
    const { status, stderr } = spawnSync(command ?? '', rest, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`ip ${args.join(' ')} failed: ${stderr}`);
  };
  const name = `nkc${controlGroup.slice(-8)}`;
  ip(['link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(initPid)]);
  ip(['address', 'add', `${hostAddress}/30`, 'dev', name]);
  ip(['link', 'set', name, 'up']);
  ip(['address', 'add', `${nodeAddress}/30`, 'dev', 'eth0'], true);
  ip(['link', 'set', 'eth0', 'up'], true);
  ip(['route', 'add', 'default', 'via', hostAddress], true);
  writeFileSync(join(directory, networkReadyFile), '');
}

/** What a cluster that somebody administers has before the first user comes: a default storage class with volumes, rights of DNS. */
async function applyBase(client: KubernetesClient): Promise<void> {
  await client.apply('/apis/storage.k8s.io/v1/storageclasses/standard', {
    apiVersion: 'storage.k8s.io/v1', kind: 'StorageClass', metadata: { name: 'standard', annotations: { 'storageclass.kubernetes.io/is-default-class': 'true' } },
    provisioner: 'kubernetes.io/no-provisioner', volumeBindingMode: 'WaitForFirstConsumer',
  });
  for (const name of volumeNames) {
    await client.apply(`/api/v1/persistentvolumes/${name}`, {
      apiVersion: 'v1', kind: 'PersistentVolume', metadata: { name },
      spec: {
        capacity: { storage: '10Gi' }, accessModes: ['ReadWriteOnce'], persistentVolumeReclaimPolicy: 'Retain', storageClassName: 'standard',
        local: { path: `/var/lib/nkudo-volumes/${name}` },
        nodeAffinity: { required: { nodeSelectorTerms: [{ matchExpressions: [{ key: 'kubernetes.io/hostname', operator: 'In', values: [nodeName] }] }] } },
      },
    });
  }
  const role = '/apis/rbac.authorization.k8s.io/v1';
  await client.apply(`${role}/clusterroles/system:coredns`, {
    apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRole', metadata: { name: 'system:coredns' },
    rules: [
      { apiGroups: [''], resources: ['namespaces', 'services', 'pods', 'nodes'], verbs: ['get', 'list', 'watch'] },
      { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
    ],
  });
  await client.apply(`${role}/clusterrolebindings/system:coredns`, {
    apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'ClusterRoleBinding', metadata: { name: 'system:coredns' },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'system:coredns' }, subjects: [{ apiGroup: 'rbac.authorization.k8s.io', kind: 'User', name: accounts.coredns.user }],
  });
}

function isNodeReady(node: KubernetesObject | null): boolean {
  const { conditions = [] } = (node?.['status'] ?? {}) as { conditions?: readonly { type: string; status: string }[] }; // Shape of every Node.
  return conditions.some(({ type, status }) => type === 'Ready' && status === 'True');
}

/** Waiting makes no sense any more. */
class Fatal extends Error {}

/** Foreign programs without a readiness event: ask until they say so. */
async function waitFor(directory: string, component: string, isDone: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + patienceMs;
  let reason = '';
  while (performance.now() < deadline) {
    try {
      if (await isDone()) return;
    } catch (error) {
      reason = error instanceof Error ? error.message : String(error);
      if (error instanceof Fatal) break;
    }
    await delay(pollMs);
  }
  const log = join(directory, 'logs', `${component}.log`);
  const lines = existsSync(log) ? readFileSync(log, 'utf8').split('\n') : [];
  throw new Error(`${component} did not become ready${reason === '' ? '' : ` (${reason})`}; its last lines:\n${tail(lines)}`);
}

/** Mount points of all hierarchies of control groups: one with version 2, several with version 1. */
function controlGroupHierarchies(): readonly string[] {
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .flatMap(([, mountPoint = '', type]) => (type === 'cgroup' || type === 'cgroup2' ? [mountPoint] : []));
}

async function removeControlGroup(directory: string): Promise<void> {
  for (let waitedMs = 0; existsSync(directory); waitedMs += pollMs) {
    try {
      for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true }).filter((found) => found.isDirectory()).map((found) => join(found.parentPath, found.name)).toSorted().toReversed()) rmdirSync(entry);
      rmdirSync(directory);
    } catch (error) {
      if (waitedMs > patienceMs) throw error; // Its last processes are ending.
      await delay(pollMs);
    }
  }
}
