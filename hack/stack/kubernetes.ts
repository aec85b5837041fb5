/**
 * A real Kubernetes API: kube-apiserver on etcd, without nodes, pods or controllers.
 *
 * Owns their flags, credentials and order of starting and stopping. etcd listens on unix sockets inside the run's
 * folder only, so no other user of the machine reaches it; the API server listens on loopback with TLS and bearer
 * tokens, RBAC on. Which programs to run comes from `build-kubernetes.ts`.
 */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { KubernetesPrograms } from '../build-kubernetes.ts';
import { findFreePort } from './free-port.ts';
import { createKubernetesClient, type KubernetesClient } from './kubernetes-client.ts';
import { startProcess, tail, type RunningProcess } from './process.ts';

/** The API server is ready in about 3 s on two idle cores; a busy machine gets this long. */
const readyTimeoutMs = 120_000;
const readyPollMs = 100;
/** It drains for some seconds when stopped. */
const stopGraceMs = 15_000;
/** Another process can take a free port between our look and the server's bind. */
const startAttempts = 3;

/** What to start and where. */
export interface KubernetesOptions {
  readonly programs: KubernetesPrograms;
  /** The run's folder; marks the processes. */
  readonly runDirectory: string;
  /** A new folder inside it, for this API server alone. Its path stays below 80 characters (unix sockets). */
  readonly directory: string;
  readonly logDirectory: string;
  /** False in tests only: etcd then loses data when the machine does. */
  readonly isDurable: boolean;
}

/** How to reach a running API server; plain data, may cross process boundaries. */
export interface KubernetesAccess {
  readonly server: string;
  readonly caFile: string;
  /** Member of `system:masters`. */
  readonly adminToken: string;
  /** Admin kubeconfig, mode 0600. */
  readonly kubeconfig: string;
  readonly kubectl: string;
  /** One JSON event per finished request, level Metadata, written before the answer is sent. */
  readonly auditLog: string;
  readonly directory: string;
}

/** A running API server. */
export interface KubernetesCluster extends KubernetesAccess {
  readonly client: KubernetesClient;
  readonly processes: readonly RunningProcess[];
  stop(): Promise<void>;
}

/** Starts etcd and the API server and waits until `/readyz` answers ok. */
export async function startKubernetes(options: KubernetesOptions): Promise<KubernetesCluster> {
  mkdirSync(options.directory, { recursive: true });
  chmodSync(options.directory, 0o700);
  const adminToken = writeCredentials(options.directory);
  const etcd = await startEtcd(options);
  for (let attempt = 1; ; attempt += 1) {
    const port = await findFreePort();
    const apiserver = await startApiServer(options, port);
    const access = writeAccess(options, { port, adminToken });
    const client = createKubernetesClient(access);
    if (await waitUntilReady(apiserver, client)) {
      return {
        ...access,
        client,
        processes: [apiserver, etcd],
        stop: async () => {
          client.close();
          await apiserver.stop(stopGraceMs);
          await etcd.stop();
        },
      };
    }
    client.close();
    const isPortTaken = apiserver.lines().some((line) => line.includes('address already in use'));
    if (!isPortTaken || attempt === startAttempts) {
      await apiserver.stop(0);
      await etcd.stop(0);
      throw new Error(`kube-apiserver did not become ready; its last lines:\n${tail(apiserver.lines())}`);
    }
  }
}

function writeCredentials(directory: string): string {
  const adminToken = randomBytes(24).toString('hex');
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const write = (name: string, content: string): void => writeFileSync(join(directory, name), content, { mode: 0o600 });
  write('service-account.key', privateKey.export({ type: 'pkcs8', format: 'pem' }).toString());
  write('tokens.csv', `${adminToken},admin,admin,"system:masters"\n`);
  write('audit-policy.yaml', 'apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n');
  return adminToken;
}

/** etcd wants `host:port` in every URL; for the unix scheme that is simply the socket's file name. */
const etcdClientUrl = 'unix://client.sock:0';
const etcdPeerUrl = 'unix://peer.sock:0';

