import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { allocatable, required, vmmOverheadBytes } from '#api/model/capacity.ts';
import type { HostId } from '#api/model/ids.ts';
import { boundMicroVM, candidateHost, gib, hostIdOf, microvmIdOf, placementRequest, siteIndex } from '#test/builders/placement.ts';
import { hostNameKey, isTolerated, matches, type BoundMicroVM, type CandidateHost, type PlacementRequest } from './model.ts';
import { placeMicroVM } from './place-microvm.ts';
import { createSiteIndex, type SiteIndex } from './site-index.ts';

const online = (): boolean => true;
const place = (request: Partial<PlacementRequest>, hosts: readonly CandidateHost[], bound: readonly BoundMicroVM[] = [], isOnline: (id: HostId) => boolean = online) =>
  placeMicroVM(placementRequest(request), siteIndex(hosts, bound), isOnline);
const zone = (value: string): Partial<CandidateHost> => ({ labels: { zone: value } });
const app = (name: string): Pick<BoundMicroVM, 'labels'> => ({ labels: { app: name } });
const term = (topologyKey: string, isRequired = true) => ({ matchLabels: { app: 'web' }, topologyKey, isRequired });

describe('the choice', () => {
  it('takes the host with most free memory, and of equal ones the first by name', () => {
    expect(place({}, [candidateHost(3), candidateHost(1), candidateHost(2)], [boundMicroVM(1, 1)])).toMatchObject({ outcome: 'placed', hostName: 'edge-2' });
  });

  it('counts the memory of the VMM itself, reservations and overcommit', () => {
    const exact = { cpuCount: 4, memoryBytes: gib + vmmOverheadBytes, reservedCpus: 0, reservedMemoryBytes: 0 };
    const fits = (capacity: CandidateHost['capacity'], request: Partial<PlacementRequest> = {}): string => place(request, [candidateHost(1, { capacity })]).outcome;
    expect(fits(exact)).toBe('placed');
    expect(fits({ ...exact, memoryBytes: exact.memoryBytes - 1 })).toBe('unplaced');
    expect(fits({ ...exact, reservedMemoryBytes: 1 })).toBe('unplaced');
    expect(fits({ ...exact, memoryBytes: (gib + vmmOverheadBytes) / 2, overcommitMemoryPercent: 200 })).toBe('placed');
    expect(fits({ ...exact, overcommitCpuPercent: 100 }, { cpuCount: 5 })).toBe('unplaced');
    expect(fits({ ...exact, overcommitCpuPercent: 150 }, { cpuCount: 6 })).toBe('placed');
  });

  it('honours taints unless they are tolerated', () => {
    const tainted = [candidateHost(1, { taints: [{ key: 'gpu', value: 'yes', effect: 'NoSchedule' }] })];
    expect(place({}, tainted)).toMatchObject({ message: '0 of 1 host fits: 1 has a taint that is not tolerated' });
    expect(place({ tolerations: [{ key: 'gpu', operator: 'Equal', value: 'no' }] }, tainted).outcome).toBe('unplaced');
    expect(place({ tolerations: [{ key: 'gpu', operator: 'Equal', value: 'yes' }] }, tainted).outcome).toBe('placed');
    expect(place({ tolerations: [{ operator: 'Exists', value: '', effect: 'NoExecute' }] }, tainted).outcome).toBe('unplaced');
    expect(place({ tolerations: [{ operator: 'Exists', value: '' }] }, tainted).outcome).toBe('placed');
  });

  it('goes where such microVMs are, and the first of a kind anywhere', () => {
    const hosts = [candidateHost(1, zone('a')), candidateHost(2, zone('b')), candidateHost(3, zone('b'))];
    expect(place({ together: [term('zone')] }, hosts, [boundMicroVM(1, 2, app('web'))])).toMatchObject({ hostName: 'edge-3' });
    expect(place({ together: [term('zone')] }, hosts)).toMatchObject({ message: '0 of 3 hosts fit: 3 are not together with the microVMs of affinity.together' });
    expect(place({ together: [term('zone')], labels: { app: 'web' } }, hosts)).toMatchObject({ hostName: 'edge-1' });
  });

  it('keeps apart, in both directions', () => {
    const hosts = [candidateHost(1), candidateHost(2)];
    expect(place({ apart: [term(hostNameKey)] }, hosts, [boundMicroVM(1, 1, { ...app('web'), memoryBytes: 0 })])).toMatchObject({ hostName: 'edge-2' });
    const shy = boundMicroVM(1, 1, { apart: [term(hostNameKey)], memoryBytes: 0 });
    expect(place({ labels: { app: 'web' } }, hosts, [shy])).toMatchObject({ hostName: 'edge-2' });
    expect(place({ labels: { app: 'other' } }, hosts, [shy])).toMatchObject({ hostName: 'edge-1' });
    expect(place({ labels: { app: 'web' } }, [candidateHost(1)], [shy])).toMatchObject({ message: '0 of 1 host fits: 1 has microVMs that must be apart' });
  });

  it('follows wishes when it can and does without them when it can not', () => {
    const hosts = [candidateHost(1, zone('a')), candidateHost(2, { ...zone('b'), capacity: { cpuCount: 4, memoryBytes: 4 * gib, reservedCpus: 0, reservedMemoryBytes: 0 } })];
    expect(place({ apart: [term('zone', false)] }, hosts, [boundMicroVM(1, 1, app('web'))])).toMatchObject({ hostName: 'edge-2' });
    expect(place({ apart: [term('zone', false)], memoryBytes: 5 * gib }, hosts, [boundMicroVM(1, 1, app('web'))])).toMatchObject({ hostName: 'edge-1' });
  });
});

