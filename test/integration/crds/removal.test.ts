/**
 * A demo on somebody's cluster leaves nothing of ours there: whatever file is added under `crds/`, its object goes again.
 */
import { describe, expect, it } from 'vitest';
import { installRoles, removeCrds } from '#hack/stack/crds.ts';
import { useKubernetes } from '#test/harness/kubernetes.ts';
import { until } from '#test/harness/until.ts';

const ourKinds = ['customresourcedefinitions', 'validatingadmissionpolicies', 'validatingadmissionpolicybindings', 'clusterroles'];

describe('the removal of everything that is installed on a cluster', () => {
  it('takes CRDs, policies and roles, also while objects have finalizers and policies refuse their deletion', async () => {
    const kubernetes = await useKubernetes({ exclusive: true });
    const { client } = kubernetes;
    const ours = async (): Promise<readonly string[]> =>
      (await kubernetes.kubectl(['get', ourKinds.join(','), '--output', 'name'])).stdout.split('\n').filter((name) => name.includes('nkudo'));
    await installRoles(client);
    const namespace = await kubernetes.createNamespace();
    const site = `/apis/nkudo.dev/v1alpha1/namespaces/${namespace}/sites/shop-1`;
    await client.apply(site, { apiVersion: 'nkudo.dev/v1alpha1', kind: 'Site', metadata: { name: 'shop-1', finalizers: ['nkudo.dev/site'] }, spec: {} });
    await client.request('PATCH', `${site}/status`, { status: { microvms: { total: 3 } } }, 'application/merge-patch+json');
    await until(async () => (await client.request('DELETE', `${site}?dryRun=All`)).status === 403, 'the server to hold to the policies');
    const before = await ours();
    for (const kind of ['customresourcedefinition', 'validatingadmissionpolicy.', 'validatingadmissionpolicybinding', 'clusterrole']) {
      expect(before.some((name) => name.startsWith(kind)), kind).toBe(true);
    }

    const crds = before.filter((name) => name.startsWith('customresourcedefinition')).map((name) => client.watch(`/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${name.split('/')[1] ?? ''}`));
    await removeCrds(client);

    for (const crd of crds) await crd.waitFor(({ type }) => type === 'DELETED');
    expect(await ours()).toEqual([]);
  });
});
