import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { NetworkRequest, PortRequest } from '#api/model/microvm.ts';
import { allocate, chosenPorts, keyOf, type AllocationInput, type HeldThing } from './guest-allocation.ts';

const mac = '02:00:00:00:00:01';
const nat = (fields: Partial<NetworkRequest> = {}): NetworkRequest => ({ name: 'lan', kind: 'nat', mac, ports: [], ...fields });
const mesh = (fields: Partial<NetworkRequest> = {}): NetworkRequest => ({ name: 'mesh', kind: 'mesh', mac, ports: [], ...fields });
const web = (fields: Partial<PortRequest> = {}): PortRequest => ({ name: 'web', protocol: 'tcp', guestPort: 80, ...fields });
const input = (requests: readonly NetworkRequest[], fields: Partial<AllocationInput> = {}): AllocationInput => ({
  requests, own: [], others: [], natSubnet: '10.87.0.0/28', meshSubnet: '10.96.3.0/24', hostName: 'edge-1', ...fields,
});

function given(result: ReturnType<typeof allocate>): Extract<ReturnType<typeof allocate>, { ok: true }> {
  if (!result.ok) throw new Error(result.problem.message);
  return result;
}
const held = (holds: readonly HeldThing[], isRetired = false) => holds.map((hold) => ({ ...hold, isRetired }));
const address = (value: string, holder = 'other') => ({ space: 'address' as const, value, gateway: '10.87.0.1', holder });

