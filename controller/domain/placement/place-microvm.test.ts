import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { vmmOverheadBytes } from '#api/model/capacity.ts';
import { hostId } from '#api/model/ids.ts';
import { placeMicroVM, type CandidateHost, type PlacementRequest } from './place-microvm.ts';

const gib = 2 ** 30;

function host(index: number, changes: Partial<CandidateHost> = {}): CandidateHost {
  return {
    hostId: hostId(`00000000-0000-4000-8000-${String(index).padStart(12, '0')}`),
    name: `edge-${index}`,
    labels: {},
    isRevoked: false,
    isDeleting: false,
    isQuarantined: false,
    isApproved: true,
    isUnschedulable: false,
    isOnline: true,
    hasHypervisor: true,
    capacity: { cpuCount: 4, memoryBytes: 8 * gib, reservedCpus: 0, reservedMemoryBytes: 0 },
    allocated: { cpus: 0, memoryBytes: 0 },
    ...changes,
  };
}

const request: PlacementRequest = { cpuCount: 1, memoryBytes: gib, hostName: null, matchLabels: {} };

describe('placement', () => {
  it('takes the host with most free memory, and of equal ones the first by name', () => {
    const hosts = [host(3), host(1, { allocated: { cpus: 0, memoryBytes: gib } }), host(2)];
    expect(placeMicroVM(request, hosts)).toMatchObject({ outcome: 'placed', hostName: 'edge-2' });
  });

  it('counts each host under the first reason that excludes it', () => {
    const hosts = [host(1, { isOnline: false }), host(2, { isOnline: false, hasHypervisor: false }), host(3, { allocated: { cpus: 0, memoryBytes: 8 * gib } })];
    expect(placeMicroVM(request, hosts)).toEqual({ outcome: 'unplaced', code: 'NO_HOST_FITS', message: '0 of 3 hosts fit: 2 are silent, 1 lacks memory' });
  });

  it('says that a named host does not exist, or why it does not fit', () => {
    expect(placeMicroVM({ ...request, hostName: 'nowhere' }, [host(1)])).toMatchObject({ code: 'HOST_NOT_FOUND', message: 'the site has no enrolled host nowhere' });
    expect(placeMicroVM({ ...request, hostName: 'edge-1' }, [host(1, { isUnschedulable: true }), host(2)])).toMatchObject({
      message: '0 of 2 hosts fit: 1 has another name, 1 is unschedulable',
    });
  });

  it('says that nothing is enrolled', () => {
    expect(placeMicroVM(request, [])).toMatchObject({ code: 'NO_HOST_FITS', message: expect.stringContaining('no machine is enrolled') });
  });

  it('counts the memory of the VMM itself', () => {
    const exact = { cpuCount: 4, memoryBytes: gib + vmmOverheadBytes, reservedCpus: 0, reservedMemoryBytes: 0 };
    expect(placeMicroVM(request, [host(1, { capacity: exact })]).outcome).toBe('placed');
    expect(placeMicroVM(request, [host(1, { capacity: { ...exact, memoryBytes: exact.memoryBytes - 1 } })]).outcome).toBe('unplaced');
  });

  const anyHost = fc.record({
    index: fc.integer({ min: 1, max: 50 }),
    isOnline: fc.boolean(),
    isApproved: fc.boolean(),
    isUnschedulable: fc.boolean(),
    hasHypervisor: fc.boolean(),
    used: fc.integer({ min: 0, max: 9 }),
    zone: fc.constantFrom('a', 'b'),
  });
  const anyHosts = fc.uniqueArray(anyHost, { selector: ({ index }) => index, maxLength: 12 }).map((list) =>
    list.map(({ index, used, zone, ...flags }) => host(index, { ...flags, labels: { zone }, allocated: { cpus: used * 8, memoryBytes: used * gib } })),
  );
  const anyRequest = fc.record({
    cpuCount: fc.integer({ min: 1, max: 64 }),
    memoryBytes: fc.integer({ min: 1, max: 9 }).map((size) => size * gib),
    hostName: fc.constant(null),
    matchLabels: fc.constantFrom({}, { zone: 'a' }),
  });

  it('does not depend on the order of the hosts', () => {
    fc.assert(
      fc.property(anyRequest, anyHosts.chain((hosts) => fc.tuple(fc.constant(hosts), fc.shuffledSubarray(hosts, { minLength: hosts.length }))), (wanted, [hosts, shuffled]) => {
        expect(placeMicroVM(wanted, shuffled)).toEqual(placeMicroVM(wanted, hosts));
      }),
    );
  });

  it('chooses only hosts that can take it, and otherwise accounts for every host once', () => {
    fc.assert(
      fc.property(anyRequest, anyHosts, (wanted, hosts) => {
        const placement = placeMicroVM(wanted, hosts);
        if (placement.outcome === 'placed') {
          const chosen = hosts.find(({ hostId: id }) => id === placement.hostId);
          expect(chosen).toMatchObject({ isOnline: true, isApproved: true, isUnschedulable: false, hasHypervisor: true, labels: wanted.matchLabels });
          expect((chosen?.allocated.memoryBytes ?? 0) + wanted.memoryBytes).toBeLessThan(8 * gib);
        } else if (hosts.length > 0) {
          const counted = [...placement.message.matchAll(/(?::|,) (\d+) /g)].reduce((sum, [, count]) => sum + Number(count), 0);
          expect(counted).toBe(hosts.length);
        }
      }),
    );
  });
});
