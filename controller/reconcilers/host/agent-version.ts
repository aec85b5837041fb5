/** Which agent a Host asks for, and what it shows of that. Pure. */
import { errorCatalogue, isErrorCode } from '#api/model/error-codes.ts';
import type { AgentOrder, AgentPhase } from '#api/model/release.ts';
import { hostConditions, type HostConditionReason } from '#crds/conditions.ts';
import type { Host } from '#crds/gen/host.ts';
import type { HostRecord } from '#controller/ports/host-store.ts';
import type { DerivedCondition } from '#controller/runtime/status-patch.ts';

const versionPlaceholder = '{version}';

type Ordered = Pick<AgentOrder, 'version' | 'manifestUrl'>;

/** The URL of the manifest of one version, from one with `{version}` in it. */
export function manifestUrlOf(template: string, version: string): string {
  return template.replaceAll(versionPlaceholder, version);
}

/**
 * The Host's own version goes before that of a rollout, and a pinned Host has none of a rollout. Null without a version, or
 * without a URL.
 * @param releases URL of manifests with `{version}` in it; null: none is known
 */
export function deriveAgentOrder(host: Host, releases: string | null, rollout: Ordered | null): Ordered | null {
  const { version, manifestURL, pinned } = host.spec.agent ?? {};
  if (version === undefined) return pinned === true || rollout === null ? null : { version: rollout.version, manifestUrl: rollout.manifestUrl };
  const manifestUrl = manifestURL ?? (releases === null ? undefined : manifestUrlOf(releases, version));
  return manifestUrl === undefined ? null : { version, manifestUrl };
}

type Reason = HostConditionReason<'AgentUpToDate'>;

function upToDate(status: DerivedCondition['status'], reason: Reason, message: string): DerivedCondition[] {
  return [{ type: 'AgentUpToDate', status, reason, message }];
}

/** None where nobody asks for a version. */
export function deriveAgentUpToDate(host: Host, record: HostRecord | null, isHeard: boolean): DerivedCondition[] {
  const ofRollout = host.spec.agent?.pinned === true ? undefined : record?.rolloutOrder?.version;
  const wanted = host.spec.agent?.version ?? ofRollout;
  if (wanted === undefined) return [];
  if (record === null) return upToDate('False', 'NotEnrolled', 'no machine is enrolled under this name');
  const { agentOrder: order, agentReport: report, facts } = record;
  // The facts are of its first word in a session, so this needs no report.
  if (facts.agentVersion === wanted && isHeard) return upToDate('True', 'VersionRuns', `the agent is ${wanted}`);
  if (order == null) return upToDate('False', 'ReleaseUnknown', `nobody said where the manifest of ${wanted} is: set spec.agent.manifestURL, or NKUDO_AGENT_RELEASES of the controller`);
  if (!isHeard) return upToDate('Unknown', 'HostSilent', `the host is silent; the agent was ${facts.agentVersion || 'not known'} when it was heard last`);
  if (report == null || report.orderRevision < order.revision || order.version !== wanted) return upToDate('False', 'VersionOrdered', `the agent is ${facts.agentVersion}, and ${wanted} is ordered`);
  const [reason, message] = byPhase[report.phase];
  const problem = report.problem === '' ? '' : `: ${report.problem}`;
  return upToDate('False', reason ?? refusalOf(report.errorCode), `the agent is ${report.runningVersion}; ${wanted} ${message}${problem}`);
}

const byPhase: Readonly<Record<AgentPhase, readonly [Reason | null, string]>> = {
  Current: ['VersionOrdered', 'ran last'],
  Fetching: ['VersionFetching', 'is being fetched'],
  Starting: ['VersionStarting', 'is being started'],
  Refused: [null, 'is refused by the host'],
  RolledBack: ['UpdateFailed', 'did not get ready, and the version before runs again'],
};

const known: readonly string[] = hostConditions.AgentUpToDate.reasons;

function refusalOf(code: string): Reason {
  const reason = isErrorCode(code) ? errorCatalogue[code].reason : '';
  return known.includes(reason) ? (reason as Reason) : 'ReleaseRefused'; // It is in the list.
}
