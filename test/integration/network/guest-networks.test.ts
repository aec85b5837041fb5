/**
 * The networks of guests on a real kernel: taps, bridges, nftables, dnsmasq and packets, in namespaces.
 * A guest is a namespace whose card is the other end of the tap, opened as a VMM opens it. That a frame
 * does not arrive is shown by a later one, sent the same way, that does.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createGuestNetworks } from '#edge-agent/adapters/network/guest-networks.ts';
import type { HostNetwork } from '#edge-agent/adapters/network/host-network.ts';
import { tapName } from '#edge-agent/domain/tap-name.ts';
import type { GuestNetworks } from '#edge-agent/ports/network.ts';
import { microVMId, type MicroVMId } from '#api/model/ids.ts';
import { deriveMac } from '#api/model/mac.ts';
import type { NetworkSpec } from '#api/model/microvm.ts';
import { arpFrame, broadcastMac, dhcpFrame, ethernet, hexAddress, hexText, parseDhcpAnswer, udpFrame } from './frames.ts';
import { findObstacle, hostAddress, lanPeerAddress, meshPeerAddress, openLab, worldAddress, type Lab } from './lab.ts';

const obstacle = await findObstacle();
if (obstacle !== null) process.stdout.write(`skipped: networks of guests: ${obstacle}\n`);

const idOf = (number: number): MicroVMId => microVMId(`00000000-0000-4000-8000-${String(number).padStart(12, '0')}`);
const signal = AbortSignal.timeout(600_000);

function nat(id: MicroVMId, host: number, change: Partial<NetworkSpec> = {}): NetworkSpec {
  return { name: 'lan', kind: 'nat', mac: deriveMac(id, 'lan'), address: `10.87.0.${host}/24`, gateway: '10.87.0.1', ports: [], ...change };
}

function mesh(id: MicroVMId, host: number): NetworkSpec {
  return { name: 'mesh', kind: 'mesh', mac: deriveMac(id, 'mesh'), address: `10.88.0.${host}/24`, gateway: '10.88.0.1', ports: [] };
}

function bridge(id: MicroVMId, change: Partial<NetworkSpec> = {}): NetworkSpec {
  return { name: 'lan', kind: 'bridge', mac: deriveMac(id, 'lan'), bridgeName: 'lan0', ports: [], ...change };
}

function wire(id: MicroVMId, change: Partial<NetworkSpec> = {}): NetworkSpec {
  return { name: 'wire', kind: 'macvtap', mac: deriveMac(id, 'wire'), parent: 'uplink', macvtapMode: 'bridge', ports: [], ...change };
}

describe.skipIf(obstacle !== null)('networks of guests', () => {
  let lab: Lab;
  let networks: GuestNetworks;
  let pristine: string;

  const create = (host: HostNetwork = lab.host): GuestNetworks =>
    createGuestNetworks({ host, owner: 'test', runtimeDirectory: lab.runtimeDirectory, vmmUserIdOf: () => 0, meshInterface: 'wt0', nameServers: ['198.51.100.53'], mayEnableForwarding: true });

  beforeAll(async () => {
    lab = await openLab();
    networks = create();
    pristine = await lab.snapshot();
  });
  afterAll(() => lab?.close());

  /** A guest with one network and, unless told otherwise, the address of its specification. */
  async function start(id: MicroVMId, network: NetworkSpec, address = network.address): Promise<Guest> {
    await networks.ensure(id, [network], signal);
    const { namespace, unplug } = await lab.plugGuest(tapName(id, network.name), network.mac);
    if (address !== undefined) await lab.run(namespace, 'ip', 'address', 'add', address, 'dev', 'eth0');
    if (network.gateway !== undefined) await lab.run(namespace, 'ip', 'route', 'add', 'default', 'via', network.gateway);
    return {
      id,
      namespace,
      mac: network.mac,
      async end() {
        await unplug();
        await networks.remove(id, signal);
      },
    };
  }

  interface Guest {
    readonly id: MicroVMId;
    readonly namespace: string;
    readonly mac: string;
    end(): Promise<void>;
  }

  async function macOf(namespace: string, device: string): Promise<string> {
    return (await lab.run(namespace, 'cat', `/sys/class/net/${device}/address`)).trim();
  }

  test('[E6] a guest behind nat reaches the world with the address of the host, and gives all back at its end', async () => {
    const guest = await start(idOf(1), nat(idOf(1), 5));
    const servers = [await lab.start(lab.namespaces.world, 'serve', 'tcp', '80'), await lab.start(lab.namespaces.world, 'serve', 'udp', '80')];
    expect(await lab.ask(guest.namespace, 'tcp', worldAddress, 80)).toBe(hostAddress);
    expect(await lab.ask(guest.namespace, 'udp', worldAddress, 80)).toBe(hostAddress);
    await guest.end();
    for (const server of servers) await server.stop();
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] ports of the host lead to the guest from outside and from the host itself, and no other way does', async () => {
    const id = idOf(2);
    const ports = [
      { name: 'web', protocol: 'tcp', hostPort: 8080, guestPort: 80 },
      { name: 'dns', protocol: 'udp', hostPort: 5353, guestPort: 53 },
    ] as const;
    const guest = await start(id, nat(id, 6, { ports }));
    for (const port of ['80', '81']) await lab.start(guest.namespace, 'serve', 'tcp', port);
    await lab.start(guest.namespace, 'serve', 'udp', '53');
    const { world, host } = lab.namespaces;
    expect(await lab.ask(world, 'tcp', hostAddress, 8080)).toBe(worldAddress);
    expect(await lab.ask(world, 'udp', hostAddress, 5353)).toBe(worldAddress);
    expect(await lab.ask(host, 'tcp', hostAddress, 8080)).toBe(hostAddress);
    expect(await lab.ask(host, 'tcp', '10.87.0.6', 81)).toBe('10.87.0.1');
    // The world knows a route to the guest's subnet; only the port of the host is let in.
    const seen = await lab.start(guest.namespace, 'sniff', 'eth0');
    const worldMac = await macOf(world, 'eth0');
    const uplinkMac = await macOf(host, 'uplink');
    const sender = await lab.start(world, 'inject', 'eth0');
    const from = { fromMac: worldMac, toMac: uplinkMac, from: worldAddress } as const;
    sender.write(`${udpFrame({ ...from, to: '10.87.0.6', toPort: 53, payload: 'past the port' })}\n`);
    sender.write(`${udpFrame({ ...from, to: hostAddress, toPort: 5353, payload: 'through the port' })}\n`);
    await seen.line((line) => line.includes(hexText('through the port')));
    expect(seen.lines.filter((line) => line.includes(hexText('past the port')))).toEqual([]);

    // A port that is taken away closes, without a new start of the guest.
    await networks.ensure(id, [nat(id, 6, { ports: [ports[1]] })], signal);
    expect(await lab.ask(world, 'tcp', hostAddress, 8080)).toBeNull();
    expect(await lab.ask(world, 'udp', hostAddress, 5353)).toBe(worldAddress);
    await guest.end();
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] a port of the host that is taken is refused before anything changes', async () => {
    const [first, second] = [idOf(3), idOf(4)];
    const port = { name: 'web', protocol: 'tcp', hostPort: 8080, guestPort: 80 } as const;
    const listener = await lab.start(lab.namespaces.host, 'serve', 'tcp', '8080');
    await expect(networks.ensure(first, [nat(first, 5, { ports: [port] })], signal)).rejects.toMatchObject({ code: 'PORT_IN_USE', message: expect.stringContaining('listens on tcp port 8080') });
    expect(await lab.ask(lab.namespaces.world, 'tcp', hostAddress, 8080)).toBe(worldAddress);
    await listener.stop();
    expect(await lab.snapshot()).toBe(pristine);
    await networks.ensure(first, [nat(first, 5, { ports: [port] })], signal);
    const held = await lab.snapshot();
    await expect(networks.ensure(second, [nat(second, 6, { ports: [port] })], signal)).rejects.toMatchObject({ code: 'PORT_IN_USE', message: expect.stringContaining('another microVM') });
    await expect(networks.ensure(second, [nat(second, 5)], signal)).rejects.toMatchObject({ code: 'ADDRESS_IN_USE' });
    await expect(networks.ensure(second, [nat(second, 6, { address: '198.51.100.9/24', gateway: '198.51.100.8' })], signal)).rejects.toMatchObject({ code: 'ADDRESS_IN_USE', message: expect.stringContaining('uplink') });
    expect(await lab.snapshot()).toBe(held);
    await networks.remove(first, signal);
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] a guest can send with no other hardware address, no other address, no tag and in no other role', async () => {
    const id = idOf(5);
    const guest = await start(id, nat(id, 5));
    const neighbour = await start(idOf(6), nat(idOf(6), 6));
    const gatewayMac = await macOf(lab.namespaces.host, 'nkbr-nat');
    const seen = await lab.start(lab.namespaces.world, 'sniff', 'eth0');
    const onBridge = await lab.start(lab.namespaces.host, 'sniff', 'nkbr-nat');
    const sender = await lab.start(guest.namespace, 'inject', 'eth0');
    const good = { fromMac: guest.mac, toMac: gatewayMac, from: '10.87.0.5', to: worldAddress } as const;
    const forbidden = {
      'another hardware address': udpFrame({ ...good, fromMac: '02:00:00:00:00:99', payload: 'bad' }),
      "the neighbour's hardware address": udpFrame({ ...good, fromMac: neighbour.mac, payload: 'bad' }),
      "the neighbour's address": udpFrame({ ...good, from: '10.87.0.6', payload: 'bad' }),
      'an address of the world': udpFrame({ ...good, from: '203.0.113.9', payload: 'bad' }),
      'a tag': udpFrame({ ...good, vlan: 7, payload: 'bad' }),
      'the role of a DHCP server': udpFrame({ ...good, fromPort: 67, toPort: 68, payload: 'bad' }),
      "ARP for the gateway's address": arpFrame({ fromMac: guest.mac, mac: guest.mac, ip: '10.87.0.1', to: '10.87.0.6' }),
      "ARP for another's hardware address": arpFrame({ fromMac: guest.mac, mac: neighbour.mac, ip: '10.87.0.5', to: '10.87.0.1' }),
      'IPv6': ethernet(guest.mac, '33:33:00:00:00:01', 0x86dd, Buffer.from('6000000000003aff', 'hex')),
      'a protocol of switches': ethernet(guest.mac, broadcastMac, 0x88cc, Buffer.from('bad', 'latin1')),
    };
    for (const frame of Object.values(forbidden)) sender.write(`${frame}\n`);
    sender.write(`${arpFrame({ fromMac: guest.mac, mac: guest.mac, ip: '10.87.0.5', to: '10.87.0.1' })}\n${udpFrame({ ...good, payload: 'good' })}\n`);
    await seen.line((line) => line.includes(hexText('good')));
    expect(seen.lines.filter((line) => line.includes(hexText('bad')))).toEqual([]);
    await onBridge.line((line) => line.includes(hexText('good')));
    for (const [what, frame] of Object.entries(forbidden)) expect(onBridge.lines.filter((line) => line.endsWith(frame)), what).toEqual([]);
    // The frames were good but for the lie: without the guard's rule they are let through.
    expect(onBridge.lines.some((line) => line.includes('0806') && line.includes(hexAddress('10.87.0.5')))).toBe(true);
    await lab.run(lab.namespaces.host, 'nft', 'flush', 'chain', 'bridge', 'nkudo', 'guard');
    sender.write(`${forbidden["the neighbour's address"]}\n`);
    await seen.line((line) => line.includes(hexText('bad')));
    await guest.end();
    await neighbour.end();
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] guests behind nat reach neither each other, nor the host, the mesh or link-local addresses', async () => {
    const one = await start(idOf(7), nat(idOf(7), 7));
    const other = await start(idOf(8), nat(idOf(8), 8));
    const { host, world, mesh: meshSpace } = lab.namespaces;
    const gatewayMac = await macOf(host, 'nkbr-nat');
    await lab.run(host, 'ip', 'route', 'add', '169.254.0.0/16', 'via', worldAddress);
    const service = await lab.start(host, 'serve', 'udp', '9');
    const atOther = await lab.start(other.namespace, 'sniff', 'eth0');
    const atWorld = await lab.start(world, 'sniff', 'eth0');
    const atMesh = await lab.start(meshSpace, 'sniff', 'eth0');
    const sender = await lab.start(one.namespace, 'inject', 'eth0');
    const back = await lab.start(one.namespace, 'sniff', 'eth0');
    const from = { fromMac: one.mac, from: '10.87.0.7', payload: 'bad' } as const;
    for (const frame of [
      udpFrame({ ...from, toMac: other.mac, to: '10.87.0.8' }),
      udpFrame({ ...from, toMac: broadcastMac, to: '10.87.0.255' }),
      // Not IP: with br_netfilter loaded the rules of IP would stop the others even on an open bridge.
      arpFrame({ fromMac: one.mac, mac: one.mac, ip: '10.87.0.7', to: '10.87.0.8' }),
      udpFrame({ ...from, toMac: gatewayMac, to: '10.87.0.8' }),
      udpFrame({ ...from, toMac: gatewayMac, to: meshPeerAddress }),
      udpFrame({ ...from, toMac: gatewayMac, to: '169.254.169.254' }),
      udpFrame({ ...from, toMac: gatewayMac, to: hostAddress }),
      udpFrame({ ...from, toMac: gatewayMac, to: '10.87.0.1' }),
      udpFrame({ ...from, toMac: gatewayMac, to: worldAddress, payload: 'good' }),
    ]) sender.write(`${frame}\n`);
    await atWorld.line((line) => line.includes(hexText('good')));
    // Each receiver gets a frame of the host after all that the guest has sent.
    expect(await lab.ask(host, 'udp', '10.87.0.8', 9)).toBeNull();
    await atOther.line((line) => line.includes(hexAddress('10.87.0.1')) && line.includes(hexText('?')));
    expect(await lab.ask(host, 'udp', meshPeerAddress, 9)).toBeNull();
    await atMesh.line((line) => line.includes(hexText('?')));
    for (const receiver of [atOther, atWorld, atMesh]) expect(receiver.lines.filter((line) => line.includes(hexText('bad')))).toEqual([]);
    expect(atOther.lines.filter((line) => line.includes(one.mac.replaceAll(':', '')))).toEqual([]);
    // The service of the host would have answered.
    expect(await lab.ask(host, 'udp', '10.87.0.1', 9)).toBe('10.87.0.1');
    expect(back.lines.filter((line) => line.includes(hexAddress('10.87.0.1') + hexAddress('10.87.0.7')))).toEqual([]);
    await service.stop();
    await lab.run(host, 'ip', 'route', 'delete', '169.254.0.0/16');
    await one.end();
    await other.end();
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] guests on the mesh and peers of the mesh see each other without translation, and the world behind the host', async () => {
    const one = await start(idOf(9), mesh(idOf(9), 9));
    const other = await start(idOf(10), mesh(idOf(10), 10));
    const { world, mesh: meshSpace } = lab.namespaces;
    for (const namespace of [meshSpace, world, one.namespace, other.namespace]) await lab.start(namespace, 'serve', 'tcp', '80');
    expect(await lab.ask(one.namespace, 'tcp', meshPeerAddress, 80)).toBe('10.88.0.9');
    expect(await lab.ask(meshSpace, 'tcp', '10.88.0.9', 80)).toBe(meshPeerAddress);
    expect(await lab.ask(one.namespace, 'tcp', '10.88.0.10', 80)).toBe('10.88.0.9');
    expect(await lab.ask(one.namespace, 'tcp', worldAddress, 80)).toBe(hostAddress);
    // From the world nothing gets in, although it knows the way.
    const seen = await lab.start(one.namespace, 'sniff', 'eth0');
    const sender = await lab.start(world, 'inject', 'eth0');
    sender.write(`${udpFrame({ fromMac: await macOf(world, 'eth0'), toMac: await macOf(lab.namespaces.host, 'uplink'), from: worldAddress, to: '10.88.0.9', payload: 'bad' })}\n`);
    sender.write(`${udpFrame({ fromMac: await macOf(world, 'eth0'), toMac: await macOf(lab.namespaces.host, 'uplink'), from: worldAddress, to: hostAddress, payload: 'last' })}\n`);
    const atHost = await lab.ask(meshSpace, 'udp', '10.88.0.9', 9);
    expect(atHost).toBeNull();
    await seen.line((line) => line.includes(hexText('?')));
    expect(seen.lines.filter((line) => line.includes(hexText('bad')))).toEqual([]);
    await one.end();
    await other.end();
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] a guest on a bridge of the host is a machine of that LAN under its own hardware address', async () => {
    const id = idOf(11);
    const guest = await start(id, bridge(id), '192.0.2.11/24');
    await lab.start(lab.namespaces.lan, 'serve', 'tcp', '80');
    expect(await lab.ask(guest.namespace, 'tcp', lanPeerAddress, 80)).toBe('192.0.2.11');
    const seen = await lab.start(lab.namespaces.lan, 'sniff', 'eth0');
    const sender = await lab.start(guest.namespace, 'inject', 'eth0');
    const frame = { toMac: broadcastMac, from: '192.0.2.11', to: '192.0.2.255' } as const;
    sender.write(`${udpFrame({ ...frame, fromMac: '02:00:00:00:00:99', payload: 'bad' })}\n`);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, vlan: 7, payload: 'bad' })}\n`);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, fromPort: 67, toPort: 68, payload: 'bad' })}\n`);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, payload: 'good' })}\n`);
    await seen.line((line) => line.includes(hexText('good')));
    expect(seen.lines.filter((line) => line.includes(hexText('bad')))).toEqual([]);
    // With an address in the specification it may use no other.
    await networks.ensure(id, [bridge(id, { address: '192.0.2.12/24' })], signal);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, payload: 'bad' })}\n`);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, from: '192.0.2.12', payload: 'better' })}\n`);
    await seen.line((line) => line.includes(hexText('better')));
    expect(seen.lines.filter((line) => line.includes(hexText('bad')))).toEqual([]);
    await guest.end();
    expect(await lab.snapshot()).toBe(pristine);
    await expect(networks.ensure(id, [bridge(id, { bridgeName: 'absent0' })], signal)).rejects.toMatchObject({ code: 'NETWORK_UNAVAILABLE', message: expect.stringContaining('no bridge absent0') });
    await expect(networks.ensure(id, [bridge(id, { bridgeName: 'uplink' })], signal)).rejects.toMatchObject({ code: 'NETWORK_UNAVAILABLE', message: expect.stringContaining('not a bridge') });
    await expect(networks.ensure(id, [bridge(id, { vlan: 7 })], signal)).rejects.toMatchObject({ code: 'NETWORK_UNAVAILABLE', message: expect.stringContaining('VLAN') });
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] a guest on an interface of the host is a machine of that wire under its own hardware address, and nothing else gets onto it', async () => {
    const id = idOf(31);
    const guest = await start(id, wire(id), '198.51.100.31/24');
    const { world } = lab.namespaces;
    const server = await lab.start(world, 'serve', 'tcp', '8431');
    await lab.start(guest.namespace, 'serve', 'tcp', '81');
    expect(await lab.ask(guest.namespace, 'tcp', worldAddress, 8431)).toBe('198.51.100.31');
    expect(await lab.ask(world, 'tcp', '198.51.100.31', 81)).toBe(worldAddress);
    expect((await lab.run(world, 'ip', 'neigh', 'show', '198.51.100.31')).includes(guest.mac)).toBe(true);
    const seen = await lab.start(world, 'sniff', 'eth0');
    const sender = await lab.start(guest.namespace, 'inject', 'eth0');
    const frame = { toMac: broadcastMac, from: '198.51.100.31', to: '198.51.100.255' } as const;
    sender.write(`${udpFrame({ ...frame, fromMac: '02:00:00:00:00:99', payload: 'bad' })}\n`);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, vlan: 7, payload: 'bad' })}\n`);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, fromPort: 67, toPort: 68, payload: 'bad' })}\n`);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, payload: 'good' })}\n`);
    await seen.line((line) => line.includes(hexText('good')));
    expect(seen.lines.filter((line) => line.includes(hexText('bad')))).toEqual([]);
    // With an address in the specification it may use no other.
    await networks.ensure(id, [wire(id, { address: '198.51.100.32/24' })], signal);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, payload: 'bad' })}\n`);
    sender.write(`${udpFrame({ ...frame, fromMac: guest.mac, from: '198.51.100.32', payload: 'better' })}\n`);
    await seen.line((line) => line.includes(hexText('better')));
    expect(seen.lines.filter((line) => line.includes(hexText('bad')))).toEqual([]);
    await guest.end();
    await server.stop();
    expect(await lab.snapshot()).toBe(pristine);
    for (const [parent, problem] of [['absent0', 'no interface absent0'], ['lanport', 'a port of lan0']] as const) {
      await expect(networks.ensure(id, [wire(id, { parent })], signal)).rejects.toMatchObject({ code: 'NETWORK_UNAVAILABLE', message: expect.stringContaining(problem) });
    }
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] guests on one interface reach each other in the mode bridge, not in the mode private, and never the host', async () => {
    for (const macvtapMode of ['bridge', 'private'] as const) {
      const [one, other] = [await start(idOf(32), wire(idOf(32), { macvtapMode }), '198.51.100.41/24'), await start(idOf(33), wire(idOf(33), { macvtapMode }), '198.51.100.42/24')];
      await lab.start(other.namespace, 'serve', 'tcp', '80');
      const servers = [await lab.start(lab.namespaces.world, 'serve', 'tcp', '8432'), await lab.start(lab.namespaces.host, 'serve', 'tcp', '8433')];
      expect(await lab.ask(one.namespace, 'tcp', worldAddress, 8432)).toBe('198.51.100.41');
      expect(await lab.ask(one.namespace, 'tcp', '198.51.100.42', 80), macvtapMode).toBe(macvtapMode === 'bridge' ? '198.51.100.41' : null);
      if (macvtapMode === 'bridge') expect(await lab.ask(one.namespace, 'tcp', hostAddress, 8433)).toBeNull();
      for (const part of [one, other]) await part.end();
      for (const server of servers) await server.stop();
      expect(await lab.snapshot()).toBe(pristine);
    }
  });

  test('[E6] a guest moves from a bridge to an interface of the host and back with its next start, and leaves nothing behind', async () => {
    const id = idOf(34);
    await networks.ensure(id, [bridge(id)], signal);
    const onBridge = await lab.snapshot();
    await networks.ensure(id, [wire(id, { name: 'lan' })], signal);
    const onWire = await lab.snapshot();
    expect(onWire).toContain('nkm');
    await networks.ensure(id, [wire(id, { name: 'lan', macvtapMode: 'vepa' })], signal);
    expect(await lab.run(lab.namespaces.host, 'ip', '-details', 'link', 'show')).toContain('macvlan mode vepa');
    await networks.ensure(id, [bridge(id)], signal);
    expect(await lab.snapshot()).toBe(onBridge);
    await networks.remove(id, signal);
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] a guest gets its address, its gateway and the name servers by DHCP', async ({ skip }) => {
    const id = idOf(12);
    const warnings = await networks.ensure(id, [nat(id, 12)], signal);
    if (warnings.length > 0) {
      await networks.remove(id, signal);
      skip(`the machine has no dnsmasq: ${warnings[0]?.message}`);
    }
    const guest = await start(id, nat(id, 12), undefined);
    const newer = await start(idOf(13), nat(idOf(13), 13), undefined);
    for (const [{ namespace, mac }, address] of [[guest, '10.87.0.12'], [newer, '10.87.0.13']] as const) {
      const seen = await lab.start(namespace, 'sniff', 'eth0');
      const sender = await lab.start(namespace, 'inject', 'eth0');
      sender.write(`${dhcpFrame({ mac, type: 1 })}\n`);
      const offer = parseDhcpAnswer(await seen.line((line) => parseDhcpAnswer(line)?.type === 2));
      expect(offer).toMatchObject({ address });
      sender.write(`${dhcpFrame({ mac, type: 3, requested: address, server: '10.87.0.1' })}\n`);
      const ack = parseDhcpAnswer(await seen.line((line) => parseDhcpAnswer(line)?.type === 5));
      expect(ack).toMatchObject({ address });
      expect([1, 3, 6].map((code) => ack?.options.get(code))).toEqual(['ffffff00', hexAddress('10.87.0.1'), hexAddress('198.51.100.53')]);
    }
    // The address of a guest that went is free for the next one at once.
    await guest.end();
    const heir = await start(idOf(14), nat(idOf(14), 12), undefined);
    const seen = await lab.start(heir.namespace, 'sniff', 'eth0');
    const sender = await lab.start(heir.namespace, 'inject', 'eth0');
    sender.write(`${dhcpFrame({ mac: heir.mac, type: 3, requested: '10.87.0.12' })}\n`);
    expect(parseDhcpAnswer(await seen.line((line) => parseDhcpAnswer(line) !== null))).toMatchObject({ type: 5, address: '10.87.0.12' });
    await heir.end();
    await newer.end();
    expect(await lab.snapshot()).toBe(pristine);
  });

  /** A host whose agent dies before its n-th effect, which is after the one before; looks don't count. */
  function dyingHost(at: number): { readonly host: HostNetwork; readonly hasDied: () => boolean } {
    let effects = 0;
    let isDead = false;
    const isLook = (program: string, args: readonly string[]): boolean => program === 'ss' || args.includes('show') || args.includes('list');
    async function effect<Value>(act: () => Promise<Value>): Promise<Value> {
      if (isDead) throw new Error('killed');
      effects += 1;
      isDead = effects === at;
      if (isDead) throw new Error('killed');
      return act();
    }
    return {
      hasDied: () => isDead,
      host: {
        run: (program, args, options) => (isLook(program, args) ? lab.host.run(program, args, options) : effect(() => lab.host.run(program, args, options))),
        deviceNames: lab.host.deviceNames,
        readSwitch: lab.host.readSwitch,
        writeSwitch: (path, value) => effect(() => lab.host.writeSwitch(path, value)),
      },
    };
  }

  const ways = [['make', 'mend'], ['make', 'sweep'], ['shrink', 'mend'], ['remove', 'repeat']] as const;
  test.each([
    { title: 'behind nat and on a bridge', of: (id: MicroVMId) => [nat(id, 20, { ports: [{ name: 'web', protocol: 'tcp', hostPort: 8080, guestPort: 80 }] }), bridge(id, { name: 'office' })], ways, least: 30 },
    { title: 'on an interface', of: (id: MicroVMId) => [wire(id)], ways: [ways[0], ways[3]], least: 8 },
  ])('[E6] an agent that dies at any effect of making or removing networks $title leaves nothing that the next one does not mend or sweep away', async ({ of, ways: tried, least }) => {
    const id = idOf(20);
    const survivor = idOf(21);
    const wanted = of(id);
    await networks.ensure(id, wanted, signal);
    const complete = await lab.snapshot();
    await networks.remove(id, signal);
    expect(await lab.snapshot()).toBe(pristine);
    const deaths: string[] = [];
    for (const [action, then] of tried) {
      for (let at = 1; ; at += 1) {
        if (action !== 'make') await networks.ensure(id, wanted, signal);
        const dying = dyingHost(at);
        const victim = create(dying.host);
        const attempt = action === 'remove' ? victim.remove(id, signal) : victim.ensure(id, action === 'make' ? wanted : wanted.slice(1), signal);
        await attempt.catch((error: unknown) => expect(error).toMatchObject({ message: 'killed' }));
        const where = `${action}, death before effect ${at}, ${then}`;
        // A later agent, which knows nothing, goes on, or finds the directory of the microVM gone.
        const later = create();
        if (then === 'repeat') {
          // As every agent does at its start.
          await later.sweep(new Set([id, survivor]), signal);
          await later.remove(id, signal);
        }
        if (then === 'mend') {
          await later.ensure(id, wanted, signal);
          expect(await lab.snapshot(), where).toBe(complete);
          expect(await later.sweep(new Set([id, survivor]), signal)).toEqual([]);
        }
        if (then !== 'repeat') await later.sweep(new Set([survivor]), signal);
        expect(await lab.snapshot(), where).toBe(pristine);
        if (!dying.hasDied()) break;
        deaths.push(where);
      }
    }
    process.stdout.write(`networks: ${deaths.length} deaths, each at another effect\n`);
    expect(deaths.length).toBeGreaterThan(least);
  }, 300_000);
});