describe('the explanation', () => {
  it('[C8] says in one line how many hosts failed which predicate', () => {
    const kilo = (from: number, changes: Partial<CandidateHost>): CandidateHost[] => Array.from({ length: 10 }, (_, index) => candidateHost(from + index, changes));
    const hosts = [
      candidateHost(1, { isRevoked: true, ...zone('a') }),
      candidateHost(2, { isDeleting: true, ...zone('a') }),
      candidateHost(3, { isQuarantined: true, ...zone('a') }),
      candidateHost(4, { isApproved: false, ...zone('a') }),
      candidateHost(5, { isDraining: true, ...zone('a') }),
      candidateHost(6, { isUnschedulable: true, ...zone('a') }),
      candidateHost(7, zone('a')),
      candidateHost(8, { hasHypervisor: false, ...zone('a') }),
      candidateHost(9, { features: new Set(['kvm']), ...zone('a') }),
      candidateHost(10, { taints: [{ key: 'gpu', value: '', effect: 'NoSchedule' }], features: new Set(['kvm', 'net']), ...zone('a') }),
      ...kilo(20, { features: new Set(['kvm', 'net']), labels: { zone: 'b' } }),
      ...kilo(40, { features: new Set(['kvm', 'net']), labels: { zone: 'a', rack: 'r1' } }),
      ...kilo(60, { features: new Set(['kvm', 'net']), labels: { zone: 'a', rack: 'r2' }, capacity: { cpuCount: 1, memoryBytes: gib, reservedCpus: 0, reservedMemoryBytes: 0 } }),
      ...kilo(80, { features: new Set(['kvm', 'net']), labels: { zone: 'a', rack: 'r3' }, capacity: { cpuCount: 1, memoryBytes: 64 * gib, reservedCpus: 0, reservedMemoryBytes: 0 } }),
    ];
    const request = { matchLabels: { zone: 'a' }, features: ['kvm', 'net'], apart: [{ matchLabels: { app: 'web' }, topologyKey: 'rack', isRequired: true }], cpuCount: 20, memoryBytes: 2 * gib };
    expect(place(request, hosts, [boundMicroVM(1, 41, app('web'))], (id) => id !== hostIdOf(7))).toEqual({
      outcome: 'unplaced',
      code: 'NO_HOST_FITS',
      message:
        '0 of 50 hosts fit: 10 lack the labels of hostSelector, 1 is revoked, 1 is being deleted, 1 is quarantined, 1 awaits approval, 1 is draining, 1 is unschedulable, ' +
        '1 is silent, 1 has no usable hypervisor, 1 lacks a feature of the VMM, 1 has a taint that is not tolerated, 10 have microVMs that must be apart, 10 lack memory, 10 lack CPUs',
    });
  });

  it('says that a named host does not exist, or why it does not fit', () => {
    expect(place({ hostName: 'nowhere' }, [candidateHost(1)])).toMatchObject({ code: 'HOST_NOT_FOUND', message: 'the site has no enrolled host nowhere' });
    expect(place({ hostName: 'edge-1' }, [candidateHost(1, { isUnschedulable: true }), candidateHost(2)])).toMatchObject({ message: '0 of 2 hosts fit: 1 has another name, 1 is unschedulable' });
    expect(place({}, [])).toMatchObject({ code: 'NO_HOST_FITS', message: expect.stringContaining('no machine is enrolled') });
  });

  it('names the spread when nothing else is in the way', () => {
    const hosts = [candidateHost(1, zone('a')), candidateHost(2, zone('b'))];
    const spread = [{ matchLabels: { app: 'web' }, topologyKey: 'zone', maxSkew: 1, isRequired: true }];
    const full = boundMicroVM(9, 2, { memoryBytes: 8 * gib, isMovable: false });
    expect(place({ labels: { app: 'web' }, spread }, hosts, [boundMicroVM(1, 1, app('web')), full])).toMatchObject({ message: '0 of 2 hosts fit: 1 would break topologySpread, 1 lacks memory' });
  });
});

