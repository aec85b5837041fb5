/** Network devices of the host as iproute2 shows them. Pure parsing; what to do about them is the caller's. */

export interface LinkAddress {
  readonly address: string;
  readonly prefixLength: number;
}

export interface Link {
  readonly name: string;
  /** Such as bridge, tun, veth; empty for real hardware. */
  readonly kind: string;
  /** The bridge it is a port of. */
  readonly master?: string;
  readonly alias?: string;
  /** The device that it is on top of. */
  readonly parent?: string;
  /** As a macvlan device. */
  readonly mode?: string;
  readonly mac?: string;
  readonly mtu?: number;
  readonly isUp: boolean;
  /** Of a tap: a program has it open. */
  readonly hasCarrier: boolean;
  /** Of a tap: the user that may open it. Absent also for one with a name that says nothing here. */
  readonly ownerId?: number;
  /** As a port of a bridge. */
  readonly isIsolated: boolean;
  /** As a bridge. */
  readonly filtersVlans: boolean;
  /** IPv4 only. */
  readonly addresses: readonly LinkAddress[];
}

/** From `ip -json -details address show`. Entries without a name are passed over. */
export function parseLinks(json: string): readonly Link[] {
  const listed: unknown = JSON.parse(json === '' ? '[]' : json);
  return Array.isArray(listed) ? listed.flatMap(parseLink) : [];
}

function parseLink(listed: unknown): readonly Link[] {
  const link = asRecord(listed);
  const name = link['ifname'];
  if (typeof name !== 'string') return [];
  const info = asRecord(link['linkinfo']);
  const flags = link['flags'];
  const { master, ifalias, link: parent, address: mac, mtu } = link;
  const mode = asRecord(info['info_data'])['mode'];
  const addresses = Array.isArray(link['addr_info']) ? link['addr_info'] : [];
  return [
    {
      name,
      kind: typeof info['info_kind'] === 'string' ? info['info_kind'] : '',
      ...(typeof master === 'string' ? { master } : {}),
      ...(typeof ifalias === 'string' ? { alias: ifalias } : {}),
      ...(typeof parent === 'string' ? { parent } : {}),
      ...(typeof mode === 'string' ? { mode } : {}),
      ...(typeof mac === 'string' ? { mac } : {}),
      ...(typeof mtu === 'number' ? { mtu } : {}),
      isUp: Array.isArray(flags) && flags.includes('UP'),
      hasCarrier: Array.isArray(flags) && flags.includes('LOWER_UP'),
      ...ownerOf(asRecord(info['info_data'])['user']),
      isIsolated: asRecord(info['info_slave_data'])['isolated'] === true,
      filtersVlans: asRecord(info['info_data'])['vlan_filtering'] === 1,
      addresses: addresses.flatMap(parseAddress),
    },
  ];
}

/** iproute2 shows a user by its name where it has one. */
function ownerOf(user: unknown): { ownerId?: number } {
  if (typeof user === 'number') return { ownerId: user };
  return user === 'root' ? { ownerId: 0 } : {};
}

function parseAddress(listed: unknown): readonly LinkAddress[] {
  const { family, local, prefixlen } = asRecord(listed);
  return family === 'inet' && typeof local === 'string' && typeof prefixlen === 'number' ? [{ address: local, prefixLength: prefixlen }] : [];
}

/** The one place where iproute2's answer gets a shape; each value is checked where it is used. */
function asRecord(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

export interface Listener {
  readonly protocol: 'tcp' | 'udp';
  readonly port: number;
}

/** From `ss --no-header --listening --numeric --tcp --udp`: programs that would lose their port to a guest. Those on loopback keep it. */
export function parseListeners(text: string): readonly Listener[] {
  return text.split('\n').flatMap((line) => {
    const [protocol, , , , local = ''] = line.trim().split(/\s+/);
    const port = Number(local.slice(local.lastIndexOf(':') + 1));
    if ((protocol !== 'tcp' && protocol !== 'udp') || !Number.isInteger(port) || port < 1) return [];
    return /^(127\.|\[::1\]|\[::ffff:127\.)/.test(local) ? [] : [{ protocol, port }];
  });
}
