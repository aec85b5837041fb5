/**
 * Which addresses and ports of a host a microVM gets for the networks that its spec asks for. Pure: from what the spec
 * asks, what the microVM holds already and what others hold on that host. The statements are microvm-networks.ts'.
 *
 * What is held stays as long as the spec allows it, so that a changed list of ports keeps addresses. What the spec names
 * goes before what is chosen. Refuses as a whole: either everything is given or nothing.
 */
import type { NetworkRequest, NetworkSpec, PortForward, PortRequest } from '#api/model/microvm.ts';
import type { NetworkProblem } from '#controller/ports/microvm-store.ts';

/** Ports that are chosen when a spec names none: below those that Linux gives to outgoing connections. */
export const chosenPorts = { first: 20_000, last: 29_999 } as const;

export interface HeldThing {
  readonly network: string;
  /** Empty for an address. */
  readonly port: string;
  readonly space: 'address' | 'tcp' | 'udp';
  /** An address without its prefix length, or the number of a port. */
  readonly value: string;
  readonly isMesh: boolean;
  /** Of an address; null for a port. */
  readonly subnet: string | null;
  readonly gateway: string | null;
}

export interface OthersHold {
  readonly space: HeldThing['space'];
  readonly value: string;
  readonly gateway: string | null;
  /** Name of the microVM that has it. */
  readonly holder: string;
}

export interface AllocationInput {
  readonly requests: readonly NetworkRequest[];
  /** Of this microVM on this host. */
  readonly own: readonly (HeldThing & { readonly isRetired: boolean })[];
  /** Of all others on this host. */
  readonly others: readonly OthersHold[];
  /** Ranges in CIDR form, /8 to /29; the mesh's is null when the host has none. */
  readonly natSubnet: string;
  readonly meshSubnet: string | null;
  readonly hostName: string;
}

export type Allocation =
  | { readonly ok: true; readonly networks: readonly NetworkSpec[]; readonly holds: readonly HeldThing[] }
  | { readonly ok: false; readonly problem: NetworkProblem };

class Refusal extends Error {
  readonly problem: NetworkProblem;
  constructor(code: NetworkProblem['code'], message: string) {
    super(message);
    this.problem = { code, message };
  }
}

export function allocate(input: AllocationInput): Allocation {
  try {
    return { ok: true, ...new Allocator(input).run() };
  } catch (error) {
    if (error instanceof Refusal) return { ok: false, problem: error.problem };
    throw error;
  }
}

/** The state of one allocation: what is given so far. */
class Allocator {
  readonly #input: AllocationInput;
  readonly #others: ReadonlyMap<string, OthersHold>;
  readonly #given = new Map<string, HeldThing>();
  /** Everything that may not be chosen freely. */
  readonly #taken: Set<string>;

  constructor(input: AllocationInput) {
    this.#input = input;
    this.#others = new Map(input.others.map((hold) => [keyOf(hold), hold]));
    // A running guest may use what it held before, under another name, until its next start.
    this.#taken = new Set([...input.others, ...input.own].map(keyOf));
    for (const { gateway } of [...input.others, ...input.own]) if (gateway !== null) this.#taken.add(keyOf({ space: 'address', value: gateway }));
  }

