import { inspect } from 'node:util';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { HeartbeatRequest, HeartbeatResponse, MeshReport as MeshReportMessage } from '../gen/nkudo/edge/v1/edge.pb.ts';
import { isManagementUrl, isMeshHostName, meshReportLimits, meshStates, type MeshOrder, type MeshReport } from '../model/mesh.ts';
import { decodeMeshOrder, decodeMeshReport, encodeMeshOrder, encodeMeshReport } from './mesh-codec.ts';

const count = fc.integer({ min: 0, max: 1_000_000 });
const revision = fc.integer({ min: 1, max: 2 ** 50 });
const label = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$/);
const url = fc.oneof(
  fc.tuple(label, fc.integer({ min: 1, max: 65_535 })).map(([host, port]) => `https://${host}.example:${port}`),
  fc.constantFrom('https://api.netbird.io', 'http://127.0.0.1:33073', 'http://[::1]:80', 'http://localhost'),
);
const order: fc.Arbitrary<MeshOrder> = fc.oneof(
  fc.record({ join: fc.constant(true), managementUrl: url, hostName: label, revision }),
  fc.record({ join: fc.constant(false), managementUrl: fc.constant(''), hostName: fc.constant(''), revision }),
);
const report: fc.Arbitrary<MeshReport> = fc.record({
  state: fc.constantFrom(...meshStates),
  rawState: fc.string({ maxLength: meshReportLimits.rawState }),
  peerId: fc.string({ maxLength: 20 }),
  publicKey: fc.string({ maxLength: 44 }),
  address: fc.oneof(fc.constant(''), fc.ipV4(), fc.ipV6()),
  fqdn: fc.string({ maxLength: 60 }),
  isManagementConnected: fc.boolean(),
  isSignalConnected: fc.boolean(),
  peersRelayed: count,
  peersDirect: count,
  problem: fc.string({ maxLength: 200 }),
  wantsKey: fc.boolean(),
  orderRevision: fc.integer({ min: 0, max: 2 ** 50 }),
  daemonMemoryBytes: fc.integer({ min: 0, max: 2 ** 50 }),
});

test('reports survive the wire', () => {
  fc.assert(
    fc.property(report, (seen) => {
      const bytes = HeartbeatRequest.encode({ message: { $case: 'mesh', value: encodeMeshReport(seen) } }).finish();
      const { message } = HeartbeatRequest.decode(bytes);
      expect(message?.$case === 'mesh' && decodeMeshReport(message.value)).toEqual(seen);
    }),
  );
});

test('orders survive the wire, with the key beside them', () => {
  fc.assert(
    fc.property(order, fc.stringMatching(/^[A-Z0-9-]{0,36}$/), (wanted, key) => {
      const bytes = HeartbeatResponse.encode({ message: { $case: 'mesh', value: encodeMeshOrder(wanted, key) } }).finish();
      const { message } = HeartbeatResponse.decode(bytes);
      if (message?.$case !== 'mesh') throw new Error('the kind of the message was lost');
      const received = decodeMeshOrder(message.value);
      expect(received.order).toEqual(wanted);
      expect(received.revealKey?.() ?? '').toBe(wanted.join ? key : '');
    }),
  );
});

test('any report of a later agent is read, and what it says in new words is Unknown', () => {
  const message: MeshReportMessage = { ...encodeMeshReport({ ...blank, rawState: 'Hibernating' }), state: 99 as 1 }; // A number without a name.
  expect(decodeMeshReport(MeshReportMessage.decode(MeshReportMessage.encode(message).finish()))).toMatchObject({ state: 'Unknown', rawState: 'Hibernating' });
});

test('a report is cut to its limits when it is sent and refused above them when it comes', () => {
  const long = 'x'.repeat(5_000);
  const cut = decodeMeshReport(encodeMeshReport({ ...blank, rawState: long, fqdn: long, problem: long }));
  expect([cut.rawState.length, cut.fqdn.length, cut.problem.length]).toEqual([meshReportLimits.rawState, meshReportLimits.fqdn, meshReportLimits.problem]);
  expect(() => decodeMeshReport({ ...encodeMeshReport(blank), problem: long })).toThrow('mesh.problem');
  expect(() => decodeMeshReport({ ...encodeMeshReport(blank), address: '100.64.0.1/16' })).toThrow('mesh.address');
});

test('an order can not smuggle arguments, plain text transport or other places into the command', () => {
  for (const bad of ['http://mesh.example', 'https://mesh.example/path', 'https://a b', '--help', 'https://', 'file:///etc/passwd', 'https://user@mesh.example', 'https://mesh.example\n--x']) {
    expect(isManagementUrl(bad), bad).toBe(false);
    expect(() => decodeMeshOrder({ join: true, managementUrl: bad, setupKey: '', hostName: 'edge-1', revision: 1 })).toThrow('mesh.management_url');
  }
  for (const bad of ['', '-x', 'x-', 'a.b', 'A', 'x'.repeat(64), 'a b']) expect(isMeshHostName(bad), bad).toBe(false);
});

test('neither an order nor an error about one shows the key', () => {
  const key = 'CANARY-0000';
  const received = decodeMeshOrder({ join: true, managementUrl: 'https://api.netbird.io', setupKey: key, hostName: 'edge-1', revision: 1 });
  expect(`${JSON.stringify(received)}${inspect(received, { depth: 9 })}`).not.toContain(key);
  let message = '';
  try {
    decodeMeshOrder({ join: true, managementUrl: 'https://api.netbird.io', setupKey: `${key}\n`, hostName: 'edge-1', revision: 1 });
  } catch (error) {
    message = inspect(error, { depth: 9 });
  }
  expect(message).toContain('mesh.setup_key');
  expect(message).not.toContain(key);
});

const blank: MeshReport = {
  state: 'NeedsLogin',
  rawState: 'NeedsLogin',
  peerId: '',
  publicKey: '',
  address: '',
  fqdn: '',
  isManagementConnected: false,
  isSignalConnected: false,
  peersRelayed: 0,
  peersDirect: 0,
  problem: '',
  wantsKey: true,
  orderRevision: 1,
  daemonMemoryBytes: 0,
};
