/**
 * A guest beside the host on one of its interfaces (`macvtap` of a spec): a macvlan device on that interface
 * with the guest's hardware address, and nftables rules that carry frames between it and the tap, only the
 * guest's own towards the wire. Not a macvtap device: a VMM takes one only as an open file, which its API has
 * no way for at creation (measured on cloud-hypervisor v53: `fds` of vm.create are ignored).
 *
 * The tap is made first and removed last, so whoever finds no tap need not look for the rest. Both devices
 * are up only under rules whose policy is drop: the host's own stack never sees a frame of theirs.
 */
import { AppError } from '#api/model/error-codes.ts';
import { macvlanName } from '../../domain/tap-name.ts';
import type { GuestPort } from './guest-port.ts';
import type { HostNetwork } from './host-network.ts';
import type { Link } from './links.ts';

export interface WirePort extends GuestPort {
  readonly wire: NonNullable<GuestPort['wire']>;
}

export function isWired(port: GuestPort): port is WirePort {
  return port.wire !== undefined;
}

const tablePrefix = 'nkudo_';

/** @throws NETWORK_UNAVAILABLE */
export function checkWire({ networkName, tap, wire: { parent } }: WirePort, links: readonly Link[], alias: string): void {
  const unavailable = (problem: string): AppError => new AppError('NETWORK_UNAVAILABLE', `network ${networkName}: ${problem}`);
  const link = links.find(({ name }) => name === parent);
  if (link === undefined) throw unavailable(`the host has no interface ${parent}`);
  if (!link.isUp) throw unavailable(`interface ${parent} of the host is down`);
  if (link.master !== undefined) throw unavailable(`${parent} is a port of ${link.master}; name ${link.master}, or connect the network with bridge`);
  const device = links.find(({ name }) => name === macvlanName(tap));
  if (device !== undefined && (device.kind !== 'macvlan' || (device.alias !== undefined && device.alias !== alias))) throw unavailable(`device ${device.name} is not n-kudo's`);
}

export async function ensureWire(port: WirePort, links: readonly Link[], alias: string, host: HostNetwork, signal: AbortSignal): Promise<void> {
  const { tap, mac, wire: { parent, mode } } = port;
  const ip = (...args: readonly string[]): Promise<string> => host.run('ip', args, { signal });
  const device = macvlanName(tap);
  const link = links.find(({ name }) => name === device);
  const isRight = link?.parent === parent && link.mode === mode && link.mac === mac;
  if (link !== undefined && !isRight) await ip('link', 'delete', 'dev', device);
  if (link === undefined || !isRight) await ip('link', 'add', 'link', parent, 'name', device, 'address', mac, 'type', 'macvlan', 'mode', mode);
  // Which groups the guest listens to is not known here, so all of them pass.
  await ip('link', 'set', 'dev', device, 'alias', alias, 'addrgenmode', 'none', 'allmulticast', 'on');
  const mtu = links.find(({ name }) => name === parent)?.mtu;
  if (mtu !== undefined) await ip('link', 'set', 'dev', tap, 'mtu', String(mtu));
  await host.run('nft', ['-f', '-'], { signal, input: renderWire(port) });
  for (const name of [device, tap]) await ip('link', 'set', 'dev', name, 'up');
}

/** Before the tap itself goes. */
export async function removeWire(tap: string, links: readonly Link[], host: HostNetwork, signal: AbortSignal): Promise<void> {
  const device = macvlanName(tap);
  if (links.some(({ name, kind }) => name === device && kind === 'macvlan')) await host.run('ip', ['link', 'delete', 'dev', device], { signal });
}

/** Removes the rules of taps that are not on an interface any more. @param tables of `nft -j list tables` */
export async function removeUnusedTables(tables: string, isUsed: (tap: string) => boolean, host: HostNetwork, signal: AbortSignal): Promise<void> {
  const listing = JSON.parse(tables) as { nftables?: readonly { table?: { family?: string; name?: string } }[] }; // nft's JSON; absent parts are passed over.
  const names = (listing.nftables ?? []).flatMap(({ table }) => (table?.family === 'netdev' && table.name?.startsWith(tablePrefix) === true ? [table.name] : []));
  const unused = names.filter((name) => /^nkt[a-z2-7]{12}$/.test(name.slice(tablePrefix.length)) && !isUsed(name.slice(tablePrefix.length)));
  if (unused.length > 0) await host.run('nft', ['-f', '-'], { signal, input: unused.map((name) => `delete table netdev ${name}\n`).join('') });
}

/** Replaces the rules of one tap, in one transaction. The same rights as behind a bridge, see rules.ts. */
export function renderWire({ tap, mac, address }: WirePort): string {
  const table = `netdev ${tablePrefix}${tap}`;
  const device = macvlanName(tap);
  const pass = `fwd to "${device}"`;
  const rights =
    address === undefined
      ? [`ether type { ip, ip6, arp } ${pass}`]
      : [
          `ether type arp arp saddr ip { 0.0.0.0, ${address} } ${pass}`,
          `ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 ${pass}`,
          `ether type ip ip saddr ${address} ${pass}`,
        ];
  return `table ${table}
delete table ${table}
table ${table} {
  chain from_guest {
    type filter hook ingress device "${tap}" priority 0; policy drop;
    ether saddr != ${mac} drop
    ether type arp arp saddr ether != ${mac} drop
    udp sport 67 drop
    icmpv6 type nd-router-advert drop
    ${rights.join('\n    ')}
  }
  chain to_guest {
    type filter hook ingress device "${device}" priority 0; policy drop;
    fwd to "${tap}"
  }
}
`;
}
