/**
 * The GuestNetworks port on Linux: taps and bridges with iproute2, rules with nftables, DHCP with
 * dnsmasq when the host has it. What is true is read from the kernel at each call; nothing is stored
 * (a boot of the host takes all of it away, and the next ensure makes it again).
 *
 * Order of making: bridge, rules, forwarding, tap; of removing: tap, rules, bridge, forwarding. So a
 * crash leaves rights without a tap or a tap that may send nothing, never an open tap. Ownership is
 * read from a tap's alias, `nkudo:<agent>:<microVM UID>:<network>`.
 */
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { isUuid, microVMId, type MicroVMId } from '#api/model/ids.ts';
import type { NetworkSpec } from '#api/model/microvm.ts';
import { stableHash } from '#api/model/stable-hash.ts';
import { macvlanName, tapPrefix, tapPrefixOf } from '../../domain/tap-name.ts';
import type { GuestNetworks, NetworkWarning } from '../../ports/network.ts';
import { createDhcpServer, isMissingServer } from './dhcp-server.ts';
import { createForwarding } from './forwarding.ts';
import { deriveGuestPort, meshBridge, natBridge, networkOf, type GuestPort } from './guest-port.ts';
import type { HostNetwork } from './host-network.ts';
import { parseLinks, parseListeners, type Link, type LinkAddress } from './links.ts';
import { elementsOf, identityOf, noRules, parseRules, renderChange, renderRemoval, renderWelcome, tableName, type ListedRules, type RuleElement } from './rules.ts';
import { checkWire, ensureWire, isWired, removeUnusedTables, removeWire } from './wire.ts';

export interface GuestNetworksOptions {
  readonly host: HostNetwork;
  /** Tells the taps of several agents on one machine apart: letters, digits and hyphens. */
  readonly owner: string;
  /** For files that live as long as the boot; readable by other users. */
  readonly runtimeDirectory: string;
  /** The user that the VMM of a microVM runs as; its taps are that user's. */
  readonly vmmUserIdOf: (microvmId: MicroVMId) => number;
  /** Interface of the mesh software, such as wt0. */
  readonly meshInterface: string;
  readonly nameServers: readonly string[];
  /** Whether IP forwarding may be switched on; else nat and mesh are refused while it is off. */
  readonly mayEnableForwarding: boolean;
}

const ownBridges = [natBridge, meshBridge] as const;

/** A bridge of ours with guests on it, and their rights. */
interface ServedBridge {
  readonly bridge: string;
  readonly subnets: readonly LinkAddress[];
  readonly rights: readonly RuleElement[];
}

interface Look {
  readonly links: readonly Link[];
  readonly rules: ListedRules;
}

