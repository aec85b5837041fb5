/**
 * What one network of a microVM comes to on the host: a tap, the bridge or interface behind it, and what may
 * be sent from it. Pure; checks every value that later becomes an argument or a rule.
 */
import { isIPv4 } from 'node:net';
import { AppError } from '#api/model/error-codes.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { MacvtapMode, NetworkSpec, PortForward } from '#api/model/microvm.ts';
import { tapName } from '../../domain/tap-name.ts';

/** Bridges that this adapter makes and removes; guests of one kind share one. */
export const natBridge = 'nkbr-nat';
export const meshBridge = 'nkbr-mesh';

export interface Subnet {
  /** Address of the host in it. */
  readonly gateway: string;
  /** 1..30 */
  readonly prefixLength: number;
}

export interface GuestPort {
  readonly microvmId: MicroVMId;
  readonly networkName: string;
  readonly tap: string;
  /** Empty when there is a `wire` instead. */
  readonly bridge: string;
  /** The interface of the host that the guest is on, beside the host. */
  readonly wire?: { readonly parent: string; readonly mode: MacvtapMode };
  /** Of a bridge that this adapter makes; absent for one that the host has. */
  readonly subnet?: Subnet;
  readonly vlan?: number;
  /** The tap reaches the host and nobody else on the bridge. */
  readonly isIsolated: boolean;
  readonly mac: string;
  /** The only IPv4 address that the guest may use; absent: any, and IPv6 too. */
  readonly address?: string;
  readonly forwards: readonly PortForward[];
}

/** @throws NETWORK_UNSUPPORTED, INVALID_REQUEST */
export function deriveGuestPort(microvmId: MicroVMId, network: NetworkSpec): GuestPort {
  const { name, kind, mac, ports } = network;
  if (!/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/.test(mac)) throw refused(name, `mac ${mac} is no unicast hardware address`);
  const base = { microvmId, networkName: name, tap: tapName(microvmId, name), mac, forwards: ports };
  if (kind === 'bridge') return { ...base, ...deriveBridgePort(network) };
  if (kind === 'macvtap') return { ...base, ...deriveWirePort(network) };
  const { address, subnet } = deriveSubnet(network);
  for (const port of ports) for (const number of [port.hostPort, port.guestPort]) {
    if (!Number.isInteger(number) || number < 1 || number > 65_535) throw refused(name, `${number} is no port`);
  }
  return { ...base, bridge: kind === 'nat' ? natBridge : meshBridge, subnet, isIsolated: kind === 'nat', address };
}

function deriveWirePort({ name, parent, macvtapMode = 'bridge', address, ports }: NetworkSpec): Pick<GuestPort, 'bridge' | 'wire' | 'isIsolated' | 'address'> {
  if (parent === undefined || !/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/.test(parent)) throw refused(name, 'names no interface of the host');
  if (parent === natBridge || parent === meshBridge || parent === 'lo' || /^nk[tm]/.test(parent)) throw refused(name, `${parent} is not for others`);
  if (ports.length > 0) throw refused(name, 'a guest on an interface of the host has ports of its own');
  return { bridge: '', wire: { parent, mode: macvtapMode }, isIsolated: false, ...(address === undefined ? {} : { address: parseAddress(name, address).address }) };
}

function deriveBridgePort({ name, bridgeName, vlan, address, ports }: NetworkSpec): Pick<GuestPort, 'bridge' | 'vlan' | 'isIsolated' | 'address'> {
  if (bridgeName === undefined || !/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/.test(bridgeName)) throw refused(name, 'names no bridge of the host');
  if (bridgeName === natBridge || bridgeName === meshBridge) throw refused(name, `${bridgeName} is not for others`);
  if (ports.length > 0) throw refused(name, 'a guest on a bridge has ports of its own');
  return {
    bridge: bridgeName,
    ...(vlan === undefined ? {} : { vlan }),
    isIsolated: false,
    ...(address === undefined ? {} : { address: parseAddress(name, address).address }),
  };
}

function deriveSubnet({ name, address, gateway }: NetworkSpec): { address: string; subnet: Subnet } {
  if (address === undefined || gateway === undefined) throw refused(name, 'has no address or no gateway');
  const guest = parseAddress(name, address);
  if (!isIPv4(gateway)) throw refused(name, `gateway ${gateway} is no IPv4 address`);
  const { prefixLength } = guest;
  if (prefixLength < 1 || prefixLength > 30) throw refused(name, `a prefix length of ${prefixLength} leaves no room for a host and a guest`);
  if (networkOf(guest.address, prefixLength) !== networkOf(gateway, prefixLength)) throw refused(name, `gateway ${gateway} is outside ${address}`);
  for (const each of [guest.address, gateway]) {
    const position = (toNumber(each) - networkOf(each, prefixLength)) >>> 0;
    if (position === 0 || position === 2 ** (32 - prefixLength) - 1) throw refused(name, `${each} is the network's or the broadcast address`);
  }
  if (guest.address === gateway) throw refused(name, `${gateway} can not be both the guest and the gateway`);
  return { address: guest.address, subnet: { gateway, prefixLength } };
}

function parseAddress(name: string, text: string): { address: string; prefixLength: number } {
  const [address = '', prefix = ''] = text.split('/');
  if (address.includes(':')) throw new AppError('NETWORK_UNSUPPORTED', `network ${name}: IPv6 addresses of guests are not there yet`);
  const prefixLength = Number(prefix);
  if (!isIPv4(address) || !/^\d{1,2}$/.test(prefix) || prefixLength > 32) throw refused(name, `${text} is no IPv4 address with a prefix length`);
  return { address, prefixLength };
}

function refused(name: string, problem: string): AppError {
  return new AppError('INVALID_REQUEST', `network ${name}: ${problem}`);
}

/** The address as a number, 0..2^32-1. */
export function toNumber(address: string): number {
  return address.split('.').reduce((number, octet) => number * 256 + Number(octet), 0);
}

export function toAddress(number: number): string {
  return [number >>> 24, (number >>> 16) & 255, (number >>> 8) & 255, number & 255].join('.');
}

/** First address of the subnet that holds the address, as a number. */
export function networkOf(address: string, prefixLength: number): number {
  return prefixLength === 0 ? 0 : (toNumber(address) & (0xffffffff << (32 - prefixLength))) >>> 0;
}
