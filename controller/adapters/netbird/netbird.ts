/**
 * The mesh port on NetBird's management API, cloud or self-hosted. Owns how each call of a plan becomes requests that
 * are safe to repeat: creates look first, deletes of what is gone succeed. What to call is decided elsewhere.
 *
 * Invariants: nothing is sent twice by itself; a request whose answer was lost is an error, and the next listing tells
 * what became of it. Keys and tokens are in no error.
 */
import { createHash } from 'node:crypto';
import { AppError } from '#api/model/error-codes.ts';
import type { MeshCall, MeshCallResult, MeshListing, MeshNames, PolicySpec, ResourceSpec, RouterSpec } from '#controller/domain/mesh/model.ts';
import { isOwnMarker, type MeshScope } from '#controller/domain/mesh/names.ts';
import type { MeshAccount, MeshAccountAddress, OpenMeshAccount } from '#controller/ports/mesh.ts';
import type { Time } from '#controller/runtime/time.ts';
import type { components } from './gen/api.ts';
import { badAnswer, createNetbirdClient, createTraffic, dataOf, defaultLimits, type AccountTraffic, type NetbirdClient } from './http.ts';
import { idOf, listedGroup, listedNetwork, listedPeer, listedPolicy, listedResource, listedRouter, listedSetupKey, listOf } from './listing.ts';
import type { LimiterLimits } from './limiter.ts';

/** Accounts whose limits are remembered; the longest unused one is forgotten first. */
const accountsMax = 256;
/** Gone, or never there. */
const gone = [404];

/** Opens accounts that share their limits by address and token. */
export function createNetbirdAccounts(time: Time, limits: LimiterLimits = defaultLimits): OpenMeshAccount {
  const traffic = new Map<string, AccountTraffic>();
  return (address) => {
    const key = accountKey(address);
    const shared = traffic.get(key) ?? createTraffic(time, limits);
    traffic.delete(key);
    traffic.set(key, shared);
    for (const oldest of traffic.keys()) {
      if (traffic.size <= accountsMax) break;
      traffic.delete(oldest);
    }
    return createNetbirdAccount(address, shared, time);
  };
}

/** Holds no secret: a digest. */
function accountKey({ managementUrl, token }: MeshAccountAddress): string {
  return createHash('sha256').update(`${managementUrl}\n${token}`).digest('hex');
}

function createNetbirdAccount(address: MeshAccountAddress, traffic: AccountTraffic, time: Time): MeshAccount {
  // Made at the first call, so that opening an account with a bad token throws nothing.
  const connect = (): NetbirdClient => createNetbirdClient({ ...address, traffic, time });
  return {
    list: async (scope, signal) => list(connect(), scope, signal),
    perform: async (call, names, signal) => perform({ client: connect(), names, signal }, call),
  };
}

async function list(client: NetbirdClient, scope: MeshScope, signal: AbortSignal): Promise<MeshListing> {
  const [groups, policies, setupKeys, peers, networks] = await Promise.all([
    dataOf(client.GET('/api/groups', { signal }), 'list groups'),
    dataOf(client.GET('/api/policies', { signal }), 'list policies'),
    dataOf(client.GET('/api/setup-keys', { signal }), 'list setup keys'),
    dataOf(client.GET('/api/peers', { signal }), 'list peers'),
    dataOf(client.GET('/api/networks', { signal }), 'list networks'),
  ]);
  const listed = listOf(networks, listedNetwork);
  return {
    groups: listOf(groups, listedGroup),
    policies: listOf(policies, listedPolicy),
    setupKeys: listOf(setupKeys, listedSetupKey),
    peers: listOf(peers, listedPeer),
    networks: await Promise.all(
      listed.map(async (network) => {
        if (!isOwnMarker(scope, network.description)) return network;
        const [resources, routers] = await Promise.all([resourcesOf({ client, signal }, network.id), routersOf({ client, signal }, network.id)]);
        return { ...network, resources: listOf(resources, listedResource), routers: listOf(routers, listedRouter) };
      }),
    ),
  };
}

interface Request {
  readonly client: NetbirdClient;
  readonly signal: AbortSignal;
}

interface NamedRequest extends Request {
  readonly names: MeshNames;
}

/** Null when the network is gone meanwhile. */
function resourcesOf({ client, signal }: Request, networkId: string): Promise<unknown> {
  return dataOf(client.GET('/api/networks/{networkId}/resources', { params: { path: { networkId } }, signal }), 'list resources', gone);
}

function routersOf({ client, signal }: Request, networkId: string): Promise<unknown> {
  return dataOf(client.GET('/api/networks/{networkId}/routers', { params: { path: { networkId } }, signal }), 'list routers', gone);
}

