import { describe, expect, test } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import type { NetworkSpec } from '#api/model/microvm.ts';
import { deriveGuestPort, networkOf, toAddress, toNumber } from './guest-port.ts';
import { parseLinks, parseListeners } from './links.ts';

const id = microVMId('00000000-0000-4000-8000-000000000001');
const nat: NetworkSpec = { name: 'lan', kind: 'nat', mac: '52:54:00:00:00:01', address: '10.0.0.5/24', gateway: '10.0.0.1', ports: [] };
const bridge: NetworkSpec = { name: 'lan', kind: 'bridge', mac: '52:54:00:00:00:01', bridgeName: 'br0', ports: [] };

describe('the port of a guest', () => {
  test('is isolated behind nat, and not on the mesh or a bridge of the host', () => {
    expect(deriveGuestPort(id, nat)).toMatchObject({ bridge: 'nkbr-nat', isIsolated: true, address: '10.0.0.5', subnet: { gateway: '10.0.0.1', prefixLength: 24 } });
    expect(deriveGuestPort(id, { ...nat, kind: 'mesh' })).toMatchObject({ bridge: 'nkbr-mesh', isIsolated: false });
    const onBridge = deriveGuestPort(id, { ...bridge, vlan: 7 });
    expect(onBridge).toMatchObject({ bridge: 'br0', vlan: 7, isIsolated: false });
    expect([onBridge.address, onBridge.subnet]).toEqual([undefined, undefined]);
  });

  test.each<[string, NetworkSpec, string]>([
    ['macvtap without a parent', { ...nat, kind: 'macvtap' }, 'INVALID_REQUEST'],
    ['macvtap on a bridge of ours', { ...nat, kind: 'macvtap', parent: 'nkbr-nat' }, 'INVALID_REQUEST'],
    ['macvtap with a strange name', { ...nat, kind: 'macvtap', parent: 'eth0; x' }, 'INVALID_REQUEST'],
    ['an IPv6 address', { ...nat, address: 'fd00::5/64' }, 'NETWORK_UNSUPPORTED'],
    ['no address', { name: 'lan', kind: 'nat', mac: nat.mac, ports: [] }, 'INVALID_REQUEST'],
    ['a gateway elsewhere', { ...nat, gateway: '10.0.1.1' }, 'INVALID_REQUEST'],
    ['the address of the gateway', { ...nat, address: '10.0.0.1/24' }, 'INVALID_REQUEST'],
    ['the broadcast address', { ...nat, address: '10.0.0.255/24' }, 'INVALID_REQUEST'],
    ["the network's address", { ...nat, address: '10.0.0.0/24' }, 'INVALID_REQUEST'],
    ['a subnet without room', { ...nat, address: '10.0.0.5/31' }, 'INVALID_REQUEST'],
    ['no prefix length', { ...nat, address: '10.0.0.5' }, 'INVALID_REQUEST'],
    ['a group as hardware address', { ...nat, mac: '53:54:00:00:00:01' }, 'INVALID_REQUEST'],
    ['a port out of range', { ...nat, ports: [{ name: 'web', protocol: 'tcp', hostPort: 70_000, guestPort: 80 }] }, 'INVALID_REQUEST'],
    ['a bridge without a name', { name: 'lan', kind: 'bridge', mac: nat.mac, ports: [] }, 'INVALID_REQUEST'],
    ['a bridge that is ours', { ...bridge, bridgeName: 'nkbr-nat' }, 'INVALID_REQUEST'],
    ['a bridge whose name is more than a name', { ...bridge, bridgeName: 'br0"; x' }, 'INVALID_REQUEST'],
  ])('is refused for %s', (_what, network, code) => {
    expect(() => deriveGuestPort(id, network)).toThrow(expect.objectContaining({ code }));
  });

  test('has addresses as numbers up to the last one', () => {
    expect([toNumber('255.255.255.254'), toAddress(4_294_967_294), networkOf('255.255.255.254', 8), networkOf('10.1.2.3', 0)]).toEqual([4_294_967_294, '255.255.255.254', 4_278_190_080, 0]);
  });
});

describe('what iproute2 shows', () => {
  test('becomes links; what has no name or another shape is passed over', () => {
    const json = JSON.stringify([
      { ifname: 'nkbr-nat', flags: ['BROADCAST', 'UP'], linkinfo: { info_kind: 'bridge', info_data: { vlan_filtering: 1 } }, addr_info: [{ family: 'inet', local: '10.0.0.1', prefixlen: 24 }, { family: 'inet6', local: 'fe80::1', prefixlen: 64 }] },
      { ifname: 'nkta', flags: [], master: 'nkbr-nat', ifalias: 'nkudo:x', linkinfo: { info_kind: 'tun', info_slave_data: { isolated: true } } },
      {},
      7,
    ]);
    expect(parseLinks(json)).toEqual([
      { name: 'nkbr-nat', kind: 'bridge', isUp: true, hasCarrier: false, isIsolated: false, filtersVlans: true, addresses: [{ address: '10.0.0.1', prefixLength: 24 }] },
      { name: 'nkta', kind: 'tun', master: 'nkbr-nat', alias: 'nkudo:x', isUp: false, hasCarrier: false, isIsolated: true, filtersVlans: false, addresses: [] },
    ]);
    expect(parseLinks('')).toEqual([]);
  });

  test('becomes listeners; those on loopback keep their port', () => {
    const text = ['tcp   LISTEN 0 128 0.0.0.0:22 0.0.0.0:*', 'tcp LISTEN 0 1 127.0.0.1:8080 0.0.0.0:*', 'udp UNCONN 0 0 [::]:53 [::]:*', 'tcp LISTEN 0 1 *:9100 *:*', 'tcp LISTEN 0 1 192.0.2.1%eth0:9 0.0.0.0:*', '', 'noise'].join('\n');
    expect(parseListeners(text)).toEqual([
      { protocol: 'tcp', port: 22 },
      { protocol: 'udp', port: 53 },
      { protocol: 'tcp', port: 9100 },
      { protocol: 'tcp', port: 9 },
    ]);
  });
});
