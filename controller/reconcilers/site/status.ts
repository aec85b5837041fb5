/** What a Site shows, from its hosts and microVMs as they show themselves. Pure. */
import type { Host } from '#crds/gen/host.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { Site, SiteStatus } from '#crds/gen/site.ts';
import type { SiteConditionReason, SiteConditionType } from '#crds/conditions.ts';
import { formatQuantity, parseWholeQuantity } from '#crds/scalar-values.ts';
import { stampConditions, type DerivedCondition } from '#controller/runtime/status-patch.ts';
import type { ClassSizes } from '#controller/domain/derive-desired.ts';
import type { DeletionHold } from '#controller/domain/deletion-guard.ts';
import { isTimeZoneKnown } from '#controller/domain/maintenance/windows.ts';
import { describeHold } from './deletion-guard.ts';
import type { MassDisconnect } from '#controller/domain/leases/mass-disconnect.ts';
import type { MeshFinding } from '../mesh/board.ts';
import { deriveSiteMass } from '../replacement/status.ts';
import { deriveSiteMesh } from '../mesh/status.ts';
import { deriveSiteRecovery, type SiteRecovery } from '../recovery/status.ts';

export interface SiteFacts {
  readonly hosts: readonly Host[];
  readonly microvms: readonly MicroVM[];
  /** Of a MicroVMClass by its name; undefined when there is none. */
  readonly sizesOf: (className: string) => ClassSizes | undefined;
  /** What was found in the mesh account; null while it was not looked at. */
  readonly mesh: MeshFinding | null;
  /** What holds replacements; null: nothing does. */
  readonly mass: MassDisconnect | null;
  readonly recovery: SiteRecovery;
  /** What the brake on mass deletion says. */
  readonly hold: DeletionHold;
  readonly nowMs: number;
}

function condition<Type extends SiteConditionType>(
  type: Type,
  status: DerivedCondition['status'],
  reason: SiteConditionReason<Type>,
  message: string,
): DerivedCondition {
  return { type, status, reason, message };
}

export function projectSiteStatus(site: Site, facts: SiteFacts): SiteStatus {
  const hosts = countHosts(facts.hosts);
  const connectivity = connectivityOf(facts.hosts);
  return {
    observedGeneration: site.metadata.generation,
    ...(connectivity === null ? {} : { connectivity }),
    hosts,
    microvms: countMicroVMs(facts.microvms),
    usedQuota: sumUsage(facts),
    conditions: stampConditions(deriveConditions(site, facts, hosts.ready), site.status?.conditions, {
      generation: site.metadata.generation,
      nowMs: facts.nowMs,
    }),
  };
}

function deriveConditions(site: Site, facts: SiteFacts, readyHosts: number): DerivedCondition[] {
  const conditions = [condition('Accepted', 'True', 'Accepted', 'the control plane has taken the site over'), deriveReady(facts, readyHosts)];
  conditions.push(...deriveSiteMesh(site, facts.mesh), ...deriveSiteMass(site, facts.mass), ...deriveSiteRecovery(facts.recovery, site.status?.conditions));
  const zone = deriveTimeZone(site);
  if (zone !== null) conditions.push(zone);
  const held = deriveDeletionHeld(site, facts);
  if (held !== null) conditions.push(held);
  if (site.metadata.deletionTimestamp !== undefined) conditions.push(deriveDeletionBlocked(facts));
  return conditions;
}

function deriveReady(facts: SiteFacts, readyHosts: number): DerivedCondition {
  if (facts.hosts.length === 0) return condition('Ready', 'False', 'NoHosts', 'no host is enrolled: make an EnrollmentToken and enroll a machine');
  if (readyHosts === 0) return condition('Ready', 'False', 'NoHostReady', 'none of the hosts is Ready; see kubectl get nkhost');
  return condition('Ready', 'True', 'HostsReady', 'microVMs can be placed');
}