async function perform(request: NamedRequest, call: MeshCall): Promise<MeshCallResult> {
  const { client, signal, names } = request;
  switch (call.kind) {
    case 'createGroup':
      return { id: await ensureGroup(request, call.name) };
    case 'updateGroup': {
      // The description's ResourceType is the intersection of two lists without a common word, so no value has its type.
      const resources = call.resources.map(({ id, type }) => ({ id, type: type as never }));
      return changed(dataOf(client.PUT('/api/groups/{groupId}', { params: { path: { groupId: call.id } }, body: { name: call.name, peers: [...call.peerIds], resources }, signal }), 'update group'));
    }
    case 'deleteGroup':
      return deleteGroup(request, call.id);
    case 'createPolicy':
      return { id: await ensurePolicy(request, call.policy) };
    case 'updatePolicy':
      return changed(dataOf(client.PUT('/api/policies/{policyId}', { params: { path: { policyId: call.id } }, body: policyBody(call.policy, names), signal }), 'update policy'));
    case 'deletePolicy':
      return deleted(dataOf(client.DELETE('/api/policies/{policyId}', { params: { path: { policyId: call.id } }, signal }), 'delete policy', gone), call.id);
    case 'createSetupKey':
      return createSetupKey(request, call);
    case 'deleteSetupKey':
      return deleted(deleteKey(request, call.id), call.id);
    case 'renamePeer': {
      const body = {
        name: call.name,
        ssh_enabled: call.settings.isSshEnabled,
        login_expiration_enabled: call.settings.isLoginExpirationEnabled,
        inactivity_expiration_enabled: call.settings.isInactivityExpirationEnabled,
      };
      return changed(dataOf(client.PUT('/api/peers/{peerId}', { params: { path: { peerId: call.id } }, body, signal }), 'rename peer'));
    }
    case 'deletePeer':
      return deleted(dataOf(client.DELETE('/api/peers/{peerId}', { params: { path: { peerId: call.id } }, signal }), 'delete peer', gone), call.id);
    case 'createNetwork':
      return { id: await ensureNetwork(request, call.name, call.marker) };
    case 'updateNetwork':
      return changed(dataOf(client.PUT('/api/networks/{networkId}', { params: { path: { networkId: call.id } }, body: { name: call.name, description: call.marker }, signal }), 'update network'));
    case 'deleteNetwork':
      return deleted(dataOf(client.DELETE('/api/networks/{networkId}', { params: { path: { networkId: call.id } }, signal }), 'delete network', gone), call.id);
    case 'createResource':
      return { id: await ensureResource(request, call.networkId ?? networkId(names, call.network), call.resource) };
    case 'updateResource': {
      const path = { networkId: call.networkId, resourceId: call.id };
      return changed(dataOf(client.PUT('/api/networks/{networkId}/resources/{resourceId}', { params: { path }, body: resourceBody(call.resource, names), signal }), 'update resource'));
    }
    case 'deleteResource': {
      const path = { networkId: call.networkId, resourceId: call.id };
      return deleted(dataOf(client.DELETE('/api/networks/{networkId}/resources/{resourceId}', { params: { path }, signal }), 'delete resource', gone), call.id);
    }
    case 'createRouter':
      return { id: await ensureRouter(request, call.networkId ?? networkId(names, call.network), call.router) };
    case 'updateRouter': {
      const path = { networkId: call.networkId, routerId: call.id };
      return changed(dataOf(client.PUT('/api/networks/{networkId}/routers/{routerId}', { params: { path }, body: routerBody(call.router, names), signal }), 'update router'));
    }
    case 'deleteRouter': {
      const path = { networkId: call.networkId, routerId: call.id };
      return deleted(dataOf(client.DELETE('/api/networks/{networkId}/routers/{routerId}', { params: { path }, signal }), 'delete router', gone), call.id);
    }
  }
}

async function changed(answer: Promise<{ readonly id?: string } | null>): Promise<MeshCallResult> {
  return { id: idOf((await answer)?.id) };
}

async function deleted(answer: Promise<unknown>, id: string): Promise<MeshCallResult> {
  await answer;
  return { id };
}

async function ensureGroup({ client, signal }: Request, name: string): Promise<string> {
  const find = async (): Promise<string | null> => {
    const found = await dataOf(client.GET('/api/groups', { params: { query: { name } }, signal }), 'find group', gone);
    return listOf(found, listedGroup).find((group) => group.name === name)?.id ?? null;
  };
  const existing = await find();
  if (existing !== null) return existing;
  const created = await dataOf(client.POST('/api/groups', { body: { name }, signal }), 'create group', [409]);
  // 409: somebody, or an earlier request of ours whose answer was lost, was faster.
  const id = created === null ? await find() : idOf(created.id);
  if (id === null) throw new AppError('MESH_REFUSED', 'create group: the name is taken and no group with it is found', { details: { status: 409 } });
  return id;
}

/** A missing group is answered with 400, as is a group in use: only looking tells the two apart. */
async function deleteGroup({ client, signal }: Request, groupId: string): Promise<MeshCallResult> {
  const path = { groupId };
  try {
    await dataOf(client.DELETE('/api/groups/{groupId}', { params: { path }, signal }), 'delete group', gone);
  } catch (error) {
    if (!(error instanceof AppError) || error.details['status'] !== 400) throw error;
    const left = await dataOf(client.GET('/api/groups/{groupId}', { params: { path }, signal }), 'find group', gone);
    if (left !== null) throw error;
  }
  return { id: groupId };
}

