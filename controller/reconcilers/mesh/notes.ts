/** What is kept in the database of a look: ids, orders to hosts, keys that did their work. Each write only when it differs. */
import { hostGroupName, setupKeyName, siteGroupName, type MeshScope } from '#controller/domain/mesh/names.ts';
import type { ListedPeer, MeshCall, MeshListing, MeshNames } from '#controller/domain/mesh/model.ts';
import type { MeshOrder } from '#api/model/mesh.ts';
import type { MeshHostChange, MeshHostRecord } from '#controller/ports/mesh-store.ts';
import { isJoined, orderFor } from './desired.ts';
import type { MeshDeps, MeshSiteScope } from './scope.ts';

export function hostOf({ tenantId, hostId, siteId }: MeshHostRecord): Pick<MeshHostChange, 'tenantId' | 'hostId' | 'siteId'> {
  return { tenantId, hostId, siteId };
}

/** Saves an order and tells the gateway that holds the host's stream. */
export async function saveOrder(record: MeshHostRecord, order: Omit<MeshOrder, 'revision'>, deps: MeshDeps, more: Partial<MeshHostChange> = {}): Promise<void> {
  await deps.mesh.saveHost({ ...hostOf(record), order, ...more }, deps.epoch, deps.actor);
  const { order: before } = record;
  const isSame = before?.join === order.join && before.managementUrl === order.managementUrl && before.hostName === order.hostName;
  if (!isSame) deps.hints.publish({ kind: 'host', tenantId: record.tenantId, hostId: record.hostId });
}

/** The peer that carries the host's group; the reported address only chooses among several. */
export function findPeer(listing: MeshListing, scope: MeshScope, record: MeshHostRecord): ListedPeer | null {
  const group = listing.groups.find(({ name }) => name === hostGroupName(scope, record.hostId));
  const peers = listing.peers.filter(({ id }) => group?.peerIds.includes(id) === true);
  const confirmed = peers.find(({ address }) => address === record.report?.address);
  return confirmed ?? peers.toSorted((left, right) => right.createdAtMs - left.createdAtMs)[0] ?? null;
}

export async function note(
  { scope, deps }: { readonly scope: MeshSiteScope; readonly deps: MeshDeps },
  seen: { readonly records: readonly MeshHostRecord[]; readonly listing: MeshListing; readonly names: MeshNames },
): Promise<void> {
  const { records, listing, names } = seen;
  if (scope.saved !== null) {
    const wanted = [siteGroupName(scope.names), ...(scope.object.spec.mesh?.groups ?? [])];
    const groupIds = Object.fromEntries(wanted.flatMap((name) => (names.groupIds.has(name) ? [[name, names.groupIds.get(name) ?? '']] : [])));
    scope.saved = { ...scope.saved, groupIds };
    await deps.mesh.saveSite(scope.tenantId, scope.siteId, scope.saved, deps.epoch, deps.actor);
  }
  for (const record of records.filter(({ mayJoin }) => mayJoin)) {
    const groupId = names.groupIds.get(hostGroupName(scope.names, record.hostId)) ?? null;
    const peerId = findPeer(listing, scope.names, record)?.id ?? record.peerId;
    const usedKey = isJoined(record) && record.keyId !== null ? { forgetKeyId: record.keyId } : {};
    // Not before a key could be made for it: an agent that asks too early only waits longer.
    if (groupId === null) await deps.mesh.saveHost({ ...hostOf(record), groupId, peerId }, deps.epoch, deps.actor);
    else await saveOrder(record, orderFor(record, scope.object), deps, { groupId, peerId, ...usedKey });
  }
}

/** After a look that found nothing left to do: whoever may not join has nothing in the account any more. */
export async function forgetLeft(records: readonly MeshHostRecord[], deps: MeshDeps): Promise<void> {
  for (const record of records.filter(({ mayJoin }) => !mayJoin)) {
    await deps.mesh.saveHost({ ...hostOf(record), subnet: null, groupId: null, peerId: null }, deps.epoch, deps.actor);
  }
}

/** A key that is being made at this moment may be in the listing while nobody holds its id yet. */
export function withoutKeysInTheMaking(calls: readonly MeshCall[], scope: MeshScope, records: readonly MeshHostRecord[]): readonly MeshCall[] {
  const names = new Set(records.filter(({ isKeyBeingMade }) => isKeyBeingMade).map(({ hostId }) => setupKeyName(scope, hostId)));
  return names.size === 0 ? calls : calls.filter((call) => call.kind !== 'deleteSetupKey' || !names.has(call.name));
}