/** Shown from the first time that it was unknown. */
function deriveTimeZone(site: Site): DerivedCondition | null {
  const { timeZone } = site.spec;
  if (timeZone !== undefined && !isTimeZoneKnown(timeZone)) {
    return condition('TimeZoneKnown', 'False', 'TimeZoneUnknown', `there is no time zone ${timeZone}, so that no maintenance window ever opens: write an IANA name such as Europe/Berlin`);
  }
  const wasShown = site.status?.conditions?.some(({ type }) => type === 'TimeZoneKnown') === true;
  return wasShown ? condition('TimeZoneKnown', 'True', 'TimeZoneFound', 'maintenance windows are in the time zone of the site') : null;
}

/** Shown from the first time that it was held. */
function deriveDeletionHeld(site: Site, { hold }: SiteFacts): DerivedCondition | null {
  if (hold.isHeld) return condition('DeletionHeld', 'True', 'ConfirmationNeeded', describeHold(hold));
  const wasShown = site.status?.conditions?.some(({ type }) => type === 'DeletionHeld') === true;
  return wasShown ? condition('DeletionHeld', 'False', 'WithinLimit', 'no deletion waits for a confirmation') : null;
}

function deriveDeletionBlocked({ hosts, microvms }: SiteFacts): DerivedCondition {
  if (microvms.length > 0) {
    return condition('DeletionBlocked', 'True', 'MicroVMsPresent', `${microvms.length} microVMs are still at the site: delete them first`);
  }
  if (hosts.length > 0) return condition('DeletionBlocked', 'True', 'HostsPresent', `${hosts.length} hosts are still at the site: delete them first`);
  return condition('DeletionBlocked', 'False', 'NotBlocked', 'nothing is left at the site');
}

function countHosts(hosts: readonly Host[]): { total: number; ready: number; pending: number; unreachable: number } {
  const count = (phase: string): number => hosts.filter((host) => (host.status?.phase ?? 'Pending') === phase).length;
  return { total: hosts.length, ready: count('Ready'), pending: count('Pending'), unreachable: count('Unreachable') };
}

function connectivityOf(hosts: readonly Host[]): 'Online' | 'Partial' | 'Offline' | null {
  const enrolled = hosts.filter((host) => host.status?.hostID !== undefined);
  const heard = enrolled.filter((host) => conditionStatus(host.status, 'Reachable') === 'True').length;
  if (enrolled.length === 0) return null;
  if (heard === enrolled.length) return 'Online';
  return heard === 0 ? 'Offline' : 'Partial';
}

function countMicroVMs(microvms: readonly MicroVM[]): { total: number; running: number; unknown: number } {
  const count = (type: string, status: string): number =>
    microvms.filter((microvm) => conditionStatus(microvm.status, type) === status).length;
  return {
    total: microvms.length,
    running: count('Running', 'True'),
    unknown: microvms.filter((microvm) => microvm.status?.lastObservedTime !== undefined).length,
  };
}

function sumUsage({ microvms, sizesOf }: SiteFacts): { microvms: number; vcpus: number; memory: string } {
  // What a microVM writes itself wins over its class.
  const classOf = ({ spec }: MicroVM): ClassSizes | undefined => (spec.className === undefined ? undefined : sizesOf(spec.className));
  const sum = (value: (microvm: MicroVM) => number): number => microvms.reduce((total, microvm) => total + value(microvm), 0);
  return {
    microvms: microvms.length,
    vcpus: sum((microvm) => microvm.spec.cpu?.count ?? classOf(microvm)?.cpu.count ?? 0),
    memory: formatQuantity(sum((microvm) => parseWholeQuantity(microvm.spec.memory?.size ?? classOf(microvm)?.memory.size ?? 0) ?? 0)),
  };
}

function conditionStatus(status: { readonly conditions?: readonly { type: string; status: string }[] } | undefined, type: string): string | undefined {
  return status?.conditions?.find((condition) => condition.type === type)?.status;
}