async function startEtcd(options: KubernetesOptions): Promise<RunningProcess> {
  const etcd = await startProcess({
    name: 'etcd',
    command: options.programs.etcd,
    args: [
      '--data-dir=etcd',
      `--listen-client-urls=${etcdClientUrl}`,
      `--advertise-client-urls=${etcdClientUrl}`,
      `--listen-peer-urls=${etcdPeerUrl}`,
      `--initial-advertise-peer-urls=${etcdPeerUrl}`,
      `--initial-cluster=default=${etcdPeerUrl}`,
      ...(options.isDurable ? [] : ['--unsafe-no-fsync']),
    ],
    runDirectory: options.runDirectory,
    workingDirectory: options.directory,
    logFile: join(options.logDirectory, 'etcd.log'),
  });
  await etcd.waitForLine(/serving client traffic/, { timeoutMs: readyTimeoutMs });
  return etcd;
}

function startApiServer(options: KubernetesOptions, port: number): Promise<RunningProcess> {
  return startProcess({
    name: 'kube-apiserver',
    command: options.programs.apiserver,
    args: [
      `--etcd-servers=${etcdClientUrl}`,
      '--service-account-issuer=https://kubernetes.default.svc',
      '--service-account-key-file=service-account.key',
      '--service-account-signing-key-file=service-account.key',
      '--token-auth-file=tokens.csv',
      '--authorization-mode=RBAC',
      `--secure-port=${port}`,
      '--bind-address=127.0.0.1',
      // Without these it looks for the default route, and a machine without a network has none.
      '--advertise-address=127.0.0.1',
      '--endpoint-reconciler-type=none',
      '--cert-dir=certificates',
      '--service-cluster-ip-range=10.0.0.0/24',
      '--disable-admission-plugins=ServiceAccount',
      '--audit-policy-file=audit-policy.yaml',
      '--audit-log-path=audit.log',
      '--audit-log-mode=blocking-strict',
      '--shutdown-delay-duration=0s',
    ],
    runDirectory: options.runDirectory,
    workingDirectory: options.directory,
    logFile: join(options.logDirectory, 'kube-apiserver.log'),
  });
}

function writeAccess(options: KubernetesOptions, { port, adminToken }: { port: number; adminToken: string }): KubernetesAccess {
  const access: KubernetesAccess = {
    server: `https://127.0.0.1:${port}`,
    caFile: join(options.directory, 'certificates', 'apiserver.crt'),
    adminToken,
    kubeconfig: join(options.directory, 'kubeconfig'),
    kubectl: options.programs.kubectl,
    auditLog: join(options.directory, 'audit.log'),
    directory: options.directory,
  };
  writeFileSync(access.kubeconfig, renderKubeconfig(access), { mode: 0o600 });
  return access;
}

/** Whom a kubeconfig acts as; the admin impersonates. */
export interface ActAs {
  readonly user: string;
  readonly groups?: readonly string[];
}

/** A kubeconfig for the admin, or for somebody whom the admin impersonates. JSON is YAML. */
export function renderKubeconfig(access: KubernetesAccess, actAs?: ActAs, namespace = 'default'): string {
  const impersonation = actAs === undefined ? {} : { as: actAs.user, 'as-groups': actAs.groups ?? [] };
  return JSON.stringify(
    {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'nkudo', cluster: { server: access.server, 'certificate-authority': access.caFile } }],
      users: [{ name: 'nkudo', user: { token: access.adminToken, ...impersonation } }],
      contexts: [{ name: 'nkudo', context: { cluster: 'nkudo', user: 'nkudo', namespace } }],
      'current-context': 'nkudo',
    },
    null,
    2,
  );
}

/** A foreign program without a readiness event: ask until it says ok, ends, or the time is up. */
async function waitUntilReady(apiserver: RunningProcess, client: KubernetesClient): Promise<boolean> {
  const deadline = performance.now() + readyTimeoutMs;
  while (performance.now() < deadline && apiserver.exitStatus() === null) {
    if (await isReady(client)) {
      return true;
    }
    await delay(readyPollMs);
  }
  return false;
}

async function isReady(client: KubernetesClient): Promise<boolean> {
  try {
    return (await client.request('GET', '/readyz')).status === 200;
  } catch {
    return false; // Not listening yet, or its certificate is not written yet.
  }
}
