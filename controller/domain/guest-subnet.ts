/** The range that guests with nat networks get their addresses from. Pure. */
import type { Host } from '#crds/gen/host.ts';
import type { Site } from '#crds/gen/site.ts';

/** Outside the default range of mesh subnets (10.96.0.0/12), and for 4093 guests of one host. */
export const defaultNatSubnet = '10.87.0.0/20';

/** In CIDR form. Each host has the whole range for itself: its guests are behind its address. */
export function natSubnetOf(site: Pick<Site, 'spec'> | null | undefined, host: Pick<Host, 'spec'> | null | undefined): string {
  return host?.spec.natSubnet ?? site?.spec.natSubnet ?? defaultNatSubnet;
}
