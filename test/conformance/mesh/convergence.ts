/** Lists, plans and performs until an account is as a site wants it, as the reconciler does; with any failure passed on. */
import { expect } from 'vitest';
import type { DesiredMesh, MeshCall, MeshCallResult, MeshListing } from '#controller/domain/mesh/model.ts';
import { isOwnGroupName, isOwnMarker, type MeshScope } from '#controller/domain/mesh/names.ts';
import { planMesh } from '#controller/domain/mesh/plan-mesh.ts';
import type { MeshAccount } from '#controller/ports/mesh.ts';

const looksMax = 4;
const never = new AbortController().signal;

export interface MutableNames {
  readonly groupIds: Map<string, string>;
  readonly networkIds: Map<string, string>;
}

export function namesOf(listing: MeshListing): MutableNames {
  return {
    groupIds: new Map(listing.groups.map(({ name, id }) => [name, id])),
    networkIds: new Map(listing.networks.map(({ name, id }) => [name, id])),
  };
}

export async function performAll(account: MeshAccount, calls: readonly MeshCall[], names: MutableNames): Promise<MeshCallResult[]> {
  const results: MeshCallResult[] = [];
  for (const call of calls) {
    const result = await account.perform(call, names, never);
    if (call.kind === 'createGroup') names.groupIds.set(call.name, result.id);
    if (call.kind === 'createNetwork') names.networkIds.set(call.name, result.id);
    results.push(result);
  }
  return results;
}

/** One look and its calls; the calls that were made. */
export async function look(account: MeshAccount, desired: DesiredMesh): Promise<readonly MeshCall[]> {
  const listing = await account.list(desired.scope, never);
  const { calls } = planMesh(desired, listing);
  await performAll(account, calls, namesOf(listing));
  return calls;
}

export async function converge(account: MeshAccount, desired: DesiredMesh): Promise<void> {
  for (let round = 0; round < looksMax; round += 1) if ((await look(account, desired)).length === 0) return;
  expect((await look(account, desired)).map(({ kind }) => kind)).toEqual([]);
}

/** Names of everything that belongs to the site, sorted; one that is there twice is in it twice. */
export function ownNames(scope: MeshScope, listing: MeshListing): string[] {
  return [
    ...listing.groups.filter(({ name }) => isOwnGroupName(scope, name)).map(({ name }) => `group ${name}`),
    ...listing.policies.filter(({ description }) => isOwnMarker(scope, description)).map(({ description }) => `policy ${description}`),
    ...listing.setupKeys.filter(({ name }) => isOwnMarker(scope, name)).map(({ name }) => `key ${name}`),
    ...listing.networks
      .filter(({ description }) => isOwnMarker(scope, description))
      .flatMap(({ description, resources, routers }) => [`network ${description}`, ...resources.map(({ name }) => `resource ${name}`), ...routers.map(({ peerGroupIds }) => `router ${peerGroupIds.join()}`)]),
  ].sort();
}

/** Everything else that has a name of its own, as text. */
export function foreignOf(scope: MeshScope, listing: MeshListing): string {
  return JSON.stringify([
    listing.groups.filter(({ name }) => name !== 'All' && !isOwnGroupName(scope, name)),
    listing.policies.filter(({ description }) => !isOwnMarker(scope, description)),
    listing.setupKeys.filter(({ name }) => !isOwnMarker(scope, name)),
    listing.networks.filter(({ description }) => !isOwnMarker(scope, description)),
  ]);
}
