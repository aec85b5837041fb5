/** What a Site and a Host show of lost hosts: the brake, and what was replaced elsewhere. Pure. */
import type { MassDisconnect } from '#controller/domain/leases/mass-disconnect.ts';
import type { Displacement } from '#controller/ports/lease-store.ts';
import { formatTime, type DerivedCondition } from '#controller/runtime/status-patch.ts';
import type { SiteConditionReason } from '#crds/conditions.ts';
import type { HostStatus } from '#crds/gen/host.ts';
import type { Site } from '#crds/gen/site.ts';

/** Shown from the first time that it held something. */
export function deriveSiteMass(site: Site, mass: MassDisconnect | null): DerivedCondition[] {
  const wasShown = site.status?.conditions?.some(({ type }) => type === 'MassDisconnect') === true;
  if (mass === null && !wasShown) return [];
  const say = (status: 'True' | 'False', reason: SiteConditionReason<'MassDisconnect'>, message: string): DerivedCondition => ({ type: 'MassDisconnect', status, reason, message });
  if (mass === null) return [say('False', 'WithinLimit', 'no mass disconnect holds a replacement')];
  const release = new Date(mass.newestBeatAtMs).toISOString();
  return [say('True', 'HostsSilent', `${mass.silent} of ${mass.total} hosts fell silent together, so nothing is replaced; to do so all the same, annotate the Site with nkudo.dev/release-replacements=${release}`)];
}

export function projectDisplaced(displaced: readonly Displacement[]): Pick<HostStatus, 'displaced'> {
  if (displaced.length === 0) return {};
  return {
    displaced: displaced.map(({ microvmId, name, displacedAtMs, isStopped, orphanedDisks }) => ({
      uid: microvmId, name, since: formatTime(displacedAtMs), stopped: isStopped, ...(orphanedDisks.length === 0 ? {} : { orphanedDisks: [...orphanedDisks] }),
    })),
  };
}
