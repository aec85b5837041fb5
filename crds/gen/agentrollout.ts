/**
 * Generated from crds/v1alpha1/agentrollout.yaml by hack/generate-crd-types.ts; do not edit.
 * Times are RFC 3339 strings, as the API server sends them. Fields with a default are present on
 * every object that was read from the API server; they are optional here because writers may leave them out.
 */
import type { Condition, ListMeta, ObjectMeta } from './kubernetes.ts';

/**
 * AgentRollout brings one version of nkudo-edge to the hosts of its namespace, ring after ring, and takes it back where it fails.
 */
export interface AgentRollout {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'AgentRollout';
  metadata: ObjectMeta;
  spec: AgentRolloutSpec;
  status?: AgentRolloutStatus;
}
/**
 * Which version, for whom, when, and what counts as healthy.
 */
export interface AgentRolloutSpec {
  /**
   * Version to run, such as 0.4.1. Another one begins anew with the first ring.
   */
  version: string;
  /**
   * URL of the signed manifest of the version, in which {version} stands for the version; its signature and the files lie beside it. The one that the control plane knows for every version when left out.
   */
  manifestURL?: string;
  /**
   * Groups of hosts, in the order in which they are updated. A host is in the ring that its spec.agent.ring names, else in the first one that selects it.
   */
  rings: AgentRolloutRing[];
  health?: AgentRolloutHealth;
  /**
   * Who is given back the version before when the rollout stops. RollBackRing: all hosts of the ring that failed. RollBackAll: those of the rings before as well. RollBackFailed: only the hosts on which it failed, which get it back at once in any case.
   *
   * Default: "RollBackRing".
   */
  onFailure?: 'RollBackRing' | 'RollBackAll' | 'RollBackFailed';
  /**
   * When hosts may be told to update; at any time when left out. What was begun is finished, and a version is taken back, at any time.
   */
  windows?: AgentRolloutWindow[];
  /**
   * IANA name of the time zone of windows, such as Europe/Berlin. UTC when left out.
   */
  timeZone?: string;
  /**
   * true: a host is told to update only in a maintenance window of its Site, as well.
   *
   * Default: false.
   */
  siteWindows?: boolean;
  /**
   * true: no further host is told to update; what was begun goes on, and a version that fails is taken back.
   *
   * Default: false.
   */
  paused?: boolean;
  /**
   * true: every host that got the version by this rollout is given back the one before.
   *
   * Default: false.
   */
  rollBack?: boolean;
  /**
   * A change begins the same version anew with the first ring, also on hosts on which it failed.
   *
   * Default: 0.
   */
  retryNonce?: number;
}
/**
 * One ring. With neither sites nor hostSelector it takes only hosts whose spec.agent.ring names it.
 */
export interface AgentRolloutRing {
  /**
   * Unique within the rollout.
   */
  name: string;
  /**
   * Sites whose hosts it takes; all of the namespace when left out beside hostSelector.
   */
  sites?: string[];
  hostSelector?: AgentRolloutRingHostSelector;
  /**
   * Hosts that may be in the update or in its soak time at once, as a number or a share of the ring.
   */
  maxParallel?: number | string;
}
/**
 * Labels of the Hosts that it takes, of those sites; an empty one takes all that are left.
 */
export interface AgentRolloutRingHostSelector {
  /**
   * Labels that the Host has.
   */
  matchLabels?: Record<string, string>;
}
/**
 * When a host counts as updated, and when a ring does.
 *
 * Default: {}.
 */
export interface AgentRolloutHealth {
  /**
   * How long a host has to be heard, run the version and be able to run microVMs, without a break.
   *
   * Default: "10m".
   */
  soak?: string;
  /**
   * How long after it was told a host may take until it is healthy; then the version failed there. The host itself gives up sooner on a version that does not start.
   *
   * Default: "30m".
   */
  deadline?: string;
  /**
   * Hosts of a ring that have to be updated before the next ring begins, as a number or a share of those on which it did not fail.
   *
   * Default: "100%".
   */
  required?: number | string;
  /**
   * Hosts of a ring on which the version may fail; with one more the rollout stops.
   *
   * Default: 0.
   */
  maxFailures?: number;
}
/**
 * One weekly window.
 */
export interface AgentRolloutWindow {
  /**
   * Unique within the rollout.
   */
  name: string;
  /**
   * Days of the week; every day when left out.
   */
  days?: ('Mon' | 'Tue' | 'Wed' | 'Thu' | 'Fri' | 'Sat' | 'Sun')[];
  /**
   * Begin, in timeZone, HH:MM.
   */
  start: string;
  /**
   * Length of the window.
   */
  duration: string;
}
/**
 * How far the rollout is. Written by the controller only.
 */
export interface AgentRolloutStatus {
  /**
   * Generation of the spec that this status was derived from.
   */
  observedGeneration?: number;
  /**
   * Progressing: a ring is being updated. Waiting: for a window, for silent hosts or the like. Paused: by spec.paused. RollingBack: hosts are being given back the version before. RolledBack: that was done, and nothing more is. Complete: all rings were.
   */
  phase?: 'Progressing' | 'Waiting' | 'Paused' | 'RollingBack' | 'RolledBack' | 'Complete';
  /**
   * The ring that is being updated, or in which the rollout stopped.
   */
  ring?: string;
  /**
   * Hosts of all rings that are to be updated.
   */
  hosts?: number;
  /**
   * Hosts that ran the version healthily for long enough.
   */
  updated?: number;
  /**
   * Hosts on which it failed.
   */
  failed?: number;
  /**
   * The rings, in their order.
   */
  rings?: AgentRolloutStatusRing[];
  /**
   * Hosts on which the version failed, and why; the first ones by name.
   */
  failures?: AgentRolloutStatusFailure[];
  /**
   * What is true of the object now, by type. The types and reasons are a closed list (crds/conditions.ts).
   */
  conditions?: Condition[];
}
/**
 * One ring.
 */
export interface AgentRolloutStatusRing {
  /**
   * Name of the ring.
   */
  name: string;
  /**
   * Pending: its turn has not come. Progressing: it is being updated. Passed: enough of its hosts are. Failed: the rollout stopped in it.
   */
  phase: 'Pending' | 'Progressing' | 'Passed' | 'Failed';
  /**
   * Hosts of the ring that are to be updated.
   */
  hosts?: number;
  /**
   * Those whose turn has not come, that are silent, not able to run microVMs, or outside their window.
   */
  waiting?: number;
  /**
   * Those that were told and do not run the version healthily yet.
   */
  updating?: number;
  /**
   * Those that run it healthily, and not for long enough yet.
   */
  soaking?: number;
  /**
   * Those that ran it healthily for long enough.
   */
  updated?: number;
  /**
   * Those on which it failed.
   */
  failed?: number;
  /**
   * Those that were given back the version before.
   */
  returned?: number;
  /**
   * Hosts that the ring would take and the rollout leaves alone: pinned, with a version of their own, taken by a newer rollout.
   */
  skipped?: number;
}
/**
 * One host.
 */
export interface AgentRolloutStatusFailure {
  /**
   * Name of the Host.
   */
  host: string;
  /**
   * What happened there.
   */
  message: string;
}

export interface AgentRolloutList {
  apiVersion: 'nkudo.dev/v1alpha1';
  kind: 'AgentRolloutList';
  metadata: ListMeta;
  items: AgentRollout[];
}
