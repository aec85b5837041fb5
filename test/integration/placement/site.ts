/** A leader with a Site and some machines, for tests of placement, drain and deletion. */
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import type { HostFacts } from '#api/model/host.ts';
import { messageOf, siteName, startLeader, statusOf, type Leader, type LeaderOptions, type Plural } from '../reconcilers/leader.ts';
import { enrollMachine, type Machine } from '../reconcilers/machine.ts';

export { messageOf, siteName, statusOf };
export const gib = 2 ** 30;

export interface PlacementSite extends Leader {
  addMachine(name: string, options?: { readonly facts?: Partial<HostFacts>; readonly spec?: object; readonly labels?: Readonly<Record<string, string>>; readonly isObedient?: boolean }): Promise<Machine>;
  patch(plural: Plural, name: string, body: object): Promise<void>;
  /** Made with labels as well. */
  makeMicroVM(name: string, spec?: object, labels?: Readonly<Record<string, string>>): Promise<KubernetesObject>;
  hostOf(name: string): Promise<string>;
  waitForHost(name: string, host: string): Promise<KubernetesObject>;
}

export async function startPlacementSite(spec: object = {}, options: LeaderOptions = {}): Promise<PlacementSite> {
  const leader = await startLeader(options);
  await leader.apply('sites', siteName, spec);
  await leader.waitForCondition('sites', siteName, 'Accepted=True');
  const patch: PlacementSite['patch'] = async (plural, name, body) => {
    const answer = await leader.kubernetes.client.request('PATCH', leader.path(plural, name), body, 'application/merge-patch+json');
    if (answer.status >= 300) throw new Error(`patch of ${plural}/${name}: ${answer.status} ${JSON.stringify(answer.body)}`);
  };
  return Object.assign(leader, {
    addMachine: async (name, { facts = {}, spec, labels, isObedient = true } = {}) => {
      const machine = await enrollMachine(leader, name, facts);
      await machine.connect();
      await leader.waitForCondition('hosts', name, 'Ready=True');
      if (spec !== undefined || labels !== undefined) await patch('hosts', name, { ...(spec === undefined ? {} : { spec }), ...(labels === undefined ? {} : { metadata: { labels } }) });
      if (isObedient) machine.obey();
      return machine;
    },
    patch,
    makeMicroVM: (name, spec = {}, labels = {}) =>
      leader.kubernetes.client.apply(leader.path('microvms', name), {
        apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name, namespace: leader.namespace, labels },
        spec: { siteRef: { name: siteName }, cpu: { count: 1 }, memory: { size: '64Mi' }, boot: { kernel: { path: '/images/guest.elf' } }, ...spec },
      }),
    hostOf: async (name) => hostNameOf(await leader.waitForCondition('microvms', name, 'Running=True')),
    waitForHost: (name, host) => leader.waitFor('microvms', name, `to run on ${host}`, (object) => hostNameOf(object) === host && statusOf(object)['printableStatus'] === 'Running'),
  } satisfies Partial<PlacementSite>) as PlacementSite; // Object.assign keeps the leader's getters.
}

export function hostNameOf(object: KubernetesObject): string {
  return (statusOf(object)['binding'] as { hostName?: string } | undefined)?.hostName ?? '';
}
