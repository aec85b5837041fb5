/**
 * How long one placement decision takes at 10,000 hosts with 50,000 microVMs: the pure decision over the index that the
 * leader keeps, and the change of the index that follows it. CPU time of this process, since the machine may be busy.
 */
import { hostNameKey, type PlacementRequest } from '#controller/domain/placement/model.ts';
import { placeMicroVM } from '#controller/domain/placement/place-microvm.ts';
import { boundMicroVM, candidateHost, gib, microvmIdOf, placementRequest, siteIndex } from '#test/builders/placement.ts';

const hostCount = 10_000;
const microvmCount = 50_000;
const rounds = 200;
/** Design: milliseconds for one decision. */
const budgetMs = 10;

const web = { matchLabels: { app: 'web' } };
const cases: readonly { readonly name: string; readonly request: Partial<PlacementRequest> }[] = [
  { name: 'any host with room', request: {} },
  { name: 'one of 20 racks', request: { matchLabels: { rack: 'r7' } } },
  { name: 'apart from 2,500 others, each host a place', request: { labels: { app: 'web' }, apart: [{ ...web, topologyKey: hostNameKey, isRequired: true }] } },
  { name: 'spread over 20 racks', request: { labels: { app: 'web' }, spread: [{ ...web, topologyKey: 'rack', maxSkew: 1, isRequired: true }] } },
  { name: 'spread as a wish, near the store as a wish', request: { labels: { app: 'web' }, together: [{ matchLabels: { app: 'store' }, topologyKey: 'rack', isRequired: false }], spread: [{ ...web, topologyKey: 'rack', maxSkew: 1, isRequired: false }] } },
  { name: 'none fits: every host counted', request: { memoryBytes: 1024 * gib } },
  { name: 'none fits: room made by priority', request: { memoryBytes: 30 * gib, priority: 10 } },
];

export function benchPlacement(say: (text: string) => void): Promise<boolean> {
  const index = siteIndex(Array.from({ length: hostCount }, (_, host) => candidateHost(host, { labels: { rack: `r${host % 20}` }, capacity: { cpuCount: 16, memoryBytes: 32 * gib, reservedCpus: 0, reservedMemoryBytes: 0 } })));
  const beganAt = performance.now();
  for (let microvm = 0; microvm < microvmCount; microvm += 1) {
    index.bind(boundMicroVM(microvm, microvm % hostCount, { labels: { app: microvm % 20 === 0 ? 'web' : microvm % 20 === 1 ? 'store' : 'other' } }));
  }
  say(`placement, ${hostCount} hosts, ${microvmCount} microVMs; budget ${budgetMs} ms for one decision`);
  say(`  filling the index: ${((performance.now() - beganAt) / microvmCount * 1000).toFixed(1)} µs for each binding`);
  const isOnline = (): boolean => true;
  let isWithin = true;
  for (const { name, request } of cases) {
    const times: number[] = [];
    let [visited, outcome] = [0, ''];
    for (let round = 0; round < rounds; round += 1) {
      const before = index.figures.hostsVisited;
      const began = process.cpuUsage();
      const id = microvmIdOf(800_000 + round);
      const decision = placeMicroVM(placementRequest({ ...request, microvmId: id }), index, isOnline);
      if (decision.outcome === 'placed') {
        index.bind({ ...boundMicroVM(0, 0), microvmId: id, hostId: decision.hostId, labels: request.labels ?? {} });
      }
      const took = process.cpuUsage(began);
      times.push((took.user + took.system) / 1000);
      if (decision.outcome === 'placed') index.unbind(id);
      [visited, outcome] = [index.figures.hostsVisited - before, decision.outcome];
    }
    times.sort((left, right) => left - right);
    const [p50, p99] = [times[Math.floor(rounds / 2)] ?? 0, times[Math.floor(rounds * 0.99)] ?? 0];
    isWithin &&= p50 <= budgetMs;
    say(`  ${name}: p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms, ${visited} hosts visited, ${outcome}`);
  }
  return Promise.resolve(isWithin);
}
