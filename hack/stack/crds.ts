/**
 * Installs the project's CRDs, admission policies and roles on an API server, and removes them.
 * Owns no schema: the YAML under `crds/` is the source of truth, for both.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseAllDocuments } from 'yaml';
import { repositoryRoot } from '../build-cache.ts';
import { startKubernetes, type KubernetesCluster, type KubernetesOptions } from './kubernetes.ts';
import type { KubernetesClient, KubernetesObject } from './kubernetes-client.ts';

const crdDirectory = join(repositoryRoot, 'crds', 'v1alpha1');
const policyDirectory = join(repositoryRoot, 'crds', 'policies');
const roleDirectory = join(repositoryRoot, 'crds', 'rbac');
const pathOfKind: Readonly<Record<string, string>> = {
  ClusterRole: '/apis/rbac.authorization.k8s.io/v1/clusterroles',
  ValidatingAdmissionPolicy: '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies',
  ValidatingAdmissionPolicyBinding: '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings',
};
const crdPath = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
const establishedTimeoutMs = 60_000;
const servedPollMs = 100;

/** Starts an API server that serves the CRDs. */
export async function startKubernetesWithCrds(options: KubernetesOptions): Promise<KubernetesCluster> {
  const cluster = await startKubernetes(options);
  try {
    await installCrds(cluster.client);
    return cluster;
  } catch (error) {
    await cluster.stop();
    throw error;
  }
}

/** Applies every CRD, waits for its condition Established, then the admission policies, which the server takes up a moment later. Idempotent. @throws when there is none. */
export async function installCrds(client: KubernetesClient): Promise<void> {
  const crds = readCrds();
  if (crds.length === 0) {
    throw new Error('crds/v1alpha1 holds no CRD');
  }
  await Promise.all(
    crds.map(async (crd) => {
      const path = `${crdPath}/${crd.metadata.name}`;
      await client.apply(path, crd);
      const watch = client.watch(path);
      try {
        await watch.waitFor((event) => isEstablished(event.object), {
          what: `condition Established of ${crd.metadata.name}`,
          timeoutMs: establishedTimeoutMs,
        });
      } finally {
        watch.stop();
      }
    }),
  );
  for (const policy of readDocuments(policyDirectory)) await client.apply(pathOf(policy), policy);
}

/** Applies the ClusterRoles of tenants. Idempotent. */
export async function installRoles(client: KubernetesClient): Promise<void> {
  for (const role of readDocuments(roleDirectory)) await client.apply(pathOf(role), role);
}

/**
 * Removes everything that {@link installCrds} and {@link installRoles} made, and every object of our kinds with it. For the
 * end of a cluster's use: no controller is left to confirm a teardown, so the objects go without their finalizers. The
 * server removes the CRDs a moment later.
 */
export async function removeCrds(client: KubernetesClient): Promise<void> {
  // The policies first: they refuse the deletion of Sites and Hosts with microVMs.
  for (const object of [...readDocuments(policyDirectory), ...readDocuments(roleDirectory)]) await client.request('DELETE', pathOf(object));
  for (const crd of readCrds()) {
    const { group, versions, names } = crd['spec'] as CrdSpec; // Committed files.
    for (const { metadata } of await listOnceServed(client, `/apis/${group}/${versions[0].name}/${names.plural}`)) {
      const path = `/apis/${group}/${versions[0].name}/namespaces/${metadata.namespace ?? ''}/${names.plural}/${metadata.name}`;
      await client.request('DELETE', path);
      await client.request('PATCH', path, { metadata: { finalizers: null } }, 'application/merge-patch+json');
    }
    await client.request('DELETE', `${crdPath}/${crd.metadata.name}`);
  }
}

/** The server answers 429 while it begins to serve a CRD, which may be established already. */
async function listOnceServed(client: KubernetesClient, path: string): Promise<readonly KubernetesObject[]> {
  const deadline = performance.now() + establishedTimeoutMs;
  while ((await client.request('GET', path)).status === 429 && performance.now() < deadline) await delay(servedPollMs);
  return client.list(path);
}

interface CrdSpec {
  readonly group: string;
  readonly versions: readonly [{ readonly name: string }];
  readonly names: { readonly plural: string };
}

function pathOf(object: KubernetesObject): string {
  const path = pathOfKind[String(object['kind'])];
  if (path === undefined) throw new Error(`no path is known for kind ${String(object['kind'])} of ${object.metadata.name}`);
  return `${path}/${object.metadata.name}`;
}

function readCrds(): KubernetesObject[] {
  return readDocuments(crdDirectory).filter(isCrd);
}

function readDocuments(directory: string): KubernetesObject[] {
  return readdirSync(directory)
    .filter((file) => file.endsWith('.yaml'))
    .flatMap((file) => parseAllDocuments(readFileSync(join(directory, file), 'utf8')))
    .map((document) => document.toJS() as KubernetesObject); // Committed files; the API server judges them.
}

function isCrd(value: KubernetesObject): boolean {
  return value['kind'] === 'CustomResourceDefinition';
}

function isEstablished(crd: KubernetesObject): boolean {
  const status = crd['status'];
  const conditions: unknown = typeof status === 'object' && status !== null && 'conditions' in status ? status.conditions : [];
  return (
    Array.isArray(conditions) &&
    conditions.some((condition: { type?: unknown; status?: unknown }) => condition.type === 'Established' && condition.status === 'True')
  );
}