export function createGuestNetworks(options: GuestNetworksOptions): GuestNetworks {
  const { host, owner, meshInterface } = options;
  const dhcp = createDhcpServer({ host, directory: options.runtimeDirectory, nameServers: options.nameServers });
  const forwarding = createForwarding(host, options.runtimeDirectory, options.mayEnableForwarding);
  let last: Promise<unknown> = Promise.resolve();

  /** One change at a time: each is made from a look at the whole. */
  function inTurn<Value>(work: () => Promise<Value>): Promise<Value> {
    const turn = last.then(work, work);
    last = turn.catch(() => {});
    return turn;
  }

  const ip = (signal: AbortSignal, ...args: readonly string[]): Promise<string> => host.run('ip', args, { signal });

  async function look(signal: AbortSignal): Promise<Look> {
    const links = parseLinks(await ip(signal, '-json', '-details', 'address', 'show'));
    return { links, rules: await lookAtRules(signal) };
  }

  const listTables = (signal: AbortSignal): Promise<string> => host.run('nft', ['-j', 'list', 'tables'], { signal });

  async function lookAtRules(signal: AbortSignal): Promise<ListedRules> {
    const tables = await listTables(signal);
    const families = (['bridge', 'inet'] as const).filter((family) => hasTable(tables, family));
    if (families.length === 0) return noRules;
    const listings: unknown[] = [];
    for (const family of families) listings.push(JSON.parse(await host.run('nft', ['-j', 'list', 'table', family, tableName], { signal })));
    return parseRules(listings);
  }

  async function applyRules(text: string, signal: AbortSignal): Promise<void> {
    if (text !== '') await host.run('nft', ['-f', '-'], { signal, input: text });
  }

  async function ensure(microvmId: MicroVMId, networks: readonly NetworkSpec[], signal: AbortSignal): Promise<readonly NetworkWarning[]> {
    const ports = networks.map((network) => deriveGuestPort(microvmId, network));
    if (ports.length === 0) {
      const hasTaps = (await host.deviceNames()).some((name) => name.startsWith(tapPrefixOf(microvmId)));
      if (hasTaps) await remove(microvmId, signal);
      return [];
    }
    const seen = await look(signal);
    const plan = planRules(microvmId, ports.filter((port) => !isWired(port)), seen);
    checkDevices(ports, seen.links, aliasOf);
    checkAddresses(ports, seen.links);
    await checkPorts(plan.add, signal);
    const isRouted = ports.some(({ subnet }) => subnet !== undefined);
    const needsForwarding = isRouted && !(await forwarding.isOn());
    if (needsForwarding) await forwarding.note();

    // A tap that was behind a bridge, or on an interface, and is to be the other.
    const isMoved = ({ name, master }: Link): boolean => ports.some((port) => port.tap === name && (isWired(port) ? master !== undefined : seen.links.some((link) => link.name === macvlanName(name))));
    const gone = tapsOf(microvmId, seen.links).filter((link) => !ports.some(({ tap }) => tap === link.name) || isMoved(link));
    await removeTaps(gone, seen.links, signal);
    for (const port of firstOfEachSubnet(ports)) await ensureBridge(port, seen.links, signal);
    const hasRights = ports.some((port) => !isWired(port)) || plan.remove.length > 0;
    if (hasRights) await applyRules(renderChange(seen.rules, { ...plan, refuseStrangers: isRouted && (await forwarding.isOurs()) }, meshInterface), signal);
    if (needsForwarding) await forwarding.switchOn();
    for (const port of ports) await ensureTap(port, seen.links.filter((link) => !gone.includes(link)), signal);
    return removeUnused(signal);
  }

  /** What has to change in the sets. Rights of taps that are not there any more give way. */
  function planRules(microvmId: MicroVMId, ports: readonly GuestPort[], { links, rules }: Look): { readonly add: readonly RuleElement[]; readonly remove: readonly RuleElement[] } {
    const wanted = ports.flatMap(elementsOf);
    const wantedIdentities = new Set(wanted.map(identityOf));
    const listedIdentities = new Set(rules.elements.map(identityOf));
    const isOwn = ({ tap }: RuleElement): boolean => tap.startsWith(tapPrefixOf(microvmId));
    const isStale = ({ tap }: RuleElement): boolean => !links.some(({ name }) => name === tap);
    const held = new Map(rules.elements.filter((element) => !isOwn(element) && !isStale(element)).map((element) => [`${element.set} ${element.key}`, element]));
    for (const element of wanted) {
      const other = held.get(`${element.set} ${element.key}`);
      if (other === undefined) continue;
      if (element.set === 'forwards') throw new AppError('PORT_IN_USE', `port ${element.key.replace(' . ', ' ')} of the host leads to another microVM`);
      throw new AppError('ADDRESS_IN_USE', `address ${element.key} belongs to another microVM`);
    }
    return {
      add: wanted.filter((element) => !rules.hasLayout || !listedIdentities.has(identityOf(element))),
      remove: rules.elements.filter((element) => (isOwn(element) && (!wantedIdentities.has(identityOf(element)) || !rules.hasLayout)) || (isStale(element) && !isOwn(element))),
    };
  }

  async function checkPorts(added: readonly RuleElement[], signal: AbortSignal): Promise<void> {
    const wanted = added.filter(({ set }) => set === 'forwards');
    if (wanted.length === 0) return;
    const doubled = wanted.find(({ key }, index) => wanted.some((other, otherIndex) => otherIndex < index && other.key === key));
    if (doubled !== undefined) throw new AppError('PORT_IN_USE', `port ${doubled.key.replace(' . ', ' ')} is asked for twice`);
    const listeners = parseListeners(await host.run('ss', ['--no-header', '--listening', '--numeric', '--tcp', '--udp'], { signal }));
    for (const { key } of wanted) {
      const listener = listeners.find(({ protocol, port }) => key === `${protocol} . ${port}`);
      if (listener !== undefined) throw new AppError('PORT_IN_USE', `a program of the host listens on ${listener.protocol} port ${listener.port}`);
    }
  }

  async function ensureBridge({ bridge, subnet }: GuestPort, links: readonly Link[], signal: AbortSignal): Promise<void> {
    if (subnet === undefined) return;
    const link = links.find(({ name }) => name === bridge);
    if (link === undefined && !(await host.deviceNames()).includes(bridge)) {
      // A hardware address of its own: else the bridge takes that of a port, and guests lose their gateway when the port goes.
      await ip(signal, 'link', 'add', 'name', bridge, 'address', bridgeMac(bridge), 'type', 'bridge', 'stp_state', '0', 'forward_delay', '0', 'mcast_snooping', '0');
    }
    const hasAddress = link?.addresses.some(({ address, prefixLength }) => address === subnet.gateway && prefixLength === subnet.prefixLength) === true;
    if (!hasAddress) await ip(signal, 'address', 'add', `${subnet.gateway}/${subnet.prefixLength}`, 'dev', bridge);
    if (link?.isUp !== true) await ip(signal, 'link', 'set', 'dev', bridge, 'addrgenmode', 'none', 'up');
  }

  async function ensureTap(port: GuestPort, links: readonly Link[], signal: AbortSignal): Promise<void> {
    const { tap, bridge, isIsolated, vlan } = port;
    const found = links.find(({ name }) => name === tap);
    const userId = options.vmmUserIdOf(port.microvmId);
    // Of an earlier start as another user. One that a VMM has open stays that VMM's.
    const isStrange = found?.ownerId !== undefined && found.ownerId !== userId && !found.hasCarrier;
    if (found !== undefined && isStrange) await removeTaps([found], links, signal);
    const link = isStrange ? undefined : found;
    if (link === undefined) await ip(signal, 'tuntap', 'add', 'dev', tap, 'mode', 'tap', 'user', String(userId));
    if (isWired(port)) {
      await ip(signal, 'link', 'set', 'dev', tap, 'alias', aliasOf(port), 'addrgenmode', 'none');
      return ensureWire(port, isStrange ? links.filter(({ name }) => name !== macvlanName(tap)) : links, aliasOf(port), host, signal);
    }
    const isComplete = link?.alias === aliasOf(port) && link.master === bridge && link.isIsolated === isIsolated && link.isUp;
    if (isComplete && vlan === undefined) return;
    await ip(signal, 'link', 'set', 'dev', tap, 'alias', aliasOf(port), 'addrgenmode', 'none', 'master', bridge);
    if (isIsolated) await ip(signal, 'link', 'set', 'dev', tap, 'type', 'bridge_slave', 'isolated', 'on');
    if (vlan !== undefined) {
      await host.run('bridge', ['vlan', 'add', 'dev', tap, 'vid', String(vlan), 'pvid', 'untagged'], { signal });
      if (vlan !== 1) await host.run('bridge', ['vlan', 'del', 'dev', tap, 'vid', '1'], { signal });
    }
    // An unprivileged VMM can't set it up itself; a tap that is down makes its boot fail.
    await ip(signal, 'link', 'set', 'dev', tap, 'up');
  }

  async function removeTaps(taps: readonly Link[], links: readonly Link[], signal: AbortSignal): Promise<void> {
    for (const { name } of taps) {
      await removeWire(name, links, host, signal);
      await ip(signal, 'link', 'delete', 'dev', name);
    }
  }

  async function remove(microvmId: MicroVMId, signal: AbortSignal): Promise<void> {
    // Most hosts have microVMs without networks: their end starts no program. Rules that a crash left alone are the sweep's.
    if (!(await host.deviceNames()).some((name) => name.startsWith(tapPrefix) || ownBridges.some((bridge) => bridge === name))) return;
    const links = await linksOrNone(signal);
    if (links === null) return;
    await removeTaps(tapsOf(microvmId, links), links, signal);
    await removeUnused(signal);
  }

  /** Null when the host has no iproute2: then nothing of ours can be there. */
  async function linksOrNone(signal: AbortSignal): Promise<readonly Link[] | null> {
    try {
      return parseLinks(await ip(signal, '-json', '-details', 'address', 'show'));
    } catch (error) {
      if (isAppError(error) && error.code === 'NETWORK_UNAVAILABLE') return null;
      throw error;
    }
  }

  /** Takes away rights without a tap, bridges without a port, and with the last tap the rest; DHCP follows. */
  async function removeUnused(signal: AbortSignal): Promise<readonly NetworkWarning[]> {
    const links = parseLinks(await ip(signal, '-json', '-details', 'address', 'show'));
    const rules = await rulesOrNone(links, signal);
    const taps = links.filter(({ name }) => name.startsWith(tapPrefix));
    await removeTablesOfGoneTaps(links, signal);
    const stale = rules.elements.filter(({ tap }) => !taps.some(({ name }) => name === tap));
    if (stale.length > 0 && taps.length > 0) await applyRules(renderChange(rules, { remove: stale, add: [], refuseStrangers: false }, meshInterface), signal);
    const served: ServedBridge[] = [];
    for (const bridge of ownBridges) {
      const device = links.find(({ name }) => name === bridge);
      const ports = links.filter(({ master }) => master === bridge).map(({ name }) => name);
      if (device !== undefined && ports.length > 0) {
        const rights = rules.elements.filter(({ tap }) => ports.includes(tap));
        served.push({ bridge, subnets: await keepUsedSubnets(device, rights, signal), rights });
        continue;
      }
      await dhcp.stop(bridge, signal);
      if (device !== undefined) await ip(signal, 'link', 'delete', 'dev', bridge);
    }
    if (served.length > 0) return serveDhcp(served, signal);
    await forwarding.restore();
    if (taps.length === 0 && rules !== noRules) await applyRules(renderRemoval(), signal);
    else if (rules.refusesStrangers) await applyRules(renderWelcome(), signal);
    return [];
  }

  async function removeTablesOfGoneTaps(links: readonly Link[], signal: AbortSignal): Promise<void> {
    const tables = await listTables(signal).catch((error: unknown) => {
      // As with the other rules: who may not look has made none.
      if (isAppError(error) && !links.some(({ name }) => name.startsWith(tapPrefix)) && (error.code === 'NETWORK_UNAVAILABLE' || error.code === 'NETWORK_FAILED')) return '{}';
      throw error;
    });
    await removeUnusedTables(tables, (tap) => links.some(({ name }) => name === tap) && links.some(({ name }) => name === macvlanName(tap)), host, signal);
  }

  /** Takes the host's address out of subnets in which no guest is left. */
  async function keepUsedSubnets(bridge: Link, rights: readonly RuleElement[], signal: AbortSignal): Promise<readonly LinkAddress[]> {
    const guests = rights.filter(({ set }) => set === 'addresses').map(lastPart);
    const isUsed = ({ address, prefixLength }: LinkAddress): boolean => guests.some((guest) => networkOf(guest, prefixLength) === networkOf(address, prefixLength));
    for (const unused of bridge.addresses.filter((address) => !isUsed(address))) {
      await ip(signal, 'address', 'delete', `${unused.address}/${unused.prefixLength}`, 'dev', bridge.name);
    }
    return bridge.addresses.filter(isUsed);
  }

  /** An agent that may not look, or has no nft, has made nothing, unless a device shows the opposite. */
  async function rulesOrNone(links: readonly Link[], signal: AbortSignal): Promise<ListedRules> {
    try {
      return await lookAtRules(signal);
    } catch (error) {
      const isOursThere = links.some(({ name }) => name.startsWith(tapPrefix) || ownBridges.some((bridge) => bridge === name));
      if (isAppError(error) && (error.code === 'NETWORK_UNAVAILABLE' || error.code === 'NETWORK_FAILED') && !isOursThere) return noRules;
      throw error;
    }
  }

  /** The server's list is made from the rights, so that it can't tell a guest an address that the rules refuse. */
  async function serveDhcp(served: readonly ServedBridge[], signal: AbortSignal): Promise<readonly NetworkWarning[]> {
    for (const { bridge, subnets, rights } of served) {
      const hosts = rights.filter(({ set }) => set === 'macs').flatMap((right) => {
        const address = rights.find(({ set, tap }) => set === 'addresses' && tap === right.tap);
        return address === undefined ? [] : [{ mac: lastPart(right), address: lastPart(address) }];
      });
      try {
        await dhcp.serve(bridge, subnets, hosts, signal);
      } catch (error) {
        if (!isMissingServer(error)) throw error;
        return [{ code: 'DHCP_UNAVAILABLE', message: 'the host has no dnsmasq, so guests get no address by DHCP: install dnsmasq-base, or give the guest its address by kernel command line or cloud-init' }];
      }
    }
    return [];
  }

  function sweep(kept: ReadonlySet<MicroVMId>, signal: AbortSignal): Promise<readonly string[]> {
    return inTurn(async () => {
      const links = await linksOrNone(signal);
      if (links === null) return [];
      const keptPrefixes = new Set([...kept].map(tapPrefixOf));
      const lost = links.filter((link) => link.name.startsWith(tapPrefix) && isLost(link, kept, keptPrefixes));
      await removeTaps(lost, links, signal);
      await removeUnused(signal);
      return lost.map(({ name }) => name);
    });
  }

  /** A tap without an alias was left by a crash between two calls of iproute2. */
  function isLost({ name, alias }: Link, kept: ReadonlySet<MicroVMId>, keptPrefixes: ReadonlySet<string>): boolean {
    if (alias === undefined) return ![...keptPrefixes].some((prefix) => name.startsWith(prefix));
    const [product, agent, uid = ''] = alias.split(':');
    return product === 'nkudo' && agent === owner && isUuid(uid) && !kept.has(microVMId(uid));
  }

  const aliasOf = ({ microvmId, networkName }: GuestPort): string => `nkudo:${owner}:${microvmId}:${networkName}`;

  return {
    ensure: (microvmId, networks, signal) => inTurn(() => ensure(microvmId, networks, signal)),
    remove: (microvmId, signal) => inTurn(() => remove(microvmId, signal)),
    sweep,
  };
}

