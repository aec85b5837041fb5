/**
 * Installs the project's CRDs on an API server and waits until they are served.
 * Owns no schema: the YAML under `crds/v1alpha1` and `crds/policies` is the source of truth.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { repositoryRoot } from '../build-cache.ts';
import { startKubernetes, type KubernetesCluster, type KubernetesOptions } from './kubernetes.ts';
import type { KubernetesClient, KubernetesObject } from './kubernetes-client.ts';

const crdDirectory = join(repositoryRoot, 'crds', 'v1alpha1');
const policyDirectory = join(repositoryRoot, 'crds', 'policies');
const policyPaths: Readonly<Record<string, string>> = {
  ValidatingAdmissionPolicy: '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies',
  ValidatingAdmissionPolicyBinding: '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings',
};
const crdPath = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
const establishedTimeoutMs = 60_000;

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
  for (const policy of readDocuments(policyDirectory)) {
    const path = policyPaths[String(policy['kind'])];
    if (path === undefined) throw new Error(`crds/policies holds a ${String(policy['kind'])}`);
    await client.apply(`${path}/${policy.metadata.name}`, policy);
  }
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
