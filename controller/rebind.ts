/**
 * `tenant rebind`: after the loss of a cluster the same manifests made a new namespace and new Sites. This has the tenant of
 * before go on as those, so that its hosts, certificates and microVMs are somebody's again. Runs beside running
 * replicas: the one that leads notices.
 */
import { tenantId } from '#api/model/ids.ts';
import type { IdentityStore, LostTenant, Rebound } from './ports/identity-store.ts';
import { adoptAnnotation } from './reconcilers/microvm/adoption.ts';
import { namespaceResource, siteResource } from './reconcilers/kinds.ts';
import type { KubernetesApi, KubernetesObject } from './runtime/kubernetes-api.ts';

export interface RebindDeps {
  readonly kube: Pick<KubernetesApi, 'get' | 'list'>;
  readonly identities: Pick<IdentityStore, 'listTenants' | 'rebind'>;
  /** Who types it, for the audit. */
  readonly user: string;
  readonly print: (line: string) => void;
}

/** The message is for the person who typed the command. */
export class RebindError extends Error {
  override readonly name = 'RebindError';
}

const pageSize = 500;
const deadlineMs = 60_000;

/** Idempotent: run it again when more Sites are there. @throws RebindError */
export async function rebindTenant(deps: RebindDeps, namespace: string, from: string | undefined): Promise<void> {
  const object = await deps.kube.get(namespaceResource, { namespace: '', name: namespace });
  if (object === null) throw new RebindError(`there is no namespace ${namespace} in this cluster; apply your manifests first`);
  const namespaceUid = object.metadata.uid;
  const lost = chooseTenant(await deps.identities.listTenants(namespace), { namespace, namespaceUid, from });
  const sites = await listSites(deps.kube, namespace);
  const rebound = await deps.identities.rebind({ tenantId: lost.tenantId, namespaceUid, sites }, { kind: 'user', name: deps.user, from: '' });
  describe(deps, { namespace, lost, rebound, sites: sites.map(({ name }) => name) });
}

function chooseTenant(tenants: readonly LostTenant[], input: { readonly namespace: string; readonly namespaceUid: string; readonly from: string | undefined }): LostTenant {
  const { namespace, namespaceUid, from } = input;
  const present = tenants.find(({ tenantId: id }) => id === namespaceUid);
  if (present !== undefined && (present.hosts > 0 || present.microvms > 0)) {
    throw new RebindError(`the namespace ${namespace} has ${present.hosts} hosts and ${present.microvms} microVMs of its own already; delete those first`);
  }
  const again = tenants.find((tenant) => tenant.namespaceUid === namespaceUid);
  const others = tenants.filter((tenant) => tenant.tenantId !== namespaceUid && (tenant.hosts > 0 || tenant.microvms > 0));
  const chosen = from === undefined ? (again ?? (others.length === 1 ? others[0] : undefined)) : tenants.find((tenant) => tenant.tenantId === from && tenant.tenantId !== namespaceUid);
  if (chosen !== undefined) return chosen;
  if (from !== undefined) throw new RebindError(`there was no tenant ${from} with the namespace ${namespace}`);
  if (others.length === 0) throw new RebindError(`no other tenant ever had hosts or microVMs in a namespace ${namespace}: there is nothing to bind again`);
  const list = others.map((tenant) => `${tenant.tenantId} (${tenant.hosts} hosts, ${tenant.microvms} microVMs)`).join(', ');
  throw new RebindError(`several tenants had the namespace ${namespace}: ${list}; choose one with --from`);
}

async function listSites(kube: Pick<KubernetesApi, 'list'>, namespace: string): Promise<readonly { readonly name: string; readonly objectUid: string }[]> {
  const found: KubernetesObject[] = [];
  let continueToken = '';
  do {
    const page = await kube.list(siteResource, { limit: pageSize, continueToken }, AbortSignal.timeout(deadlineMs));
    found.push(...page.items);
    ({ continueToken } = page);
  } while (continueToken !== '');
  return found.filter(({ metadata }) => metadata.namespace === namespace).map(({ metadata }) => ({ name: metadata.name, objectUid: metadata.uid }));
}

function describe(deps: RebindDeps, done: { readonly namespace: string; readonly lost: LostTenant; readonly rebound: Rebound; readonly sites: readonly string[] }): void {
  const { namespace, lost, rebound } = done;
  deps.print(`tenant ${tenantId(lost.tenantId)} goes on in namespace ${namespace}, with ${lost.hosts} hosts`);
  for (const site of rebound.sites) deps.print(`site ${site} goes on`);
  const fresh = done.sites.filter((site) => !rebound.sites.includes(site));
  if (fresh.length > 0) deps.print(`new here, and not bound to anything: ${fresh.join(', ')}`);
  if (rebound.microvms.length === 0) return;
  deps.print('microVMs that wait for their objects; each is taken over by');
  for (const { name, microvmId } of rebound.microvms) deps.print(`  kubectl -n ${namespace} annotate mvm ${name} ${adoptAnnotation}=${microvmId}`);
}