/** The address in a key such as `"tap" . 10.0.0.5`. */
function lastPart({ key }: RuleElement): string {
  return key.slice(key.lastIndexOf(' ') + 1);
}

/** Taps with another microVM's alias are not its own, although their names begin alike. */
function tapsOf(microvmId: MicroVMId, links: readonly Link[]): readonly Link[] {
  return links.filter(({ name, alias }) => name.startsWith(tapPrefixOf(microvmId)) && (alias === undefined || alias.split(':')[2] === microvmId));
}

/** Two networks of one microVM may lie in one subnet. */
function firstOfEachSubnet(ports: readonly GuestPort[]): readonly GuestPort[] {
  const key = ({ bridge, subnet }: GuestPort): string => `${bridge} ${subnet?.gateway ?? ''}/${subnet?.prefixLength ?? ''}`;
  return ports.filter((port, index) => ports.findIndex((other) => key(other) === key(port)) === index);
}

function checkDevices(ports: readonly GuestPort[], links: readonly Link[], aliasOf: (port: GuestPort) => string): void {
  for (const port of ports) {
    const { tap, bridge, subnet, vlan, networkName } = port;
    const device = links.find(({ name }) => name === tap);
    if (device?.alias !== undefined && device.alias !== aliasOf(port)) throw new AppError('NETWORK_UNAVAILABLE', `device ${tap} belongs to ${device.alias}`);
    if (device !== undefined && device.kind !== 'tun') throw new AppError('NETWORK_UNAVAILABLE', `device ${tap} is not a tap`);
    if (isWired(port)) {
      checkWire(port, links, aliasOf(port));
      continue;
    }
    const master = links.find(({ name }) => name === bridge);
    if (master !== undefined && master.kind !== 'bridge') throw new AppError('NETWORK_UNAVAILABLE', `network ${networkName}: ${bridge} is not a bridge`);
    if (subnet === undefined && master === undefined) throw new AppError('NETWORK_UNAVAILABLE', `network ${networkName}: the host has no bridge ${bridge}`);
    if (vlan !== undefined && master?.filtersVlans !== true) throw new AppError('NETWORK_UNAVAILABLE', `network ${networkName}: bridge ${bridge} does not filter VLANs (vlan_filtering)`);
  }
}

