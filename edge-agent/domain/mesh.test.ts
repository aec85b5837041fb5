import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { meshStates, type MeshOrder } from '#api/model/mesh.ts';
import { daemonMemoryQuietBytes, decideMesh, describeMesh, isMeshIdle, roundDaemonMemory, stuckAfterMs, type MeshLook, type MeshMembership, type MeshStatus, type MeshView } from './mesh.ts';
import { encodeMeshRecord, parseMeshRecord } from './mesh-record.ts';

const hostId = '33333333-0000-4000-8000-000000000003';
const url = 'https://mesh.example';
const joinOrder: MeshOrder = { join: true, managementUrl: url, hostName: 'edge-1', revision: 3 };
const leaveOrder: MeshOrder = { join: false, managementUrl: '', hostName: '', revision: 4 };
const membership: MeshMembership = { managementUrl: url, hostId };

function seen(change: Partial<MeshStatus> = {}): MeshLook {
  return {
    kind: 'seen',
    daemonMemoryBytes: 0,
    status: {
      rawState: 'Connected',
      managementError: '',
      isManagementConnected: true,
      isSignalConnected: true,
      peerId: '',
      publicKey: 'key',
      address: '100.64.0.7',
      fqdn: 'edge-1.mesh',
      peersRelayed: 1,
      peersDirect: 2,
      ...change,
    },
  };
}

const loggedOut = (rawState = 'NeedsLogin'): MeshLook => seen({ rawState, isManagementConnected: false, isSignalConnected: false, address: '' });
const view = (change: Partial<MeshView>): MeshView => ({ order: joinOrder, membership, hostId, look: seen(), lastProblem: '', connectingForMs: 0, ...change });
const decided = (change: Partial<MeshView>): string => {
  const { action, state } = decideMesh(view(change));
  return `${action} ${state}`;
};

describe('with an order to join', () => {
  test.each([
    ['connected', {}, 'none Connected'],
    ['no netbird', { look: { kind: 'missing', problem: 'x', daemonMemoryBytes: 0 } }, 'none Missing'],
    ['its service away', { look: { kind: 'stopped', problem: 'x', daemonMemoryBytes: 0 } }, 'none Stopped'],
    ['an answer that is none', { look: { kind: 'failed', problem: 'x', daemonMemoryBytes: 0 } }, 'none Failed'],
    ['logged out', { look: loggedOut() }, 'join NeedsLogin'],
    ['login failed', { look: loggedOut('LoginFailed') }, 'join NeedsLogin'],
    ['session expired', { look: loggedOut('SessionExpired') }, 'join NeedsLogin'],
    ['logged out after a failed attempt', { look: loggedOut(), lastProblem: 'used key' }, 'join Failed'],
    ['logged out and never joined', { look: loggedOut(), membership: null }, 'join NeedsLogin'],
    ['switched off by hand', { look: seen({ rawState: 'Idle' }) }, 'connect Connecting'],
    ['switched off, and connecting alone failed', { look: seen({ rawState: 'Idle' }), lastProblem: 'x' }, 'join Failed'],
    ['never joined and off', { look: seen({ rawState: 'Idle' }), membership: null }, 'join NeedsLogin'],
    ['connecting', { look: seen({ rawState: 'Connecting' }) }, 'none Connecting'],
    ['connecting for too long', { look: seen({ rawState: 'Connecting' }), connectingForMs: stuckAfterMs }, 'connect Connecting'],
    ['connected without management', { look: seen({ isManagementConnected: false }) }, 'none Connecting'],
    ['connected without signal', { look: seen({ isSignalConnected: false }) }, 'none Connecting'],
    ['a version that tells no state', { look: seen({ rawState: '' }) }, 'none Connected'],
    ['a state that nobody knows', { look: seen({ rawState: 'Hibernating' }) }, 'none Unknown'],
    ['a member through somebody else', { membership: null }, 'none Failed'],
    ['a member of another server through the agent', { membership: { managementUrl: 'https://old.example', hostId } }, 'leave Connecting'],
    ['a member as an earlier host', { membership: { managementUrl: url, hostId: 'other' } }, 'leave Connecting'],
    ['logged out of another server', { look: loggedOut(), membership: { managementUrl: 'https://old.example', hostId } }, 'forget NeedsLogin'],
  ] as const)('%s', (_name, change, expected) => {
    expect(decided(change)).toBe(expected);
  });
});

