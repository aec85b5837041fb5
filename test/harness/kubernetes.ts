/**
 * A real API server for a test file: the run's shared one, or one of its own.
 *
 * Owns namespaces, kubectl and kubeconfigs for tests. A file that runs the controller takes its own API server
 * (`exclusive`): two controllers on one API server would both act on every object.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createKubernetesClient, type KubernetesClient } from '#hack/stack/kubernetes-client.ts';
import { renderKubeconfig, type ActAs, type KubernetesAccess } from '#hack/stack/kubernetes.ts';
import { openAuditLog, type AuditLog } from './audit-log.ts';
import { fileScope } from './file-scope.ts';

const kubectlTimeoutMs = 120_000;

/** What kubectl printed and how it ended. */
export interface KubectlResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** How to call kubectl. */
export interface KubectlOptions {
  /** Fed to standard input, for `-f -`. */
  readonly input?: string;
  readonly namespace?: string;
  readonly actAs?: ActAs;
  /** Returns a failure instead of throwing it. */
  readonly mayFail?: boolean;
}

/** See the module's header. */
export interface TestKubernetes {
  readonly access: KubernetesAccess;
  readonly client: KubernetesClient;
  readonly audit: AuditLog;
  /** A new namespace with a unique name that begins with the prefix. */
  createNamespace(prefix?: string): Promise<string>;
  /** Runs kubectl as the admin, or as somebody else. @throws on a non-zero exit unless `mayFail`. */
  kubectl(args: readonly string[], options?: KubectlOptions): Promise<KubectlResult>;
  /** Path of a kubeconfig (0600) of somebody whom the admin impersonates; RBAC decides what they may do. */
  kubeconfigFor(actAs: ActAs): string;
}

/** An API server with the project's CRDs installed. */
export async function useKubernetes(options: { readonly exclusive?: boolean } = {}): Promise<TestKubernetes> {
  const scope = fileScope();
  const access = options.exclusive === true ? await startExclusive() : await scope.shared('kubernetes');
  const client = createKubernetesClient(access);
  scope.defer(() => client.close());
  const kubeconfigFor = (actAs: ActAs): string => {
    const path = join(scope.directory, `kubeconfig-${randomBytes(4).toString('hex')}`);
    writeFileSync(path, renderKubeconfig(access, actAs), { mode: 0o600 });
    return path;
  };
  return {
    access,
    client,
    audit: openAuditLog(access.auditLog),
    createNamespace: async (prefix = 'test') => {
      const name = `${prefix}-${randomBytes(4).toString('hex')}`;
      await client.apply(`/api/v1/namespaces/${name}`, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
      return name;
    },
    kubectl: (args, call = {}) => runKubectl(access, { args, kubeconfig: call.actAs === undefined ? access.kubeconfig : kubeconfigFor(call.actAs), ...call }),
    kubeconfigFor,
  };
}

async function startExclusive(): Promise<KubernetesAccess> {
  // Loaded only here: most files use the shared server and should start fast.
  const { startKubernetesWithCrds } = await import('#hack/stack/crds.ts');
  const { ensureKubernetes } = await import('#hack/build-kubernetes.ts');
  const scope = fileScope();
  const cluster = await startKubernetesWithCrds({
    programs: await ensureKubernetes(),
    runDirectory: scope.directory,
    directory: scope.makeDirectory('k'),
    logDirectory: scope.logDirectory,
    isDurable: false,
  });
  scope.defer(() => cluster.client.close());
  return cluster;
}

async function runKubectl(
  access: KubernetesAccess,
  call: KubectlOptions & { readonly args: readonly string[]; readonly kubeconfig: string },
): Promise<KubectlResult> {
  const namespaceArgs = call.namespace === undefined ? [] : ['--namespace', call.namespace];
  const child = spawn(access.kubectl, [...call.args, ...namespaceArgs], {
    env: { PATH: process.env['PATH'], HOME: access.directory, KUBECONFIG: call.kubeconfig },
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: kubectlTimeoutMs,
    killSignal: 'SIGKILL',
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  child.stdin.on('error', () => {
    // kubectl ended without reading its input; its exit code tells why.
  });
  child.stdin.end(call.input ?? '');
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (exitCode) => resolve(exitCode ?? -1));
  });
  if (code !== 0 && call.mayFail !== true) {
    throw new Error(`kubectl ${call.args.join(' ')} ended with ${code}:\n${stderr}${stdout}`);
  }
  return { code, stdout, stderr };
}
