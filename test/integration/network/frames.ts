/** Frames as text for the network tests: hexadecimal, correct to the checksum of IP. Pure. */

export interface UdpFrame {
  readonly fromMac: string;
  readonly toMac: string;
  readonly from: string;
  readonly to: string;
  readonly fromPort?: number;
  readonly toPort?: number;
  readonly payload: string;
  /** 802.1Q tag. */
  readonly vlan?: number;
}

export const broadcastMac = 'ff:ff:ff:ff:ff:ff';

export function udpFrame({ fromMac, toMac, from, to, fromPort = 1000, toPort = 9, payload, vlan }: UdpFrame): string {
  const data = Buffer.from(payload, 'latin1');
  const udp = Buffer.alloc(8);
  udp.writeUInt16BE(fromPort, 0);
  udp.writeUInt16BE(toPort, 2);
  udp.writeUInt16BE(8 + data.length, 4);
  const ip = Buffer.alloc(20);
  ip.writeUInt8(0x45, 0);
  ip.writeUInt16BE(28 + data.length, 2);
  ip.writeUInt8(64, 8);
  ip.writeUInt8(17, 9);
  address(from).copy(ip, 12);
  address(to).copy(ip, 16);
  ip.writeUInt16BE(checksum(ip), 10);
  return ethernet(fromMac, toMac, 0x0800, Buffer.concat([ip, udp, data]), vlan);
}

/** An ARP reply that says: `ip` is at `mac`. */
export function arpFrame({ fromMac, mac, ip, to }: { readonly fromMac: string; readonly mac: string; readonly ip: string; readonly to: string }): string {
  const body = Buffer.concat([Buffer.from('0001080006040002', 'hex'), bytes(mac), address(ip), bytes(broadcastMac), address(to)]);
  return ethernet(fromMac, broadcastMac, 0x0806, body);
}

export function ethernet(fromMac: string, toMac: string, type: number, body: Buffer, vlan?: number): string {
  const kind = Buffer.alloc(vlan === undefined ? 2 : 6);
  kind.writeUInt16BE(type, kind.length - 2);
  if (vlan !== undefined) kind.writeUInt32BE(0x8100_0000 + vlan, 0);
  return Buffer.concat([bytes(toMac), bytes(fromMac), kind, body, Buffer.alloc(Math.max(0, 46 - body.length))]).toString('hex');
}

/** A DHCP request of a guest; the type is 1 for DISCOVER and 3 for REQUEST. */
export function dhcpFrame({ mac, type, requested, server }: { readonly mac: string; readonly type: 1 | 3; readonly requested?: string; readonly server?: string }): string {
  const body = Buffer.alloc(240);
  body.set([1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78], 0);
  bytes(mac).copy(body, 28);
  body.writeUInt32BE(0x63825363, 236);
  const option = (code: number, value: Buffer): Buffer => Buffer.concat([Buffer.from([code, value.length]), value]);
  const options = [option(53, Buffer.from([type])), option(55, Buffer.from([1, 3, 6])), ...(requested === undefined ? [] : [option(50, address(requested))]), ...(server === undefined ? [] : [option(54, address(server))]), Buffer.from([255])];
  const payload = Buffer.concat([body, ...options]).toString('latin1');
  return udpFrame({ fromMac: mac, toMac: broadcastMac, from: '0.0.0.0', to: '255.255.255.255', fromPort: 68, toPort: 67, payload });
}

export interface DhcpAnswer {
  /** 2 for OFFER, 5 for ACK, 6 for NAK. */
  readonly type: number;
  readonly address: string;
  readonly options: ReadonlyMap<number, string>;
}

/** Null for any other frame. */
export function parseDhcpAnswer(hex: string): DhcpAnswer | null {
  const frame = Buffer.from(hex, 'hex');
  if (frame.length < 282 || frame.readUInt16BE(12) !== 0x0800 || frame[23] !== 17 || frame.readUInt16BE(34) !== 67) return null;
  const body = frame.subarray(42);
  const options = new Map<number, string>();
  for (let at = 240; at < body.length && body[at] !== 255; at += 2 + (body[at + 1] ?? 0)) options.set(body[at] ?? 0, body.subarray(at + 2, at + 2 + (body[at + 1] ?? 0)).toString('hex'));
  return { type: Number.parseInt(options.get(53) ?? '0', 16), address: body.subarray(16, 20).join('.'), options };
}

export function hexAddress(text: string): string {
  return address(text).toString('hex');
}

export function hexText(text: string): string {
  return Buffer.from(text, 'latin1').toString('hex');
}

function bytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(':', ''), 'hex');
}

function address(ip: string): Buffer {
  return Buffer.from(ip.split('.').map(Number));
}

function checksum(header: Buffer): number {
  let sum = 0;
  for (let at = 0; at < header.length; at += 2) sum += header.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