describe('with an order to leave', () => {
  test.each([
    ['leaves what the agent joined', {}, 'leave Connecting'],
    ['is done when the peer is gone already', { look: loggedOut('SessionExpired') }, 'forget NotConfigured'],
    ['never touches what somebody else joined', { membership: null }, 'none NotConfigured'],
    ['waits for a service that is away', { look: { kind: 'stopped', problem: 'x', daemonMemoryBytes: 0 } }, 'none Stopped'],
  ] as const)('%s', (_name, change, expected) => {
    expect(decided({ order: leaveOrder, ...change })).toBe(expected);
  });
});

test('without any order nothing is done, also not to what was joined', () => {
  expect(decided({ order: null })).toBe('none NotConfigured');
  expect(isMeshIdle(null, membership)).toBe(true);
});

const anyText = fc.oneof(fc.string(), fc.constantFrom('', 'Idle', 'Connecting', 'Connected', 'NeedsLogin', 'LoginFailed', 'SessionExpired', 'Quarantined', '__proto__'));
const anyLook: fc.Arbitrary<MeshLook> = fc.oneof(
  fc.record({ kind: fc.constantFrom('missing' as const, 'stopped' as const, 'failed' as const), problem: fc.string(), daemonMemoryBytes: fc.nat() }),
  fc.record({
    kind: fc.constant('seen' as const),
    daemonMemoryBytes: fc.nat(),
    status: fc.record({
      rawState: anyText,
      managementError: fc.string(),
      isManagementConnected: fc.boolean(),
      isSignalConnected: fc.boolean(),
      peerId: fc.string(),
      publicKey: fc.string(),
      address: fc.string(),
      fqdn: fc.string(),
      peersRelayed: fc.nat(),
      peersDirect: fc.nat(),
    }),
  }),
);
const anyView: fc.Arbitrary<MeshView> = fc.record({
  order: fc.constantFrom(null, joinOrder, leaveOrder),
  membership: fc.constantFrom(null, membership, { managementUrl: 'https://old.example', hostId }, { managementUrl: url, hostId: 'other' }),
  hostId: fc.constant(hostId),
  look: anyLook,
  lastProblem: fc.constantFrom('', 'x'),
  connectingForMs: fc.constantFrom(0, stuckAfterMs),
});

test('whatever is seen, there is a decision: the own word of the state is kept, and only a membership of the agent is ever left', () => {
  fc.assert(
    fc.property(anyView, (any) => {
      const decision = decideMesh(any);
      const report = describeMesh(decision, any);
      expect(meshStates).toContain(report.state);
      expect(report.orderRevision).toBe(any.order?.revision ?? 0);
      if (any.membership === null || any.order === null) expect(['leave', 'forget', 'connect']).not.toContain(decision.action);
      if (any.order?.join !== true) expect(['join', 'connect']).not.toContain(decision.action);
      if (any.look.kind !== 'seen') expect(decision.action).toBe('none');
      if (any.look.kind === 'seen' && report.state !== 'NotConfigured') expect(report.rawState).toBe(any.look.status.rawState);
      if (report.state === 'Connected') expect([report.isManagementConnected, report.isSignalConnected]).toEqual([true, true]);
    }),
    { numRuns: 2_000 },
  );
});

test('memory of a service that grows without end changes the report a few times only', () => {
  const reports = new Set<number>();
  for (let bytes = 0; bytes < 64 * 2 ** 30; bytes += 16 * 2 ** 20) reports.add(roundDaemonMemory(bytes));
  expect(reports.size).toBe(10);
  expect(roundDaemonMemory(daemonMemoryQuietBytes - 1)).toBe(0);
  const look = { ...seen(), daemonMemoryBytes: 700 * 2 ** 20 };
  expect(describeMesh(decideMesh(view({ look })), view({ look })).problem).toContain('1024 MiB');
});

test('what the journal keeps comes back, and what can not be read is nothing', () => {
  for (const record of [{ order: joinOrder, membership }, { order: leaveOrder, membership: null }, { order: null, membership: null }]) {
    expect(parseMeshRecord(encodeMeshRecord(record))).toEqual(record);
  }
  expect(parseMeshRecord(encodeMeshRecord({ order: Object.assign({}, joinOrder, { setupKey: 'CANARY' }), membership }))).toEqual({ order: joinOrder, membership });
  expect(encodeMeshRecord({ order: Object.assign({}, joinOrder, { setupKey: 'CANARY' }), membership })).not.toContain('CANARY');
  fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => void parseMeshRecord(text)));
});