describe('preemption', () => {
  const full = (host: number, priority: number, changes: Partial<BoundMicroVM> = {}): BoundMicroVM[] =>
    [0, 1].map((index) => boundMicroVM(host * 10 + index, host, { memoryBytes: 4 * gib, priority, ...changes }));

  it('moves as few and as unimportant microVMs as it can, and says so', () => {
    const hosts = [candidateHost(1), candidateHost(2)];
    expect(place({ priority: 10 }, hosts, [...full(1, 5), ...full(2, 1)])).toEqual({
      outcome: 'preempting', hostId: hostIdOf(2), hostName: 'edge-2', victims: [microvmIdOf(21)],
      message: '0 of 2 hosts fit: 2 lack memory; it moves 1 of lower priority away on edge-2',
    });
  });

  it('spares equal priorities and what keeps data on its host', () => {
    expect(place({ priority: 5 }, [candidateHost(1)], full(1, 5)).outcome).toBe('unplaced');
    expect(place({ priority: 10 }, [candidateHost(1)], full(1, 5, { isMovable: false })).outcome).toBe('unplaced');
  });

  it('waits for what leaves instead of moving more', () => {
    const [first, second] = full(1, 5);
    if (first === undefined || second === undefined) throw new Error('two are made');
    expect(place({ priority: 10 }, [candidateHost(1)], [{ ...first, isLeaving: true }, second])).toMatchObject({ outcome: 'preempting', victims: [] });
  });

  it('keeps the room that was made from those of lower priority', () => {
    const index = siteIndex([candidateHost(1)], [boundMicroVM(1, 1, { memoryBytes: 5 * gib, isMovable: false })]);
    index.nominate(microvmIdOf(7), { hostId: hostIdOf(1), cpus: 1, memoryBytes: 2.5 * gib, priority: 10 });
    expect(placeMicroVM(placementRequest({ priority: 5 }), index, online).outcome).toBe('unplaced');
    expect(placeMicroVM(placementRequest({ priority: 5, microvmId: microvmIdOf(7) }), index, online).outcome).toBe('placed');
  });
});

describe('at 10,000 hosts', () => {
  const hosts = Array.from({ length: 10_000 }, (_, index) => candidateHost(index));

  it('[C8] looks at one host for one placement, and moves one host in the order for one binding', () => {
    const index = siteIndex(hosts);
    const before = { ...index.figures };
    for (let placed = 0; placed < 1_000; placed += 1) {
      const decision = placeMicroVM(placementRequest({ microvmId: microvmIdOf(placed) }), index, online);
      if (decision.outcome !== 'placed') throw new Error('there is room');
      index.bind({ ...boundMicroVM(placed, 0), hostId: decision.hostId, memoryBytes: gib + vmmOverheadBytes });
    }
    expect({ visited: index.figures.hostsVisited - before.hostsVisited, moved: index.figures.hostsMoved - before.hostsMoved }).toEqual({ visited: 1_000, moved: 1_000 });
    // One on each: the order was kept by every binding.
    expect(index.ordered().filter(({ bound }) => bound.size === 1)).toHaveLength(1_000);
  });

  it('[C8] looks at each host once to explain that none fits', () => {
    const index = siteIndex(hosts);
    expect(placeMicroVM(placementRequest({ memoryBytes: 1024 * gib }), index, online)).toMatchObject({ message: '0 of 10000 hosts fit: 10000 lack memory' });
    expect(index.figures.hostsVisited).toBe(10_000);
  });
});