describe('what a microVM gets of its host', () => {
  it('is an address behind the gateway for nat and mesh, none for bridge, and a port where none is named', () => {
    const { networks } = given(allocate(input([nat({ ports: [web(), web({ name: 'dns', protocol: 'udp', hostPort: 53 })] }), mesh(), nat({ name: 'br', kind: 'bridge', bridgeName: 'br0' })])));
    expect(networks).toEqual([
      { name: 'lan', kind: 'nat', mac, address: '10.87.0.2/28', gateway: '10.87.0.1', ports: [{ ...web(), hostPort: 20_000 }, { ...web({ name: 'dns', protocol: 'udp' }), hostPort: 53 }] },
      { name: 'mesh', kind: 'mesh', mac, address: '10.96.3.2/24', gateway: '10.96.3.1', ports: [] },
      { name: 'br', kind: 'bridge', mac, bridgeName: 'br0', ports: [] },
    ]);
  });

  it('stays when the list of ports changes, and a port stays under its name', () => {
    const first = given(allocate(input([nat({ ports: [web()] }), mesh()], { others: [address('10.87.0.2')] })));
    const second = given(allocate(input([nat({ ports: [web({ name: 'ssh', guestPort: 22 }), web()] }), mesh()], { own: held(first.holds), others: [] })));
    expect(second.networks.map((network) => network.address)).toEqual(first.networks.map((network) => network.address));
    expect(second.networks[0]?.ports).toMatchObject([{ name: 'ssh', hostPort: 20_001 }, { name: 'web', hostPort: 20_000 }]);
  });

  it('stays when the range changes, but for an address of a mesh subnet that the host has lost', () => {
    const first = given(allocate(input([nat(), mesh()])));
    const second = given(allocate(input([nat(), mesh()], { own: held(first.holds), natSubnet: '10.99.0.0/20', meshSubnet: '10.97.0.0/24' })));
    expect(second.networks.map((network) => network.address)).toEqual(['10.87.0.2/28', '10.97.0.2/24']);
  });

  it('is what the spec names, before anything that is chosen', () => {
    const { networks } = given(allocate(input([nat({ ports: [web()] }), nat({ name: 'b', address: '10.87.0.2/28', ports: [web({ hostPort: 20_000 })] })])));
    expect(networks.map((network) => [network.address, network.ports[0]?.hostPort])).toEqual([['10.87.0.3/28', 20_001], ['10.87.0.2/28', 20_000]]);
  });

  it.each([
    ['ADDRESS_IN_USE', 'microVM other', input([nat({ address: '10.87.0.5/28' })], { others: [address('10.87.0.5')] })],
    ['ADDRESS_IN_USE', 'twice', input([nat({ address: '10.87.0.5/28' }), nat({ name: 'b', address: '10.87.0.5/28' })])],
    ['PORT_IN_USE', 'choose another hostPort', input([nat({ ports: [web({ hostPort: 80 })] })], { others: [{ space: 'tcp', value: '80', gateway: null, holder: 'other' }] })],
    ['ADDRESS_OUTSIDE_SUBNET', '10.87.0.2/28 to 10.87.0.14/28', input([nat({ address: '10.88.0.5/28' })])],
    ['ADDRESS_OUTSIDE_SUBNET', 'leave address out', input([nat({ address: '10.87.0.1/28' })])],
    ['ADDRESS_OUTSIDE_SUBNET', 'leave address out', input([nat({ address: '10.87.0.15/28' })])],
    ['ADDRESS_OUTSIDE_SUBNET', '/28', input([nat({ address: '10.87.0.5/24' })])],
    ['MESH_SUBNET_MISSING', 'spec.mesh', input([mesh()], { meshSubnet: null })],
    ['ADDRESSES_EXHAUSTED', 'all 13 addresses', input([nat()], { others: Array.from({ length: 13 }, (_, index) => address(`10.87.0.${index + 2}`)) })],
  ] as const)('is refused as %s, naming %s', (code, part, from) => {
    expect(allocate(from)).toEqual({ ok: false, problem: { code, message: expect.stringContaining(part) } });
  });

  it('is refused when all ports to choose from are held', () => {
    const others = Array.from({ length: chosenPorts.last - chosenPorts.first + 1 }, (_, index) => ({ space: 'tcp' as const, value: String(chosenPorts.first + index), gateway: null, holder: 'other' }));
    expect(allocate(input([nat({ ports: [web()] })], { others }))).toMatchObject({ ok: false, problem: { code: 'PORTS_EXHAUSTED' } });
    expect(allocate(input([nat({ ports: [web({ protocol: 'udp' })] })], { others }))).toMatchObject({ ok: true });
  });

  it('is never what another one holds, nor a gateway, and never one thing twice, whatever is asked in whatever order', () => {
    const port = fc.record({ name: fc.constantFrom('a', 'b', 'c'), protocol: fc.constantFrom('tcp' as const, 'udp' as const), guestPort: fc.constant(80), hostPort: fc.integer({ min: 19_999, max: 20_002 }) }, { requiredKeys: ['name', 'protocol', 'guestPort'] });
    const request = fc.record({ kind: fc.constantFrom('nat' as const, 'mesh' as const), address: fc.integer({ min: 0, max: 15 }).map((last) => `10.87.0.${last}/28`), ports: fc.uniqueArray(port, { selector: ({ name }) => name, maxLength: 3 }) }, { requiredKeys: ['kind', 'ports'] });
    const requests = fc.array(request, { maxLength: 4 }).map((list): readonly NetworkRequest[] => list.map((each, index) => ({ name: `n${index}`, mac, ...each, ports: each.kind === 'mesh' ? [] : each.ports })));
    fc.assert(fc.property(fc.array(requests, { minLength: 1, maxLength: 6 }), (lives) => {
      const holds = new Map<number, readonly HeldThing[]>();
      for (const [index, asked] of [...lives, ...lives.toReversed()].entries()) {
        const who = index % 3;
        const others = [...holds].filter(([other]) => other !== who).flatMap(([, theirs]) => theirs.map((hold) => ({ ...hold, holder: 'x' })));
        const before = holds.get(who) ?? [];
        const result = allocate(input(asked, { own: held(before), others }));
        if (!result.ok) continue;
        const keys = result.holds.map(keyOf);
        expect(new Set(keys).size).toBe(keys.length);
        expect(keys.filter((key) => others.some((other) => keyOf(other) === key))).toEqual([]);
        expect(keys.filter((key) => /^address (10\.87\.0\.(0|1|15)|10\.96\.3\.(0|1|255))$/.test(key))).toEqual([]);
        holds.set(who, result.holds);
        // The same spec again changes nothing.
        expect(allocate(input(asked, { own: held(result.holds), others }))).toEqual(result);
      }
    }));
  });
});