  run(): { readonly networks: readonly NetworkSpec[]; readonly holds: readonly HeldThing[] } {
    const { requests } = this.#input;
    for (const request of requests) {
      if (request.address !== undefined && isRouted(request)) this.#take(this.#named(request, request.address), `networks[${request.name}].address`);
      for (const port of request.ports) if (port.hostPort !== undefined) this.#take(holdOfPort(request, port, port.hostPort), portLabel(request, port));
    }
    return { networks: requests.map((request) => this.#complete(request)), holds: [...this.#given.values()] };
  }

  #complete(request: NetworkRequest): NetworkSpec {
    const { ports: asked, address: _asked, ...rest } = request;
    const ports = asked.map((port): PortForward => ({ ...port, hostPort: port.hostPort ?? this.#choosePort(request, port) }));
    if (!isRouted(request)) return { ...request, ports };
    const held = request.address === undefined ? this.#chooseAddress(request) : this.#given.get(keyOf({ space: 'address', value: bare(request.address) }));
    if (held === undefined) throw new Error('an address that was given is not there');
    return { ...rest, address: `${held.value}/${prefixLengthOf(held.subnet ?? '')}`, gateway: held.gateway ?? '', ports };
  }

  /** An address that the spec names. */
  #named(request: NetworkRequest, address: string): HeldThing {
    const value = bare(address);
    const kept = this.#own(request).find((hold) => hold.value === value);
    if (kept !== undefined) return held(request, '', kept);
    const subnet = this.#subnetOf(request);
    const label = `networks[${request.name}].address ${address}`;
    const { prefixLength, first, size } = rangeOf(subnet);
    const position = toNumber(value) - first;
    const isInside = position >= 2 && position <= size - 2;
    if (!isInside || prefixLengthOf(address) !== prefixLength) {
      throw new Refusal('ADDRESS_OUTSIDE_SUBNET', `${label}: host ${this.#input.hostName} has ${subnet} for ${request.kind} guests; write one from ${toAddress(first + 2)}/${prefixLength} to ${toAddress(first + size - 2)}/${prefixLength}, or leave address out`);
    }
    return held(request, '', { space: 'address', value, isMesh: request.kind === 'mesh', subnet, gateway: toAddress(first + 1) });
  }

  #chooseAddress(request: NetworkRequest): HeldThing {
    const candidates = this.#own(request).filter((hold) => hold.network === request.name && !this.#given.has(keyOf(hold)));
    const kept = candidates.find(({ isRetired }) => !isRetired) ?? candidates[0];
    if (kept !== undefined) return this.#give(held(request, '', kept));
    const subnet = this.#subnetOf(request);
    const { first, size } = rangeOf(subnet);
    for (let position = 2; position <= size - 2; position += 1) {
      const value = toAddress(first + position);
      const hold = held(request, '', { space: 'address', value, isMesh: request.kind === 'mesh', subnet, gateway: toAddress(first + 1) });
      if (!this.#taken.has(keyOf(hold))) return this.#give(hold);
    }
    throw new Refusal('ADDRESSES_EXHAUSTED', `networks[${request.name}]: all ${size - 3} addresses of ${subnet} for ${request.kind} guests of host ${this.#input.hostName} are held; delete microVMs there, or choose another host with placement.hostName`);
  }

  /** Addresses of this microVM that such a network may keep: those of the mesh only while the subnet is the host's. */
  #own(request: NetworkRequest): readonly (HeldThing & { readonly isRetired: boolean })[] {
    const isMesh = request.kind === 'mesh';
    return this.#input.own.filter((hold) => hold.space === 'address' && hold.isMesh === isMesh && (!isMesh || hold.subnet === this.#input.meshSubnet));
  }

  #subnetOf(request: NetworkRequest): string {
    const { natSubnet, meshSubnet, hostName } = this.#input;
    if (request.kind === 'nat') return natSubnet;
    if (meshSubnet !== null) return meshSubnet;
    throw new Refusal('MESH_SUBNET_MISSING', `networks[${request.name}]: host ${hostName} has no mesh subnet; give its Site a spec.mesh and look at the condition MeshReady of the Site, or connect the network with nat`);
  }

  #choosePort(request: NetworkRequest, port: PortRequest): number {
    const kept = this.#input.own.find((hold) => hold.space === port.protocol && hold.network === request.name && hold.port === port.name && !this.#given.has(keyOf(hold)));
    if (kept !== undefined) return Number(this.#give(holdOfPort(request, port, Number(kept.value))).value);
    for (let number: number = chosenPorts.first; number <= chosenPorts.last; number += 1) {
      const hold = holdOfPort(request, port, number);
      if (this.#taken.has(keyOf(hold))) continue;
      this.#give(hold);
      return number;
    }
    throw new Refusal('PORTS_EXHAUSTED', `${portLabel(request, port)}: host ${this.#input.hostName} has no free ${port.protocol} port from ${chosenPorts.first} to ${chosenPorts.last}; write hostPort`);
  }

  #take(hold: HeldThing, label: string): void {
    const other = this.#others.get(keyOf(hold));
    const isPort = hold.space !== 'address';
    const what = isPort ? `${hold.space} port ${hold.value}` : `address ${hold.value}`;
    const code = isPort ? 'PORT_IN_USE' : 'ADDRESS_IN_USE';
    const remedy = isPort ? 'choose another hostPort, leave it out, or choose another host with placement.hostName' : 'choose another, or leave address out';
    if (other !== undefined) throw new Refusal(code, `${label}: ${what} of host ${this.#input.hostName} belongs to microVM ${other.holder}; ${remedy}`);
    if (this.#given.has(keyOf(hold))) throw new Refusal(code, `${label}: the spec asks for ${what} twice; ${remedy}`);
    this.#give(hold);
  }

  #give(hold: HeldThing): HeldThing {
    this.#given.set(keyOf(hold), hold);
    this.#taken.add(keyOf(hold));
    return hold;
  }
}

/** Names what exists once on a host. */
export function keyOf({ space, value }: { readonly space: string; readonly value: string }): string {
  return `${space} ${value}`;
}

/** The host is on the guest's subnet and gives the address. */
function isRouted({ kind }: NetworkRequest): boolean {
  return kind === 'nat' || kind === 'mesh';
}

function held({ name }: NetworkRequest, port: string, { space, value, isMesh, subnet, gateway }: Omit<HeldThing, 'network' | 'port'>): HeldThing {
  return { network: name, port, space, value, isMesh, subnet, gateway };
}

function holdOfPort(request: NetworkRequest, port: PortRequest, number: number): HeldThing {
  return held(request, port.name, { space: port.protocol, value: String(number), isMesh: false, subnet: null, gateway: null });
}

const portLabel = (request: NetworkRequest, port: PortRequest): string => `networks[${request.name}].ports[${port.name}]`;

function bare(address: string): string {
  return address.split('/')[0] ?? '';
}

function prefixLengthOf(cidr: string): number {
  return Number(cidr.split('/')[1]);
}

interface Range {
  readonly first: number;
  readonly size: number;
  readonly prefixLength: number;
}

function rangeOf(cidr: string): Range {
  const prefixLength = prefixLengthOf(cidr);
  return { first: toNumber(bare(cidr)), size: 2 ** (32 - prefixLength), prefixLength };
}

function toNumber(address: string): number {
  return address.split('.').reduce((number, octet) => number * 256 + Number(octet), 0);
}

function toAddress(number: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join('.');
}
