import { describe, expect, it } from 'vitest';
import { errorCatalogue } from '#api/model/error-codes.ts';
import { hostId, type HostId } from '#api/model/ids.ts';
import type { NetworkProblem, PublishInput, PublishResult } from '#controller/ports/microvm-store.ts';
import { microvmConditions } from '#crds/conditions.ts';
import { obstacleOf, publishWithNetworks } from './networks.ts';
import type { MicroVMDeps, MicroVMScope } from './scope.ts';

const codes: readonly NetworkProblem['code'][] = ['ADDRESSES_EXHAUSTED', 'PORTS_EXHAUSTED', 'ADDRESS_OUTSIDE_SUBNET', 'MESH_SUBNET_MISSING', 'PORT_IN_USE', 'ADDRESS_IN_USE'];
const host = (index: number) => ({ hostId: hostId(`00000000-0000-4000-8000-${String(index).padStart(12, '0')}`), hostName: `edge-${index}` });

/** What these functions read of a scope; it is on no host yet unless said otherwise. */
function scopeOf(fields: object = {}): MicroVMScope {
  const scope: unknown = { object: { metadata: { namespace: 'shop', name: 'web' } }, site: { spec: { natSubnet: '10.1.0.0/24' } }, record: null, chosenHost: host(1), networks: [{ name: 'lan', kind: 'nat', mac: '', ports: [] }], ...fields };
  return scope as MicroVMScope;
}
const deps = { caches: { hosts: { get: ({ name }: { name: string }) => (name === 'edge-2' ? { spec: { natSubnet: '10.2.0.0/24' } } : undefined) } } } as unknown as MicroVMDeps; // The one read of them.

async function run(scope: MicroVMScope, takes: (on: HostId | null) => boolean, hosts = 3) {
  const asked: Pick<PublishInput, 'placeOn' | 'networks'>[] = [];
  const result = await publishWithNetworks(scope, deps, {
    publish: async (input): Promise<PublishResult> => {
      asked.push(input);
      return takes(input.placeOn) ? { outcome: 'hostUnavailable' } : { outcome: 'networkRefused', problem: { code: 'PORT_IN_USE', message: `of ${String(input.placeOn)}` } };
    },
    next: async (without) => Array.from({ length: hosts }, (_, index) => host(index + 1)).find((each) => !without.has(each.hostId)) ?? null,
  });
  return { result, asked };
}

describe('publishing with networks', () => {
  it('passes over a host that has no such port, and asks each for addresses of its own range', async () => {
    const { asked } = await run(scopeOf(), (on) => on === host(2).hostId);
    expect(asked.map(({ placeOn, networks }) => [placeOn, networks?.natSubnet])).toEqual([[host(1).hostId, '10.1.0.0/24'], [host(2).hostId, '10.2.0.0/24']]);
  });

  it('shows the refusal of the first host when no other is left, and tries a bounded number', async () => {
    const few = await run(scopeOf(), () => false);
    expect(few.asked).toHaveLength(3);
    expect(few.result).toMatchObject({ problem: { message: `of ${host(1).hostId}` } });
    expect((await run(scopeOf(), () => false, 1_000)).asked).toHaveLength(8);
  });

  it('never looks for another host for what is bound', async () => {
    const { asked, result } = await run(scopeOf({ record: { binding: host(2) } }), () => false);
    expect(asked).toEqual([{ placeOn: null, networks: { requests: scopeOf().networks, natSubnet: '10.2.0.0/24' } }]);
    expect(result.outcome).toBe('networkRefused');
  });

  it('asks for nothing when the spec has no networks', async () => {
    expect((await run(scopeOf({ networks: [] }), () => true)).asked).toEqual([{ placeOn: host(1).hostId }]);
  });

  it.each(codes)('has a reason of the closed lists for %s', (code) => {
    const { reason } = errorCatalogue[code];
    expect(obstacleOf(scopeOf(), { code, message: 'm' })).toEqual({ condition: 'Scheduled', reason, message: 'm' });
    expect(obstacleOf(scopeOf({ record: { binding: host(1) } }), { code, message: 'm' })).toEqual({ condition: 'NetworksReady', reason, message: 'm' });
    for (const condition of ['Scheduled', 'NetworksReady', 'Provisioned', 'Ready'] as const) expect(microvmConditions[condition].reasons, condition).toContain(reason);
  });
});
