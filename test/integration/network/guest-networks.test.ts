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
import { findObstacle, hostAddress, lanPeerAddress, meshPeerAddress, openLab, worldAddress, type Lab, type Program } from './lab.ts';

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

describe.skipIf(obstacle !== null)('networks of guests', () => {
  let lab: Lab;
  let networks: GuestNetworks;
  let pristine: string;

  const create = (host: HostNetwork = lab.host): GuestNetworks =>
    createGuestNetworks({ host, owner: 'test', runtimeDirectory: lab.runtimeDirectory, vmmUserId: 0, meshInterface: 'wt0', nameServers: ['198.51.100.53'], mayEnableForwarding: true });

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
});
