/** The pure parts of the mesh reconciler, and the gate that keeps requests apart. */
import { describe, expect, it } from 'vitest';
import { hostId, siteId, tenantId } from '#api/model/ids.ts';
import { meshStates, type MeshReport } from '#api/model/mesh.ts';
import { isMeshHostName } from '#api/model/mesh.ts';
import { hostConditions } from '#crds/conditions.ts';
import type { Host } from '#crds/gen/host.ts';
import type { ListedPolicy, MeshListing } from '#controller/domain/mesh/model.ts';
import type { MeshHostRecord } from '#controller/ports/mesh-store.ts';
import { createMeshBoard } from './board.ts';
import { deriveLeaving, peerName } from './desired.ts';
import { findingOf } from './finding.ts';
import { createMeshGate } from './gate.ts';
import { deriveHostMesh } from './status.ts';

describe('the gate', () => {
  it('is shut for longer after each failure, within its bound, and never for less than half of it', () => {
    let nowMs = 0;
    for (const random of [0, 0.5, 0.999]) {
      const gate = createMeshGate({ monotonicMs: () => nowMs, random: () => random }, 30_000);
      const waits = Array.from({ length: 8 }, () => gate.shut('site', 'a', 0));
      waits.forEach((waitMs, index) => {
        const ceilingMs = Math.min(30_000, 1_000 * 2 ** index);
        expect(waitMs).toBeGreaterThanOrEqual(ceilingMs / 2);
        expect(waitMs).toBeLessThanOrEqual(ceilingMs);
      });
      nowMs += 1;
      expect(gate.delayMs('site', 'a')).toBe((waits.at(-1) ?? 0) - 1);
    }
  });

  it('waits as long as the account asks, and opens at once for another spec or token', () => {
    const gate = createMeshGate({ monotonicMs: () => 0, random: () => 0 }, 2_000);
    expect(gate.shut('site', 'a', 60_000)).toBe(60_000);
    expect(gate.delayMs('site', 'a')).toBe(60_000);
    expect(gate.delayMs('site', 'b')).toBe(0);
    expect(gate.delayMs('other', 'a')).toBe(0);
    gate.open('site');
    expect(gate.delayMs('site', 'a')).toBe(0);
  });
});

describe('the name of a peer', () => {
  it.each([
    ['edge-1', 'shop-1', 'edge-1-shop-1'],
    ['Edge.One', 'shop', 'edge-one-shop'],
    ['a'.repeat(63), 'shop', 'a'.repeat(63)],
    ['-x-', 'shop', 'x--shop'],
    [`${'b'.repeat(62)}-`, 'shop', 'b'.repeat(62)],
  ])('of %s at %s is a DNS label', (host, site, expected) => {
    expect(peerName(host, site)).toBe(expected);
    expect(isMeshHostName(expected)).toBe(true);
  });
});

const everyone = { id: 'all', name: 'All', peerIds: [], resources: [] };
const policy = (change: Partial<ListedPolicy['rules'][number]>, isEnabled = true): ListedPolicy => ({
  id: 'p', name: 'Default', description: '', isEnabled, postureCheckIds: [],
  rules: [{ id: 'r', isEnabled: true, action: 'accept', isBidirectional: true, protocol: 'all', ports: [], hasOther: false, sourceIds: ['all'], destinationIds: ['all'], ...change }],
});

function isolationOf(policies: readonly ListedPolicy[]): string | undefined {
  const listing: MeshListing = { groups: [everyone], policies, setupKeys: [], peers: [], networks: [] };
  const desired = deriveLeaving({ installationId: 'i', siteUid: siteId('00000000-0000-4000-8000-000000000001'), namespace: 'n', siteName: 's' });
  return findingOf({ desired, listing, missingGroups: [], isPoolFull: false, isSettled: true }).isolated?.reason;
}

describe('an account', () => {
  it('is open while an enabled rule lets everybody reach everybody, and only then', () => {
    expect(isolationOf([policy({})])).toBe('DefaultPolicyOpen');
    for (const closed of [policy({}, false), policy({ isEnabled: false }), policy({ action: 'drop' }), policy({ sourceIds: ['admins'] }), policy({ destinationIds: ['admins'] })]) {
      expect(isolationOf([closed])).toBe('NoOpenPolicy');
    }
  });
});

const report: MeshReport = {
  state: 'Connected', rawState: 'Connected', peerId: '', publicKey: '', address: '100.64.0.1', fqdn: '', isManagementConnected: true, isSignalConnected: true,
  peersRelayed: 0, peersDirect: 0, problem: '', wantsKey: false, orderRevision: 1, daemonMemoryBytes: 0,
};
const record = (change: Partial<MeshReport> | null, join = true): MeshHostRecord => ({
  tenantId: tenantId('00000000-0000-4000-8000-000000000001'), hostId: hostId('00000000-0000-4000-8000-000000000002'), siteId: siteId('00000000-0000-4000-8000-000000000003'),
  name: 'edge-1', mayJoin: true, order: { join, managementUrl: 'https://m', hostName: 'e', revision: 1 }, subnet: '10.96.0.0/24', groupId: 'g', peerId: 'p', keyId: null,
  isKeyBeingMade: false, report: change === null ? null : { ...report, ...change },
});
const host = {} as Host; // Only its status is read, and it has none.

describe('the condition of a host', () => {
  it('has a reason of the closed list for every state, and shows address and subnet', () => {
    for (const state of meshStates) {
      const [condition] = deriveHostMesh(host, record({ state }), true).conditions;
      expect(hostConditions.MeshConnected.reasons).toContain(condition?.reason);
      expect(condition?.status === 'True').toBe(state === 'Connected');
    }
    expect(deriveHostMesh(host, record({}), true).fields).toEqual({ meshAddress: '100.64.0.1', meshSubnet: '10.96.0.0/24' });
  });

  it('is unknown while the host is silent, and absent without an order to join', () => {
    expect(deriveHostMesh(host, record({}), false).conditions[0]).toMatchObject({ status: 'Unknown', reason: 'HostSilent' });
    expect(deriveHostMesh(host, record(null), true).conditions[0]).toMatchObject({ status: 'False', reason: 'NotReported' });
    expect(deriveHostMesh(host, record({ state: 'NeedsLogin', wantsKey: true }), true).conditions[0]?.reason).toBe('WaitingForKey');
    expect(deriveHostMesh(host, record({}, false), true)).toEqual({ fields: {}, conditions: [] });
    expect(deriveHostMesh(host, null, true)).toEqual({ fields: {}, conditions: [] });
  });
});

describe('the board', () => {
  it('tells changes only, and keeps what was known of the isolation', () => {
    const changes: string[] = [];
    const board = createMeshBoard((uid) => changes.push(uid));
    const ready = { status: 'True', reason: 'MeshConverged', message: 'm' } as const;
    const isolated = { status: 'True', reason: 'NoOpenPolicy', message: 'm' } as const;
    board.put('a', { ready, isolated });
    board.put('a', { ready, isolated });
    board.put('a', { ready: { status: 'False', reason: 'MeshUnavailable', message: 'm' }, isolated: null });
    expect(board.of('a')?.isolated).toEqual(isolated);
    board.remove('a');
    board.remove('a');
    expect(changes).toEqual(['a', 'a', 'a']);
  });
});
