/**
 * The nftables rules of guests, as text: two tables of our own, `bridge nkudo` (what a tap may send) and
 * `inet nkudo` (what goes to, from and past the host), whose chains are constant and whose sets hold one
 * element for each right of a guest. Pure; running nft is the caller's.
 *
 * Text and not JSON goes in, because nft 1.0.6 (Debian 12) can't take a map of concatenations as JSON
 * and crashes on it; its JSON output is right. Only checked values become text, see guest-port.ts.
 *
 * Who may reach whom:
 * - nothing leaves a tap but frames with the guest's own hardware address and, where it is known, its
 *   own IPv4 address (ARP and DHCP included); with a known address IPv6 is dropped. A tap without an
 *   element can send nothing;
 * - nat: to the world behind the host's address. Not to other guests, the mesh, link-local addresses
 *   (cloud metadata) or the host itself, except DHCP and ping. From outside only through its ports;
 * - mesh: the same, but guests of one host and peers of the mesh reach each other without translation;
 * - bridge: the host's bridge is a switch, and what it leads to is its owner's business.
 */
import { meshBridge, natBridge, type GuestPort } from './guest-port.ts';

export const tableName = 'nkudo';
/** A chain without rules whose name changes whenever the constant chains do, so that old ones are replaced. */
const layoutChain = 'layout_1';
const strangersChain = 'strangers';

export type SetName = 'macs' | 'addresses' | 'open' | 'guests' | 'forwards';
const familyOf: Readonly<Record<SetName, 'bridge' | 'inet'>> = { macs: 'bridge', addresses: 'bridge', open: 'bridge', guests: 'inet', forwards: 'inet' };

export interface RuleElement {
  readonly set: SetName;
  /** In nft's syntax; with the set's name it is unique. */
  readonly key: string;
  /** What a map leads to, in nft's syntax. */
  readonly value?: string;
  /** The tap that has this right. */
  readonly tap: string;
}

/** What nft shows of our tables. */
export interface ListedRules {
  readonly hasLayout: boolean;
  /** Forwarding was off before the first guest, so packets that are no guest's are dropped. */
  readonly refusesStrangers: boolean;
  readonly elements: readonly RuleElement[];
}

export const noRules: ListedRules = { hasLayout: false, refusesStrangers: false, elements: [] };

export function elementsOf(port: GuestPort): readonly RuleElement[] {
  const { tap, mac, address, subnet } = port;
  const elements: RuleElement[] = [{ set: 'macs', key: `"${tap}" . ${mac}`, tap }];
  if (address === undefined) return [...elements, { set: 'open', key: `"${tap}"`, tap }];
  elements.push({ set: 'addresses', key: `"${tap}" . ${address}`, tap });
  if (subnet === undefined) return elements;
  elements.push({ set: 'guests', key: address, tap });
  for (const { protocol, hostPort, guestPort } of port.forwards) {
    elements.push({ set: 'forwards', key: `${protocol} . ${hostPort}`, value: `${address} . ${guestPort}`, tap });
  }
  return elements;
}

/** Two equal texts: the same right. */
export function identityOf({ set, key, value, tap }: RuleElement): string {
  return [set, key, value ?? '', tap].join('|');
}

export interface RuleChange {
  readonly remove: readonly RuleElement[];
  readonly add: readonly RuleElement[];
  readonly refuseStrangers: boolean;
}

/** One transaction for nft that makes the change, or all of it anew over an old layout; empty when there is nothing to do. */
export function renderChange(listed: ListedRules, change: RuleChange, meshInterface: string): string {
  const { remove, add } = change;
  const refuseStrangers = change.refuseStrangers || listed.refusesStrangers;
  if (!listed.hasLayout) {
    const removed = new Set(remove.map(identityOf));
    const kept = listed.elements.filter((element) => !removed.has(identityOf(element)));
    return [renderLayout(meshInterface), ...[...kept, ...add].map((element) => renderElement('add', element)), ...(refuseStrangers ? [renderStrangers()] : []), ''].join('\n');
  }
  const lines = [...remove.map((element) => renderElement('delete', element)), ...add.map((element) => renderElement('add', element))];
  if (refuseStrangers && !listed.refusesStrangers) lines.push(renderStrangers());
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}

/** Removes both tables; right also when one is absent. */
export function renderRemoval(): string {
  return (['bridge', 'inet'] as const).map((family) => `table ${family} ${tableName}\ndelete table ${family} ${tableName}\n`).join('');
}

/** Packets of others pass again. */
export function renderWelcome(): string {
  return `flush chain inet ${tableName} ${strangersChain}\n`;
}

function renderElement(verb: 'add' | 'delete', { set, key, value, tap }: RuleElement): string {
  const hasComment = verb === 'add' && (set === 'guests' || set === 'forwards');
  return `${verb} element ${familyOf[set]} ${tableName} ${set} { ${key}${hasComment ? ` comment "${tap}"` : ''}${verb === 'delete' || value === undefined ? '' : ` : ${value}`} }`;
}

