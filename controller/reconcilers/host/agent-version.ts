/** Which agent a Host asks for, and what it shows of that. Pure. */
import { errorCatalogue, isErrorCode } from '#api/model/error-codes.ts';
import type { AgentOrder, AgentPhase } from '#api/model/release.ts';
import { hostConditions, type HostConditionReason } from '#crds/conditions.ts';
import type { Host } from '#crds/gen/host.ts';
import type { HostRecord } from '#controller/ports/host-store.ts';
import type { DerivedCondition } from '#controller/runtime/status-patch.ts';

const versionPlaceholder = '{version}';

/** @param releases URL of manifests with `{version}` in it; null: none is known. Null without a version, or without a URL. */
export function deriveAgentOrder(host: Host, releases: string | null): Pick<AgentOrder, 'version' | 'manifestUrl'> | null {
  const { version, manifestURL } = host.spec.agent ?? {};
  if (version === undefined) return null;
  const manifestUrl = manifestURL ?? releases?.replaceAll(versionPlaceholder, version);
  return manifestUrl === undefined ? null : { version, manifestUrl };
}

type Reason = HostConditionReason<'AgentUpToDate'>;

function upToDate(status: DerivedCondition['status'], reason: Reason, message: string): DerivedCondition[] {
  return [{ type: 'AgentUpToDate', status, reason, message }];
}

/** None without spec.agent.version. */
export function deriveAgentUpToDate(host: Host, record: HostRecord | null, isHeard: boolean): DerivedCondition[] {
  const wanted = host.spec.agent?.version;
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
