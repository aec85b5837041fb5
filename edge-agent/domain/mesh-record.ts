/**
 * What the journal keeps of the mesh, as one small fact: the order and the membership. A setup key has no place in it.
 * A text that can't be read counts as nothing: the control plane sends the order again, and NetBird is looked at.
 */
import { isManagementUrl, isMeshHostName, type MeshOrder } from '#api/model/mesh.ts';
import type { MeshMembership } from './mesh.ts';

/** Name of the fact in the journal. */
export const meshFact = 'mesh';

export interface MeshRecord {
  readonly order: MeshOrder | null;
  readonly membership: MeshMembership | null;
}

export const emptyMeshRecord: MeshRecord = { order: null, membership: null };

export function encodeMeshRecord({ order, membership }: MeshRecord): string {
  return JSON.stringify({
    order: order === null ? null : { join: order.join, managementUrl: order.managementUrl, hostName: order.hostName, revision: order.revision },
    membership: membership === null ? null : { managementUrl: membership.managementUrl, hostId: membership.hostId },
  });
}

export function parseMeshRecord(text: string | undefined): MeshRecord {
  if (text === undefined) return emptyMeshRecord;
  let fields: unknown;
  try {
    fields = JSON.parse(text);
  } catch {
    return emptyMeshRecord; // See above.
  }
  return { order: parseOrder(fieldOf(fields, 'order')), membership: parseMembership(fieldOf(fields, 'membership')) };
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, name) ? Reflect.get(value, name) : undefined;
}

function parseOrder(value: unknown): MeshOrder | null {
  const [join, managementUrl, hostName, revision] = ['join', 'managementUrl', 'hostName', 'revision'].map((name) => fieldOf(value, name));
  if (typeof join !== 'boolean' || typeof revision !== 'number' || !Number.isSafeInteger(revision)) return null;
  if (!join) return { join, managementUrl: '', hostName: '', revision };
  if (typeof managementUrl !== 'string' || typeof hostName !== 'string' || !isManagementUrl(managementUrl) || !isMeshHostName(hostName)) return null;
  return { join, managementUrl, hostName, revision };
}

function parseMembership(value: unknown): MeshMembership | null {
  const [managementUrl, hostId] = ['managementUrl', 'hostId'].map((name) => fieldOf(value, name));
  return typeof managementUrl === 'string' && typeof hostId === 'string' ? { managementUrl, hostId } : null;
}

export function sameOrder(a: MeshOrder | null, b: MeshOrder): boolean {
  return a !== null && a.join === b.join && a.managementUrl === b.managementUrl && a.hostName === b.hostName && a.revision === b.revision;
}
