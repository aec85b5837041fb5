/**
 * What the programs of the one-node cluster are told: their flags, credentials and settings, and the script that is the
 * first process of the cluster's namespaces. Pure; one-node.ts writes and starts it. Settings that look odd are what
 * Kubernetes 1.34 takes on control groups of any version, below containerd 1.6 and without rights over the host's kernel.
 */
import type { KubernetesPrograms, NodePrograms } from '../build-kubernetes.ts';
import { pauseImage } from './images.ts';

export const nodeName = 'node';
export const apiServerPort = 6443;
const podNetwork = '10.244.0.0/16';
const serviceNetwork = '10.96.0.0/16';
const clusterDomain = 'cluster.local';
/** Of the default storage class; each is a folder of the node. */
export const volumeNames = ['volume-0', 'volume-1', 'volume-2', 'volume-3'] as const;

export interface OneNodeFacts {
  /** The cluster's folder. */
  readonly directory: string;
  /** Of the node in its network name space; the host reaches it. */
  readonly nodeAddress: string;
  /** The host's own end of that wire. */
  readonly hostAddress: string;
  readonly programs: KubernetesPrograms & NodePrograms & { readonly coredns: string; readonly containerd: string; readonly runc: string };
  /** Folder of the CNI plugins. */
  readonly cniPlugins: string;
  /** overlayfs, or native where the run's folder lies on an overlay itself. */
  readonly snapshotter: 'overlayfs' | 'native';
  /** Parent of all control groups of pods. */
  readonly controlGroup: string;
  readonly tokens: Readonly<Record<Account, string>>;
  /** Certificate and key, PEM, by which the API server shows itself to the kubelet. */
  readonly kubeletClient: { readonly certificate: string; readonly key: string };
  /** PEM. */
  readonly serviceAccountKey: string;
}

export const accounts = {
  admin: { user: 'admin', groups: ['system:masters'] },
  'controller-manager': { user: 'system:kube-controller-manager', groups: [] },
  scheduler: { user: 'system:kube-scheduler', groups: [] },
  kubelet: { user: `system:node:${nodeName}`, groups: ['system:nodes'] },
  proxy: { user: 'system:kube-proxy', groups: [] },
  coredns: { user: 'system:coredns', groups: [] },
} as const;
export type Account = keyof typeof accounts;

/** Text of each file, by its name below the cluster's folder. */
export function renderFiles(facts: OneNodeFacts): Readonly<Record<string, string>> {
  const files: Record<string, string> = {
    'service-account.key': facts.serviceAccountKey,
    'kubelet-client.crt': facts.kubeletClient.certificate,
    'kubelet-client.key': facts.kubeletClient.key,
    'tokens.csv': Object.entries(accounts)
      .map(([name, { user, groups }]) => `${facts.tokens[name as Account]},${user},${user},"${groups.join(',')}"\n`) // The table's own keys.
      .join(''),
    'containerd.toml': containerdSettings(facts),
    'cni/10-nkudo.conflist': json({
      cniVersion: '0.4.0',
      name: 'nkudo',
      // Not a bridge: there the answers of a service's pod to a pod beside it pass by the translation of addresses.
      plugins: [{ type: 'ptp', ipMasq: true, ipam: { type: 'host-local', ranges: [[{ subnet: podNetwork }]], routes: [{ dst: '0.0.0.0/0' }] } }],
    }),
    'kubelet.yaml': json({
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      address: facts.nodeAddress,
      authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile: `${facts.directory}/kubelet-client.crt` } },
      authorization: { mode: 'Webhook' },
      cgroupDriver: 'cgroupfs',
      cgroupRoot: facts.controlGroup,
      clusterDNS: [facts.nodeAddress],
      clusterDomain,
      containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
      enforceNodeAllocatable: [],
      evictionHard: { 'memory.available': '50Mi', 'nodefs.available': '1%', 'imagefs.available': '1%', 'nodefs.inodesFree': '1%' },
      failCgroupV1: false,
      failSwapOn: false,
      // Images come from nowhere else.
      imageGCHighThresholdPercent: 100,
      localStorageCapacityIsolation: false,
      resolvConf: '/dev/null',
    }),
    'proxy.yaml': json({
      apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
      kind: 'KubeProxyConfiguration',
      clientConnection: { kubeconfig: `${facts.directory}/proxy.kubeconfig` },
      clusterCIDR: podNetwork,
      conntrack: { maxPerCore: 0, min: 0, tcpCloseWaitTimeout: '0s', tcpEstablishedTimeout: '0s' },
      hostnameOverride: nodeName,
      mode: 'iptables',
    }),
    Corefile: `.:53 {\n  bind ${facts.nodeAddress}\n  errors\n  health 127.0.0.1:8080\n  kubernetes ${clusterDomain} {\n    kubeconfig ${facts.directory}/coredns.kubeconfig\n  }\n}\n`,
    'init.sh': initScript(facts),
  };
  for (const name of Object.keys(accounts) as Account[]) files[`${name}.kubeconfig`] = kubeconfig(facts, name); // The table's own keys.
  return files;
}

const json = (value: object): string => `${JSON.stringify(value, null, 2)}\n`;

