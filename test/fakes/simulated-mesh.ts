/**
 * A mesh account in memory that lists and performs what a plan says, on the state of mock-netbird: with its unique
 * names, its refusals of deletes and its cascades, and without HTTP. For tests of plans; the adapter has the simulator.
 */
import type { MeshCall, MeshListing, PolicySpec } from '#controller/domain/mesh/model.ts';
import { Account, Refusal } from '#test/simulators/mock-netbird/account.ts';

export interface SimulatedMesh {
  readonly account: Account;
  list(): MeshListing;
  /** Throws what the account refuses. */
  perform(call: MeshCall): void;
}

export function createSimulatedMesh(): SimulatedMesh {
  let count = 0;
  let nowMs = 1_000_000;
  const next = (): string => String((count += 1)).padStart(6, '0');
  const account = new Account({ nowMs: () => (nowMs += 1), nextId: () => `id-${next()}`, nextKey: () => `key-${next()}` });
  return { account, list: () => listOf(account), perform: (call) => perform(account, call) };
}

function listOf(account: Account): MeshListing {
  return {
    groups: [...account.groups.values()].map(({ id, name, peers, resources }) => ({ id, name, peerIds: [...peers], resources: [...resources] })),
    policies: [...account.policies.values()].map((policy) => ({
      id: policy.id,
      name: policy.name,
      description: policy.description,
      isEnabled: policy.enabled,
      postureCheckIds: policy.postureChecks ?? [],
      rules: policy.rules.map((rule) => ({
        id: rule.id,
        isEnabled: rule.enabled,
        action: rule.action,
        isBidirectional: rule.bidirectional,
        protocol: rule.protocol,
        ports: rule.ports,
        hasOther: rule.port_ranges.length > 0 || rule.sourceResource !== null || rule.destinationResource !== null,
        sourceIds: rule.sources.filter((id) => account.groups.has(id)),
        destinationIds: rule.destinations.filter((id) => account.groups.has(id)),
      })),
    })),
    setupKeys: [...account.setupKeys.values()].map((key) => ({ id: key.id, name: key.name, isValid: account.stateOf(key) === 'valid', isEphemeral: key.isEphemeral, autoGroupIds: [...key.autoGroups] })),
    peers: [...account.peers.values()].map((peer) => ({
      id: peer.id,
      name: peer.name,
      address: peer.ip,
      isConnected: peer.isConnected,
      createdAtMs: peer.createdAtMs,
      groupIds: account.groupsOf(peer.id).map(({ id }) => id),
      settings: { isSshEnabled: peer.sshEnabled, isLoginExpirationEnabled: peer.loginExpirationEnabled, isInactivityExpirationEnabled: peer.inactivityExpirationEnabled },
    })),
    networks: [...account.networks.values()].map((network) => ({
      id: network.id,
      name: network.name,
      description: network.description,
      resources: [...network.resources.values()].map(({ id, name, description, address, enabled, groups }) => ({ id, name, description, address, isEnabled: enabled, groupIds: groups })),
      routers: [...network.routers.values()].map((router) => ({
        id: router.id,
        peerId: router.peer,
        peerGroupIds: router.peer_groups,
        metric: router.metric,
        isMasquerading: router.masquerade,
        isEnabled: router.enabled,
      })),
    })),
  };
}

function perform(account: Account, call: MeshCall): void {
  const groupId = (name: string): string => account.groupByName(name).id;
  const networkId = (name: string): string => {
    const network = [...account.networks.values()].findLast((candidate) => candidate.name === name);
    if (network === undefined) throw new Refusal(404, `network: ${name} not found`);
    return network.id;
  };
  const policyInput = (policy: PolicySpec): Parameters<Account['savePolicy']>[1] => ({
    name: policy.name,
    description: policy.marker,
    enabled: true,
    rules: [
      {
        name: policy.name,
        enabled: true,
        action: 'accept',
        bidirectional: policy.isBidirectional,
        protocol: policy.protocol,
        ports: policy.ports,
        sources: policy.sources.map(groupId),
        destinations: policy.destinations.map(groupId),
      },
    ],
  });
  switch (call.kind) {
    case 'createGroup':
      account.createGroup({ name: call.name });
      break;
    case 'updateGroup':
      account.updateGroup(call.id, { name: call.name, peers: [...call.peerIds], resources: [...call.resources] });
      break;
    case 'deleteGroup':
      account.deleteGroup(call.id);
      break;
    case 'createPolicy':
      account.savePolicy(null, policyInput(call.policy));
      break;
    case 'updatePolicy':
      account.savePolicy(call.id, policyInput(call.policy));
      break;
    case 'deletePolicy':
      account.deletePolicy(call.id);
      break;
    case 'createSetupKey':
      account.createSetupKey({ name: call.name, type: 'one-off', expires_in: call.ttlSeconds, auto_groups: call.groups.map(groupId), usage_limit: 1 });
      break;
    case 'deleteSetupKey':
      account.deleteSetupKey(call.id);
      break;
    case 'renamePeer':
      account.updatePeer(call.id, { name: call.name, ssh_enabled: false, login_expiration_enabled: false, inactivity_expiration_enabled: false });
      break;
    case 'deletePeer':
      account.deletePeer(call.id);
      break;
    case 'createNetwork':
      account.createNetwork({ name: call.name, description: call.marker });
      break;
    case 'updateNetwork':
      account.updateNetwork(call.id, { name: call.name, description: call.marker });
      break;
    case 'deleteNetwork':
      account.deleteNetwork(call.id);
      break;
    case 'createResource':
    case 'updateResource': {
      const { name, marker, address, groups } = call.resource;
      const input = { name, description: marker, address, enabled: true, groups: groups.map(groupId) };
      if (call.kind === 'createResource') account.saveResource(call.networkId ?? networkId(call.network), null, input);
      else account.saveResource(call.networkId, call.id, input);
      break;
    }
    case 'deleteResource':
      account.deleteResource(call.networkId, call.id);
      break;
    case 'createRouter':
    case 'updateRouter': {
      const input = { peer_groups: [groupId(call.router.peerGroup)], metric: call.router.metric, masquerade: true, enabled: true };
      if (call.kind === 'createRouter') account.saveRouter(call.networkId ?? networkId(call.network), null, input);
      else account.saveRouter(call.networkId, call.id, input);
      break;
    }
    case 'deleteRouter':
      account.deleteRouter(call.networkId, call.id);
      break;
  }
}