/** Bridged frames are let through: with br_netfilter loaded they pass here as well. */
function renderStrangers(): string {
  return [`meta iifkind "bridge" meta oifkind "bridge" accept`, 'drop'].map((rule) => `add rule inet ${tableName} ${strangersChain} ${rule}`).join('\n');
}

function renderLayout(meshInterface: string): string {
  const ours = `{ "${natBridge}", "${meshBridge}" }`;
  const oursAndMesh = `{ "${natBridge}", "${meshBridge}", "${meshInterface}" }`;
  const toGuest = 'dnat ip to meta l4proto . th dport map @forwards';
  return `${renderRemoval()}
table bridge ${tableName} {
  set macs { type ifname . ether_addr; }
  set addresses { type ifname . ipv4_addr; }
  set open { type ifname; }
  chain ${layoutChain} { }
  chain guard {
    type filter hook prerouting priority -300; policy accept;
    iifname "nkt*" goto from_guest
  }
  chain from_guest {
    iifname . ether saddr != @macs drop
    ether type arp goto arp_from_guest
    udp sport 67 drop
    icmpv6 type nd-router-advert drop
    iifname @open ether type { ip, ip6 } accept
    ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
    ether type ip iifname . ip saddr @addresses accept
    drop
  }
  chain arp_from_guest {
    iifname . arp saddr ether != @macs drop
    iifname @open accept
    arp saddr ip 0.0.0.0 accept
    iifname . arp saddr ip @addresses accept
    drop
  }
}
table inet ${tableName} {
  set guests { type ipv4_addr; }
  map forwards { type inet_proto . inet_service : ipv4_addr . inet_service; }
  chain ${layoutChain} { }
  chain dnat_from_outside {
    type nat hook prerouting priority -100; policy accept;
    fib daddr type local ${toGuest}
  }
  chain dnat_from_host {
    type nat hook output priority -100; policy accept;
    ip daddr != 127.0.0.0/8 fib daddr type local ${toGuest}
  }
  chain behind_host {
    type nat hook postrouting priority 100; policy accept;
    ip saddr @guests oifname != ${oursAndMesh} masquerade
  }
  chain input {
    type filter hook input priority 0; policy accept;
    iifname ${ours} goto guest_to_host
  }
  chain guest_to_host {
    ct state established,related accept
    udp sport 68 udp dport 67 accept
    icmp type echo-request accept
    drop
  }
  chain ${strangersChain} { }
  chain forward {
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
    iifname ${ours} goto guest_to_world
    oifname ${ours} goto world_to_guest
    jump ${strangersChain}
  }
  chain guest_to_world {
    iifname "${meshBridge}" oifname { "${meshBridge}", "${meshInterface}" } accept
    oifname ${oursAndMesh} drop
    ip daddr 169.254.0.0/16 drop
    meta nfproto ipv6 drop
    accept
  }
  chain world_to_guest {
    ct status dnat accept
    iifname "${meshInterface}" oifname "${meshBridge}" accept
    drop
  }
}`;
}

/** From `nft -j list table` of both families. What is not ours, or of a later version, is passed over. */
export function parseRules(listings: readonly unknown[]): ListedRules {
  const objects = listings.flatMap((listing) => (field(listing, 'nftables') as readonly unknown[] | undefined) ?? []); // nft's JSON: an array of objects with one key each.
  const chains = objects.filter((object) => text(field(field(object, 'chain'), 'name')) === layoutChain);
  const elements = objects.flatMap((object) => {
    const set = field(object, 'set') ?? field(object, 'map');
    const name = text(field(set, 'name'));
    const listed = field(set, 'elem');
    return isSetName(name) && Array.isArray(listed) ? listed.flatMap((element) => parseElement(name, element)) : [];
  });
  const refusesStrangers = objects.some((object) => text(field(field(object, 'rule'), 'chain')) === strangersChain);
  return { hasLayout: chains.length === 2, refusesStrangers, elements };
}

function parseElement(set: SetName, listed: unknown): readonly RuleElement[] {
  const [key, value] = set === 'forwards' && Array.isArray(listed) ? listed : [listed, undefined];
  const wrapped = field(key, 'elem');
  const atoms = renderAtoms(wrapped === undefined ? key : field(wrapped, 'val'));
  const tap = familyOf[set] === 'bridge' ? atoms[0] : text(field(wrapped, 'comment'));
  if (tap === undefined || atoms.length === 0) return [];
  const parts = familyOf[set] === 'bridge' ? [`"${tap}"`, ...atoms.slice(1)] : atoms;
  return [{ set, key: parts.join(' . '), ...(value === undefined ? {} : { value: renderAtoms(value).join(' . ') }), tap }];
}

function renderAtoms(value: unknown): readonly string[] {
  const parts = field(value, 'concat') ?? [value];
  return Array.isArray(parts) ? parts.filter((part) => typeof part === 'string' || typeof part === 'number').map(String) : [];
}

function field(value: unknown, name: string): unknown {
  // The one place where nft's answer gets a shape; each value is checked where it is used.
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function isSetName(name: string | undefined): name is SetName {
  return name !== undefined && Object.hasOwn(familyOf, name);
}