function kubeconfig({ directory, nodeAddress, tokens }: OneNodeFacts, account: Account): string {
  return json({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'nkudo', cluster: { server: `https://${nodeAddress}:${apiServerPort}`, 'certificate-authority': `${directory}/certificates/apiserver.crt` } }],
    users: [{ name: account, user: { token: tokens[account] } }],
    contexts: [{ name: 'nkudo', context: { cluster: 'nkudo', user: account } }],
    'current-context': 'nkudo',
  });
}

function containerdSettings({ directory, cniPlugins, snapshotter, programs }: OneNodeFacts): string {
  return `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${pauseImage}"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${cniPlugins}"
    conf_dir = "${directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "${snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "${programs.runc}"
        SystemdCgroup = false
`;
}

const etcdUrl = 'unix://etcd-client.sock:0';
const etcdPeerUrl = 'unix://etcd-peer.sock:0';

function components({ directory, nodeAddress, programs }: OneNodeFacts): Readonly<Record<string, readonly string[]>> {
  const config = (account: Account): string => `--kubeconfig=${directory}/${account}.kubeconfig`;
  return {
    etcd: [programs.etcd, `--data-dir=${directory}/etcd`, `--listen-client-urls=${etcdUrl}`, `--advertise-client-urls=${etcdUrl}`, `--listen-peer-urls=${etcdPeerUrl}`, `--initial-advertise-peer-urls=${etcdPeerUrl}`, `--initial-cluster=default=${etcdPeerUrl}`, '--unsafe-no-fsync'],
    'kube-apiserver': [
      programs.apiserver,
      `--etcd-servers=${etcdUrl}`,
      '--service-account-issuer=https://kubernetes.default.svc',
      `--service-account-key-file=${directory}/service-account.key`,
      `--service-account-signing-key-file=${directory}/service-account.key`,
      `--token-auth-file=${directory}/tokens.csv`,
      '--authorization-mode=Node,RBAC',
      '--allow-privileged=true',
      `--secure-port=${apiServerPort}`,
      `--bind-address=${nodeAddress}`,
      `--advertise-address=${nodeAddress}`,
      `--cert-dir=${directory}/certificates`,
      `--service-cluster-ip-range=${serviceNetwork}`,
      `--kubelet-client-certificate=${directory}/kubelet-client.crt`,
      `--kubelet-client-key=${directory}/kubelet-client.key`,
      '--kubelet-preferred-address-types=InternalIP',
      '--shutdown-delay-duration=0s',
    ],
    'kube-controller-manager': [programs.controllerManager, config('controller-manager'), '--bind-address=127.0.0.1', '--leader-elect=false', `--root-ca-file=${directory}/certificates/apiserver.crt`, `--service-account-private-key-file=${directory}/service-account.key`, '--use-service-account-credentials=true'],
    'kube-scheduler': [programs.scheduler, config('scheduler'), '--bind-address=127.0.0.1', '--leader-elect=false'],
    containerd: [programs.containerd, `--config=${directory}/containerd.toml`],
    kubelet: [programs.kubelet, `--config=${directory}/kubelet.yaml`, config('kubelet'), `--hostname-override=${nodeName}`, `--node-ip=${nodeAddress}`],
    'kube-proxy': [programs.proxy, `--config=${directory}/proxy.yaml`],
    coredns: [programs.coredns, `-conf=${directory}/Corefile`],
  };
}

/** What the kubelet wants of the kernel. Source: k8s.io/component-helpers/node/util/sysctl. */
const kernelSettings = { 'vm/overcommit_memory': 1, 'vm/panic_on_oom': 0, 'kernel/panic': 10, 'kernel/panic_on_oops': 1, 'kernel/keys/root_maxkeys': 1_000_000, 'kernel/keys/root_maxbytes': 25_000_000 } as const;

export const namespacesReadyFile = 'namespaces-ready';
export const networkReadyFile = 'network-ready';

/**
 * The first process of the cluster's process, mount and network name spaces: when it ends, the kernel ends everything in
 * them, and what was mounted, routed and filtered there goes with them.
 */
function initScript(facts: OneNodeFacts): string {
  const quote = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`;
  const starts = Object.entries(components(facts)).map(([name, command]) => `keep ${name} ${command.map(quote).join(' ')}`);
  return `#!/bin/sh
set -eu
cd ${quote(facts.directory)}
# Every program keeps its usual folders, and the host keeps its own.
mount --make-rshared /
mount --bind var-lib /var/lib
mount --bind var-log /var/log
mount -t tmpfs -o mode=755 tmpfs /run
# The kubelet would set these for the whole machine, so it finds what it wants.
${Object.entries(kernelSettings).map(([name, value]) => `echo ${value} > sysctl/${name.replaceAll('/', '.')} && mount --bind sysctl/${name.replaceAll('/', '.')} /proc/sys/${name}`).join('\n')}
ip link set lo up
touch ${namespacesReadyFile}
while [ ! -e ${networkReadyFile} ]; do sleep 0.05; done
echo 1 > /proc/sys/net/ipv4/ip_forward

# A program that ends is started again, as a unit of systemd would be.
keep() {
  name="$1"; shift
  while :; do
    "$@" >> "logs/$name.log" 2>&1 || echo "cluster: ended with $?" >> "logs/$name.log"
    sleep 1
  done &
}
${starts.join('\n')}
# The first process is the parent of all orphans.
while :; do wait; sleep 1; done
`;
}