// --- properties ---

const anyZone = fc.constantFrom('a', 'b', 'c');
const anyTaint = fc.record({ key: fc.constantFrom('gpu', 'arm'), value: fc.constantFrom('', 'x'), effect: fc.constantFrom('NoSchedule' as const, 'NoExecute' as const) });
const anyHost = fc.record({ zone: anyZone, taints: fc.array(anyTaint, { maxLength: 1 }), cpuCount: fc.integer({ min: 1, max: 4 }), memory: fc.integer({ min: 1, max: 8 }), isUnschedulable: fc.boolean(), isOnline: fc.boolean(), overcommit: fc.constantFrom(100, 150, 200) });
const anyRequest = fc.record({
  cpuCount: fc.integer({ min: 1, max: 4 }),
  memory: fc.integer({ min: 1, max: 3 }),
  labels: fc.constantFrom({}, { app: 'web' }),
  tolerations: fc.constantFrom([], [{ key: 'gpu', operator: 'Exists' as const, value: '' }], [{ operator: 'Exists' as const, value: '' }]),
  matchLabels: fc.constantFrom({}, { zone: 'a' }),
  apart: fc.constantFrom([], [term(hostNameKey)], [term('zone')]),
  spread: fc.constantFrom([], [{ matchLabels: { app: 'web' }, topologyKey: 'zone', maxSkew: 1, isRequired: true }]),
  priority: fc.integer({ min: 0, max: 2 }),
  isMovable: fc.boolean(),
});

interface Scene {
  readonly hosts: readonly CandidateHost[];
  readonly offline: ReadonlySet<HostId>;
  readonly requests: readonly { readonly request: PlacementRequest; readonly isMovable: boolean }[];
}

const anyScene: fc.Arbitrary<Scene> = fc.record({ hosts: fc.array(anyHost, { minLength: 1, maxLength: 8 }), requests: fc.array(anyRequest, { maxLength: 24 }) }).map(({ hosts, requests }) => ({
  hosts: hosts.map(({ zone: value, taints, cpuCount, memory, isUnschedulable, overcommit }, index) =>
    candidateHost(index, { labels: { zone: value }, taints, isUnschedulable, capacity: { cpuCount, memoryBytes: memory * gib, reservedCpus: 0, reservedMemoryBytes: 0, overcommitCpuPercent: overcommit, overcommitMemoryPercent: overcommit } }),
  ),
  offline: new Set(hosts.flatMap(({ isOnline }, index) => (isOnline ? [] : [hostIdOf(index)]))),
  requests: requests.map(({ memory, isMovable, ...request }, index) => ({ isMovable, request: placementRequest({ ...request, microvmId: microvmIdOf(index), memoryBytes: memory * gib }) })),
}));

function bindingFor(request: PlacementRequest, hostId: HostId, isMovable: boolean): BoundMicroVM {
  const need = required(request);
  return { microvmId: request.microvmId, hostId, labels: request.labels, cpus: need.cpus, memoryBytes: need.memoryBytes, priority: request.priority, isMovable, isLeaving: false, apart: request.apart };
}

/** Places one after another; victims leave at once. `check` sees each placement before it is bound. */
function play(scene: Scene, index: SiteIndex, check: (request: PlacementRequest, hostId: HostId) => void = () => {}): readonly string[] {
  return scene.requests.map(({ request, isMovable }) => {
    const decision = placeMicroVM(request, index, (id) => !scene.offline.has(id));
    if (decision.outcome === 'placed') {
      check(request, decision.hostId);
      index.bind(bindingFor(request, decision.hostId, isMovable));
    }
    if (decision.outcome === 'preempting') for (const victim of decision.victims) index.unbind(victim);
    return JSON.stringify(decision);
  });
}

