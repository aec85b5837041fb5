/** An AgentRollout and the hosts of its namespace as its decision wants them. Pure. */
import type { HostId } from '#api/model/ids.ts';
import { isHypervisorUsable } from '#api/model/host.ts';
import type { AgentRollout } from '#crds/gen/agentrollout.ts';
import type { Host } from '#crds/gen/host.ts';
import type { Site } from '#crds/gen/site.ts';
import { parseDurationMs } from '#crds/scalar-values.ts';
import type { HostCount, HostHealth, RolloutHost, RolloutSituation, RolloutSpec } from '#controller/domain/agent-rollout/model.ts';
import { decideWindow, defaultTimeZone, type WindowState } from '#controller/domain/maintenance/windows.ts';
import type { HostSilence } from '#controller/domain/silence.ts';
import type { RolloutHostRecord } from '#controller/ports/agent-rollout-store.ts';
import { manifestUrlOf } from '../host/agent-version.ts';

/** As the CRD has them; objects from before a default was there lack it. */
const defaults = { soakMs: 600_000, deadlineMs: 1_800_000, required: '100%', maxParallel: 1 } as const;

export function deriveSpec({ metadata, spec }: AgentRollout): RolloutSpec {
  const { soak, deadline, required, maxFailures } = spec.health ?? {};
  return {
    rolloutId: metadata.uid,
    version: spec.version,
    nonce: spec.retryNonce ?? 0,
    rings: spec.rings.map(({ name, sites, hostSelector, maxParallel }) => ({
      name, sites: sites ?? null, labels: hostSelector === undefined ? null : (hostSelector.matchLabels ?? {}), maxParallel: parseCount(maxParallel ?? defaults.maxParallel),
    })),
    soakMs: parseDurationMs(soak ?? '') ?? defaults.soakMs,
    deadlineMs: parseDurationMs(deadline ?? '') ?? defaults.deadlineMs,
    required: parseCount(required ?? defaults.required),
    maxFailures: maxFailures ?? 0,
    onFailure: spec.onFailure ?? 'RollBackRing',
    isPaused: spec.paused ?? false,
    isRollBackAsked: spec.rollBack ?? false,
  };
}

function parseCount(count: number | string): HostCount {
  const text = String(count);
  return text.endsWith('%') ? { kind: 'percent', value: Number(text.slice(0, -1)) } : { kind: 'number', value: Number(text) };
}

const alwaysOpen: WindowState = { kind: 'open', name: '', closesAtMs: Number.POSITIVE_INFINITY };

export function rolloutWindow({ spec }: AgentRollout, nowMs: number): WindowState {
  return spec.windows === undefined || spec.windows.length === 0 ? alwaysOpen : decideWindow(spec.windows, spec.timeZone ?? defaultTimeZone, nowMs);
}

/** By name of the Site; empty unless the rollout keeps to their windows. */
export function siteWindows({ spec }: AgentRollout, sites: readonly Site[], nowMs: number): ReadonlyMap<string, WindowState> {
  if (spec.siteWindows !== true) return new Map();
  return new Map(sites.map((site) => [site.metadata.name, decideWindow(site.spec.maintenanceWindows ?? [], site.spec.timeZone ?? defaultTimeZone, nowMs)]));
}

export interface SituationSources {
  readonly object: AgentRollout;
  readonly hosts: readonly RolloutHostRecord[];
  readonly window: WindowState;
  readonly sites: ReadonlyMap<string, WindowState>;
  readonly deps: {
    readonly agentReleases: string | null;
    readonly silence: { of(hostId: HostId): HostSilence };
    readonly caches: {
      readonly hosts: { get(key: { readonly namespace: string; readonly name: string }): Host | undefined };
      readonly sites: { get(key: { readonly namespace: string; readonly name: string }): Site | undefined };
      readonly agentRollouts: { list(namespace: string): readonly AgentRollout[] };
    };
  };
}