/** Policy names are not unique in an account. */
async function ensurePolicy({ client, names, signal }: NamedRequest, policy: PolicySpec): Promise<string> {
  const policies = listOf(await dataOf(client.GET('/api/policies', { signal }), 'find policy'), listedPolicy);
  const existing = policies.find(({ name, description }) => name === policy.name && description === policy.marker);
  if (existing !== undefined) return existing.id;
  const created = await dataOf(client.POST('/api/policies', { body: policyBody(policy, names), signal }), 'create policy');
  return idOf(created?.id);
}

function policyBody(policy: PolicySpec, names: MeshNames): components['schemas']['PolicyUpdate'] {
  return {
    name: policy.name,
    description: policy.marker,
    enabled: true,
    source_posture_checks: [],
    rules: [
      {
        name: policy.name,
        description: policy.marker,
        enabled: true,
        action: 'accept',
        bidirectional: policy.isBidirectional,
        protocol: policy.protocol,
        ...(policy.ports.length === 0 ? {} : { ports: [...policy.ports] }),
        sources: policy.sources.map((name) => groupId(names, name)),
        destinations: policy.destinations.map((name) => groupId(names, name)),
      },
    ],
  };
}

/** Names of keys are not unique, and the value of one that exists can not be read again: it is made anew. */
async function createSetupKey(request: NamedRequest, call: Extract<MeshCall, { kind: 'createSetupKey' }>): Promise<MeshCallResult> {
  const { client, names, signal } = request;
  const keys = listOf(await dataOf(client.GET('/api/setup-keys', { signal }), 'find setup key'), listedSetupKey);
  for (const key of keys) if (key.name === call.name) await deleteKey(request, key.id);
  const body = {
    name: call.name,
    type: 'one-off',
    // Measured: the server takes less than the minimum of 86,400 that its description names.
    expires_in: call.ttlSeconds,
    auto_groups: call.groups.map((name) => groupId(names, name)),
    usage_limit: 1,
    // A host that is off for days keeps its peer.
    ephemeral: false,
  };
  const created = await dataOf(client.POST('/api/setup-keys', { body, signal }), 'create setup key');
  if (typeof created?.key !== 'string' || created.key === '') throw badAnswer('create setup key');
  const value = created.key;
  return { id: idOf(created.id), revealKey: () => value };
}

function deleteKey({ client, signal }: Request, keyId: string): Promise<unknown> {
  return dataOf(client.DELETE('/api/setup-keys/{keyId}', { params: { path: { keyId } }, signal }), 'delete setup key', gone);
}

async function ensureNetwork({ client, signal }: Request, name: string, marker: string): Promise<string> {
  const networks = listOf(await dataOf(client.GET('/api/networks', { signal }), 'find network'), listedNetwork);
  const existing = networks.find((network) => network.name === name && network.description === marker);
  if (existing !== undefined) return existing.id;
  const created = await dataOf(client.POST('/api/networks', { body: { name, description: marker }, signal }), 'create network');
  return idOf(created?.id);
}

async function ensureResource(request: NamedRequest, id: string, resource: ResourceSpec): Promise<string> {
  const { client, names, signal } = request;
  const existing = listOf(await resourcesOf(request, id), listedResource).find(({ name, description }) => name === resource.name && description === resource.marker);
  if (existing !== undefined) return existing.id;
  const body = resourceBody(resource, names);
  const created = await dataOf(client.POST('/api/networks/{networkId}/resources', { params: { path: { networkId: id } }, body, signal }), 'create resource');
  return idOf(created?.id);
}

function resourceBody(resource: ResourceSpec, names: MeshNames): components['schemas']['NetworkResourceRequest'] {
  return { name: resource.name, description: resource.marker, address: resource.address, enabled: true, groups: resource.groups.map((name) => groupId(names, name)) };
}

/** Routers have no name: the one of the peer group is meant. */
async function ensureRouter(request: NamedRequest, id: string, router: RouterSpec): Promise<string> {
  const { client, names, signal } = request;
  const group = groupId(names, router.peerGroup);
  const existing = listOf(await routersOf(request, id), listedRouter).find(({ peerGroupIds }) => peerGroupIds.length === 1 && peerGroupIds[0] === group);
  if (existing !== undefined) return existing.id;
  const created = await dataOf(client.POST('/api/networks/{networkId}/routers', { params: { path: { networkId: id } }, body: routerBody(router, names), signal }), 'create router');
  return idOf(created?.id);
}

function routerBody(router: RouterSpec, names: MeshNames): components['schemas']['NetworkRouterRequest'] {
  return { peer_groups: [groupId(names, router.peerGroup)], metric: router.metric, masquerade: true, enabled: true };
}

function groupId(names: MeshNames, name: string): string {
  return known(names.groupIds, name, 'group');
}

function networkId(names: MeshNames, name: string): string {
  return known(names.networkIds, name, 'network');
}

function known(ids: ReadonlyMap<string, string>, name: string, kind: string): string {
  const id = ids.get(name);
  if (id === undefined) throw new AppError('MESH_REFUSED', `the ${kind} ${name} is not known yet`);
  return id;
}