/** A guest's subnet that the host also has elsewhere would cut the host off from the other one. */
function checkAddresses(ports: readonly GuestPort[], links: readonly Link[]): void {
  for (const { address, subnet, bridge, networkName } of ports) {
    if (address === undefined) continue;
    for (const { name, addresses } of links) for (const other of addresses) {
      if (other.address === address) throw new AppError('ADDRESS_IN_USE', `network ${networkName}: the host has ${address} on ${name}`);
      if (subnet === undefined || name === bridge) continue;
      const shorter = Math.min(other.prefixLength, subnet.prefixLength);
      if (networkOf(other.address, shorter) === networkOf(address, shorter)) {
        throw new AppError('ADDRESS_IN_USE', `network ${networkName}: subnet of ${address}/${subnet.prefixLength} overlaps ${other.address}/${other.prefixLength} on ${name}`);
      }
    }
  }
}

function hasTable(json: string, family: string): boolean {
  const listing = JSON.parse(json) as { nftables?: readonly { table?: { family?: string; name?: string } }[] }; // nft's JSON; absent parts are passed over.
  return (listing.nftables ?? []).some(({ table }) => table?.family === family && table.name === tableName);
}

/** Locally administered, the same on every host: it is never seen outside of it. */
function bridgeMac(bridge: string): string {
  const hash = stableHash(bridge, 0x811c9dc5);
  return ['02', '6e', ...[24, 16, 8, 0].map((shift) => ((hash >>> shift) & 0xff).toString(16).padStart(2, '0'))].join(':');
}
