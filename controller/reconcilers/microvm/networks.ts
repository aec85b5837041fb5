/**
 * Publishing a microVM with its networks: a host that has no such address or port to give is passed over for another one
 * of the site, and when none is left the first one's refusal is shown. What a bound microVM asks of its host can only be
 * refused.
 */
import { errorCatalogue } from '#api/model/error-codes.ts';
import type { HostId } from '#api/model/ids.ts';
import { natSubnetOf } from '#controller/domain/guest-subnet.ts';
import type { NetworkProblem, PublishInput, PublishResult } from '#controller/ports/microvm-store.ts';
import type { MicroVMDeps, MicroVMScope, Obstacle } from './scope.ts';

/** Each is one more transaction; more hosts than this are looked at with the next reconcile. */
const hostsTriedMax = 8;

interface ChosenHost {
  readonly hostId: HostId;
  readonly hostName: string;
}

type Publish = (input: Pick<PublishInput, 'placeOn' | 'networks'>) => Promise<PublishResult>;

/** @param next another host of the site, without these; null when none fits */
export async function publishWithNetworks(
  scope: MicroVMScope,
  deps: MicroVMDeps,
  calls: { readonly publish: Publish; readonly next: (without: ReadonlySet<HostId>) => Promise<ChosenHost | null> },
): Promise<PublishResult> {
  const bound = scope.record?.binding ?? null;
  const refusedBy = new Set<HostId>();
  let refusal: PublishResult | null = null;
  let host: ChosenHost | null = bound ?? scope.chosenHost;
  for (;;) {
    const result = await calls.publish({ placeOn: bound === null ? (host?.hostId ?? null) : null, ...networksFor(scope, deps, host) });
    if (result.outcome !== 'networkRefused' || bound !== null || host === null) return result;
    refusal ??= result;
    refusedBy.add(host.hostId);
    host = refusedBy.size < hostsTriedMax ? await calls.next(refusedBy) : null;
    if (host === null) return refusal;
    scope.chosenHost = host;
  }
}

/** What the spec asks of that host. */
export function networksFor(scope: MicroVMScope, deps: Pick<MicroVMDeps, 'caches'>, host: ChosenHost | null): Pick<PublishInput, 'networks'> {
  if (scope.networks.length === 0) return {};
  const object = host === null ? undefined : deps.caches.hosts.get({ namespace: scope.object.metadata.namespace, name: host.hostName });
  return { networks: { requests: scope.networks, natSubnet: natSubnetOf(scope.site, object) } };
}

/** What the status shows of a refusal. */
export function obstacleOf(scope: MicroVMScope, { code, message }: NetworkProblem): Obstacle {
  const reason = errorCatalogue[code].reason as 'AddressesExhausted' | 'PortsExhausted' | 'AddressOutsideSubnet' | 'MeshSubnetMissing' | 'PortInUse' | 'AddressInUse'; // The reasons of these six codes, as a test says.
  return { condition: scope.record?.binding == null ? 'Scheduled' : 'NetworksReady', reason, message };
}
