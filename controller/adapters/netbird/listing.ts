/**
 * Answers of the management API to the listed objects of the domain. Owns where the real server differs from its
 * description: arrays that come as null, addresses with a prefix length. Answers are taken as unknown values: what is
 * not as expected is refused as a whole, because a listing that was read in part would look like drift.
 *
 * Source: measured on NetBird v0.77.1: `peers`, `resources`, `sources`, `destinations`, `source_posture_checks` and
 * `peer_groups` come as null when empty.
 */
import type { ListedGroup, ListedNetwork, ListedPeer, ListedPolicy, ListedResource, ListedRouter, ListedRule, ListedSetupKey } from '#controller/domain/mesh/model.ts';
import { badAnswer } from './http.ts';

type Fields = Readonly<Record<string, unknown>>;

function fieldsOf(value: unknown): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw badAnswer('an object of the mesh account');
  return value as Fields; // An object, as was asked above; each field is asked again.
}

/** The elements of an array; null and absent are none. */
function elements(value: unknown): readonly unknown[] {
  if (value === null || value === undefined) return [];
  if (!Array.isArray(value)) throw badAnswer('a list of the mesh account');
  return value;
}

function text(value: unknown): string {
  if (typeof value !== 'string') throw badAnswer('an object of the mesh account');
  return value;
}

const optionalText = (value: unknown): string => text(value ?? '');

function flag(value: unknown): boolean {
  if (typeof value !== 'boolean') throw badAnswer('an object of the mesh account');
  return value;
}

/** An id, which is never empty. */
export function idOf(value: unknown): string {
  const id = text(value);
  if (id === '') throw badAnswer('an object of the mesh account');
  return id;
}

const ids = (value: unknown): string[] => elements(value).map((element) => idOf(fieldsOf(element)['id']));

const texts = (value: unknown): string[] => elements(value).map(text);

/** Every object of a list; null is an empty one. */
export function listOf<Listed>(answer: unknown, toListed: (fields: Fields) => Listed): Listed[] {
  return elements(answer).map((element) => toListed(fieldsOf(element)));
}

export function listedGroup(group: Fields): ListedGroup {
  return {
    id: idOf(group['id']),
    name: text(group['name']),
    peerIds: ids(group['peers']),
    resources: listOf(group['resources'], (resource) => ({ id: idOf(resource['id']), type: text(resource['type']) })),
  };
}

export function listedPolicy(policy: Fields): ListedPolicy {
  return {
    id: idOf(policy['id']),
    name: text(policy['name']),
    description: optionalText(policy['description']),
    isEnabled: flag(policy['enabled']),
    postureCheckIds: texts(policy['source_posture_checks']),
    rules: listOf(policy['rules'], listedRule),
  };
}

function listedRule(rule: Fields): ListedRule {
  return {
    id: optionalText(rule['id']),
    isEnabled: flag(rule['enabled']),
    action: text(rule['action']),
    isBidirectional: flag(rule['bidirectional']),
    protocol: text(rule['protocol']),
    ports: texts(rule['ports']),
    hasOther:
      elements(rule['port_ranges']).length > 0 ||
      (rule['sourceResource'] ?? null) !== null ||
      (rule['destinationResource'] ?? null) !== null ||
      Object.keys(fieldsOf(rule['authorized_groups'] ?? {})).length > 0,
    sourceIds: ids(rule['sources']),
    destinationIds: ids(rule['destinations']),
  };
}

/** The masked value is not kept. */
export function listedSetupKey(key: Fields): ListedSetupKey {
  return {
    id: idOf(key['id']),
    name: text(key['name']),
    isValid: flag(key['valid']),
    isEphemeral: flag(key['ephemeral']),
    autoGroupIds: texts(key['auto_groups']),
  };
}

export function listedPeer(peer: Fields): ListedPeer {
  const createdAtMs = Date.parse(text(peer['created_at']));
  return {
    id: idOf(peer['id']),
    name: text(peer['name']),
    address: text(peer['ip']).replace(/\/\d+$/, ''),
    isConnected: flag(peer['connected']),
    createdAtMs: Number.isNaN(createdAtMs) ? 0 : createdAtMs,
    groupIds: ids(peer['groups']),
    settings: {
      isSshEnabled: flag(peer['ssh_enabled']),
      isLoginExpirationEnabled: flag(peer['login_expiration_enabled']),
      isInactivityExpirationEnabled: flag(peer['inactivity_expiration_enabled']),
    },
  };
}

export function listedNetwork(network: Fields): ListedNetwork {
  return { id: idOf(network['id']), name: text(network['name']), description: optionalText(network['description']), resources: [], routers: [] };
}

export function listedResource(resource: Fields): ListedResource {
  return {
    id: idOf(resource['id']),
    name: text(resource['name']),
    description: optionalText(resource['description']),
    address: text(resource['address']),
    isEnabled: flag(resource['enabled']),
    groupIds: ids(resource['groups']),
  };
}

export function listedRouter(router: Fields): ListedRouter {
  const metric = router['metric'];
  if (typeof metric !== 'number') throw badAnswer('a router of the mesh account');
  return {
    id: idOf(router['id']),
    peerId: optionalText(router['peer']),
    peerGroupIds: texts(router['peer_groups']),
    metric,
    isMasquerading: flag(router['masquerade']),
    isEnabled: flag(router['enabled']),
  };
}
