import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseNetbirdStatus } from './parse-status.ts';

/** As NetBird v0.77.1 prints it, shortened. */
const printed = {
  peers: {
    total: 3,
    connected: 2,
    details: [
      { fqdn: 'a.mesh', netbirdIp: '100.64.0.2', publicKey: 'a', status: 'Connected', connectionType: 'P2P', latency: 1_000_000 },
      { fqdn: 'b.mesh', netbirdIp: '100.64.0.3', publicKey: 'b', status: 'Connected', connectionType: 'Relayed' },
      { fqdn: 'c.mesh', netbirdIp: '100.64.0.4', publicKey: 'c', status: 'Idle', connectionType: '-' },
    ],
  },
  cliVersion: '0.77.1',
  daemonVersion: '0.77.1',
  daemonStatus: 'Connected',
  management: { url: 'http://10.77.0.1:18080', connected: true, error: '' },
  signal: { url: 'http://10.77.0.1:18080', connected: true, error: '' },
  relays: { total: 1, available: 1, details: [] },
  netbirdIp: '100.64.0.1/16',
  publicKey: 'own',
  usesKernelInterface: false,
  fqdn: 'edge-1.mesh',
  networks: null,
  events: [],
};

test('reads state, connections, address and kinds of connection', () => {
  expect(parseNetbirdStatus(JSON.stringify(printed))).toEqual({
    rawState: 'Connected',
    managementError: '',
    isManagementConnected: true,
    isSignalConnected: true,
    peerId: '',
    publicKey: 'own',
    address: '100.64.0.1',
    fqdn: 'edge-1.mesh',
    peersRelayed: 1,
    peersDirect: 1,
  });
});

test('a state that nobody knows and fields of a later version are no trouble', () => {
  const later = { ...printed, daemonStatus: 'Hibernating', shiny: { nested: [1] }, peers: { details: { not: 'a list' } }, management: 'words', netbirdIp: 'N/A', networks: 7 };
  expect(parseNetbirdStatus(JSON.stringify(later))).toMatchObject({ rawState: 'Hibernating', isManagementConnected: false, address: '', peersDirect: 0, fqdn: 'edge-1.mesh' });
});

test('the text that older versions print while logged out is read', () => {
  expect(parseNetbirdStatus('Daemon status: NeedsLogin\n\nRun UP command to log in with SSO (interactive login):\n\n netbird up \n')).toMatchObject({ rawState: 'NeedsLogin', isManagementConnected: false });
});

test('what is no status is none', () => {
  for (const text of ['', 'hello', '{', '[1]', 'null', '{"daemonStatus":']) expect(parseNetbirdStatus(text), text).toBeNull();
});

test('no output makes it fail', () => {
  const replaced = fc.tuple(fc.constantFrom(...Object.keys(printed)), fc.jsonValue()).map(([name, value]) => JSON.stringify({ ...printed, [name]: value }));
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json(), replaced), (text) => {
      const status = parseNetbirdStatus(text);
      if (status === null) return;
      expect(status.address).toMatch(/^[0-9a-fA-F.:]*$/);
      expect(status.peersRelayed + status.peersDirect).toBeGreaterThanOrEqual(0);
    }),
    { numRuns: 2_000 },
  );
});