describe('properties', () => {
  it('[C8] is never over capacity, whatever is placed and moved', () => {
    fc.assert(
      fc.property(anyScene, (scene) => {
        const index = siteIndex(scene.hosts);
        play(scene, index);
        for (const { host, bound, freeCpus, freeMemoryBytes } of index.ordered()) {
          const total = allocatable(host.capacity);
          const used = [...bound.values()].reduce((sum, { cpus, memoryBytes }) => ({ cpus: sum.cpus + cpus, memoryBytes: sum.memoryBytes + memoryBytes }), { cpus: 0, memoryBytes: 0 });
          expect(used.cpus).toBeLessThanOrEqual(total.cpus);
          expect(used.memoryBytes).toBeLessThanOrEqual(total.memoryBytes);
          expect({ freeCpus, freeMemoryBytes }).toEqual({ freeCpus: total.cpus - used.cpus, freeMemoryBytes: total.memoryBytes - used.memoryBytes });
        }
      }),
    );
  });

  it('[C8] honours taints, selectors, cordons and silence', () => {
    fc.assert(
      fc.property(anyScene, (scene) => {
        const index = siteIndex(scene.hosts);
        play(scene, index, (request, hostId) => {
          const host = index.byId(hostId)?.host;
          if (host === undefined) throw new Error('a chosen host exists');
          expect(host.taints.every((taint) => isTolerated(taint, request.tolerations))).toBe(true);
          expect(matches(host.labels, request.matchLabels) && !host.isUnschedulable && !scene.offline.has(hostId)).toBe(true);
        });
      }),
    );
  });

  it('[C8] keeps the spread within its bound and apart what must be apart', () => {
    fc.assert(
      fc.property(anyScene, (scene) => {
        const index = siteIndex(scene.hosts);
        play(scene, index, (request, hostId) => {
          const at = (id: HostId): string => index.byId(id)?.host.labels['zone'] ?? '';
          const web = [...index.findBound({ app: 'web' })];
          for (const { topologyKey } of request.apart) {
            expect(web.some((microvm) => (topologyKey === 'zone' ? at(microvm.hostId) === at(hostId) : microvm.hostId === hostId))).toBe(false);
          }
          for (const rule of request.spread) {
            const zones = new Set(scene.hosts.filter(({ labels }) => matches(labels, request.matchLabels)).map(({ labels }) => labels['zone'] ?? ''));
            const count = (name: string): number => web.filter((microvm) => at(microvm.hostId) === name).length + Number(name === at(hostId) && request.labels['app'] === 'web');
            expect(count(at(hostId)) - Math.min(...[...zones].map(count), count(at(hostId)))).toBeLessThanOrEqual(rule.maxSkew);
          }
        });
      }),
    );
  });

  it('[C8] gives the same answer for the same input, in whatever order hosts and bindings became known', () => {
    fc.assert(
      fc.property(anyScene.chain((scene) => fc.tuple(fc.constant(scene), fc.shuffledSubarray([...scene.hosts], { minLength: scene.hosts.length }))), ([scene, shuffled]) => {
        const index = siteIndex(scene.hosts);
        const answers = play(scene, index);
        expect(play(scene, siteIndex(shuffled))).toEqual(answers);
        // An index that grew by changes equals one that was made from its end.
        const rebuilt = createSiteIndex();
        const bound = index.ordered().flatMap((entry) => [...entry.bound.values()]);
        for (const microvm of bound.toReversed()) rebuilt.bind(microvm);
        for (const host of shuffled) rebuilt.putHost(host);
        const next = placementRequest({ priority: 1, memoryBytes: gib / 2 });
        expect(placeMicroVM(next, rebuilt, online)).toEqual(placeMicroVM(next, index, online));
      }),
    );
  });

  it('[C8] takes as victims only what has a lower priority and can move, and only as many as needed', () => {
    fc.assert(
      fc.property(anyScene, (scene) => {
        const index = siteIndex(scene.hosts);
        for (const { request, isMovable } of scene.requests) {
          const decision = placeMicroVM(request, index, (id) => !scene.offline.has(id));
          if (decision.outcome === 'placed') index.bind(bindingFor(request, decision.hostId, isMovable));
          if (decision.outcome !== 'preempting') continue;
          for (const victim of decision.victims) {
            expect(index.bindingOf(victim)).toMatchObject({ hostId: decision.hostId, isMovable: true });
            expect(index.bindingOf(victim)?.priority).toBeLessThan(request.priority);
            index.unbind(victim);
          }
          expect(placeMicroVM({ ...request, hostName: decision.hostName }, index, online).outcome).toBe('placed');
        }
      }),
    );
  });
});
