/** What one look at an account says for people. Pure. */
import { isOwnGroupName } from '#controller/domain/mesh/names.ts';
import type { DesiredMesh, ListedPolicy, MeshListing } from '#controller/domain/mesh/model.ts';
import type { MeshFinding } from './board.ts';

/** The group that every peer is in. Source: NetBird documentation, "Groups". */
const everyone = 'All';
const namedMax = 5;

export interface Look {
  readonly desired: DesiredMesh;
  readonly listing: MeshListing;
  /** Named in the spec and not in the account. */
  readonly missingGroups: readonly string[];
  readonly isPoolFull: boolean;
  /** There was nothing to make, change or remove. */
  readonly isSettled: boolean;
}

export function findingOf(look: Look): MeshFinding {
  return { ready: deriveReady(look), isolated: deriveIsolated(look) };
}

const quote = (names: readonly string[]): string => names.slice(0, namedMax).join(', ') + (names.length > namedMax ? ` and ${names.length - namedMax} more` : '');

function deriveReady({ missingGroups, isPoolFull, isSettled }: Look): MeshFinding['ready'] {
  if (missingGroups.length > 0) return { status: 'False', reason: 'GroupMissing', message: `the account has no group ${quote(missingGroups)}: make it there, or correct spec.mesh; the rest is as it should be` };
  if (isPoolFull) return { status: 'False', reason: 'SubnetPoolFull', message: 'spec.mesh.subnetPool has no /24 left for the guests of a host: choose a larger range' };
  if (!isSettled) return { status: 'False', reason: 'MeshConverging', message: 'the objects of the site in the mesh account are being made' };
  return { status: 'True', reason: 'MeshConverged', message: 'the objects of the site in the mesh account are as they should be' };
}

function deriveIsolated({ listing, desired }: Look): MeshFinding['isolated'] {
  const all = listing.groups.find(({ name }) => name === everyone && !isOwnGroupName(desired.scope, name))?.id;
  const open = listing.policies.filter((policy) => policy.isEnabled && all !== undefined && isOpen(policy, all)).map(({ name }) => name);
  if (open.length === 0) return { status: 'True', reason: 'NoOpenPolicy', message: 'only policies that name groups let peers reach each other' };
  return {
    status: 'False',
    reason: 'DefaultPolicyOpen',
    message: `the policy ${quote(open)} of the account lets every peer reach every other, so that its sites are not isolated: delete or disable it in NetBird under Access Control; n-kudo does not touch what it did not make`,
  };
}

function isOpen(policy: ListedPolicy, everyoneId: string): boolean {
  return policy.rules.some(
    (rule) => rule.isEnabled && rule.action === 'accept' && rule.sourceIds.includes(everyoneId) && rule.destinationIds.includes(everyoneId),
  );
}