export function deriveSituation({ object, hosts, window, sites, deps }: SituationSources): RolloutSituation {
  const { namespace } = object.metadata;
  const others = deps.caches.agentRollouts.list(namespace).filter(({ metadata }) => metadata.uid !== object.metadata.uid && metadata.deletionTimestamp === undefined);
  const newer = others.filter((other) => isNewer(other, object));
  return {
    isWindowOpen: window.kind === 'open',
    manifestUrlOf: (version) => urlFor(object, deps.agentReleases, version),
    hosts: hosts.flatMap((record) => {
      const host = deps.caches.hosts.get({ namespace, name: record.name });
      if (host === undefined || host.metadata.deletionTimestamp !== undefined) return [];
      const site = deps.caches.sites.get({ namespace, name: record.siteName });
      const isClosed = sites.get(record.siteName)?.kind === 'closed';
      return [{
        hostId: record.hostId, name: record.name, siteName: record.siteName, labels: host.metadata.labels ?? {}, ringName: host.spec.agent?.ring ?? null,
        skipped: skippedBy(host, record, newer),
        heldBack: site?.spec.hold === true ? 'SiteHold' : isClosed ? 'OutsideWindow' : null,
        ...judgeHealth(record, deps.silence.of(record.hostId)),
        runningVersion: record.runningVersion, order: record.order, report: record.report,
        isFollowedElsewhere: others.some(({ metadata, spec }) => metadata.uid === record.row?.rolloutId && spec.version === record.row.targetVersion && (spec.retryNonce ?? 0) === record.row.nonce),
        row: record.row,
      } satisfies RolloutHost];
    }),
  };
}

function urlFor({ spec: { version: target, manifestURL } }: AgentRollout, releases: string | null, version: string): string | null {
  if (manifestURL !== undefined && (version === target || manifestURL.includes('{version}'))) return manifestUrlOf(manifestURL, version);
  return releases === null ? null : manifestUrlOf(releases, version);
}

function skippedBy(host: Host, record: RolloutHostRecord, newer: readonly AgentRollout[]): RolloutHost['skipped'] {
  const { version, pinned } = host.spec.agent ?? {};
  if (pinned === true) return 'Pinned';
  if (version !== undefined) return 'OwnVersion';
  return newer.some((other) => selects(other, host, record.siteName)) ? 'NewerRollout' : null;
}

/** Of two rollouts that select a host the one that was made later has it. */
function isNewer(other: AgentRollout, than: AgentRollout): boolean {
  const [left, right] = [Date.parse(other.metadata.creationTimestamp ?? ''), Date.parse(than.metadata.creationTimestamp ?? '')];
  return left === right ? other.metadata.uid > than.metadata.uid : left > right;
}

function selects({ spec }: AgentRollout, host: Host, siteName: string): boolean {
  return spec.rings.some(({ name, sites, hostSelector }) => {
    if (host.spec.agent?.ring === name) return true;
    if (sites === undefined && hostSelector === undefined) return false;
    return (sites === undefined || sites.includes(siteName)) && Object.entries(hostSelector?.matchLabels ?? {}).every(([key, value]) => host.metadata.labels?.[key] === value);
  });
}

function judgeHealth(record: RolloutHostRecord, { reachability }: HostSilence): { readonly health: HostHealth; readonly healthProblem: string } {
  if (!record.mayWork) return { health: 'unable', healthProblem: 'the host is quarantined or waits for an approval' };
  if (reachability === 'undecided') return { health: 'undecided', healthProblem: 'the controller has just begun to listen to the host' };
  if (reachability === 'silent') return { health: 'unable', healthProblem: 'the host is silent' };
  const { hypervisor } = record;
  if (!isHypervisorUsable(hypervisor)) return { health: 'unable', healthProblem: `the host can not run microVMs: ${hypervisor.problem || 'it has no hypervisor'}` };
  return { health: 'able', healthProblem: '' };
}
