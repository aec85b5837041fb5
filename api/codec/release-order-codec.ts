/**
 * Between the messages on the agent's version and the model. An order is checked strictly, since it leads to a program;
 * a report leniently, but for its numbers.
 */
import { AgentReport_Phase, type AgentOrder as AgentOrderMessage, type AgentReport as AgentReportMessage } from '../gen/nkudo/edge/v1/edge.pb.ts';
import { agentProblemMax, isManifestUrl, isVersion, versionMax, type AgentOrder, type AgentPhase, type AgentReport } from '../model/release.ts';
import { enumMap, integer, invalid, text } from './validate.ts';

const phaseMap = enumMap<AgentPhase>({
  Current: AgentReport_Phase.CURRENT,
  Fetching: AgentReport_Phase.FETCHING,
  Starting: AgentReport_Phase.STARTING,
  Refused: AgentReport_Phase.REFUSED,
  RolledBack: AgentReport_Phase.ROLLED_BACK,
});
const codeMax = 64;

export function encodeAgentOrder({ version, manifestUrl, revision }: AgentOrder): AgentOrderMessage {
  return { version, manifestUrl, revision };
}

/** @throws INVALID_REQUEST */
export function decodeAgentOrder({ version, manifestUrl, revision }: AgentOrderMessage): AgentOrder {
  if (version === '') return { version, manifestUrl: '', revision: integer('agent.revision', revision, 1) };
  if (!isVersion(version)) throw invalid('agent.version', 'must be a version such as 0.4.1');
  if (!isManifestUrl(manifestUrl)) throw invalid('agent.manifest_url', 'must be an http or https URL');
  return { version, manifestUrl, revision: integer('agent.revision', revision, 1) };
}

/** Texts that are too long are cut. */
export function encodeAgentReport(report: AgentReport): AgentReportMessage {
  return {
    phase: phaseMap.encode(report.phase) as AgentReport_Phase, // The table holds the numbers of this enum.
    runningVersion: report.runningVersion.slice(0, versionMax),
    previousVersion: report.previousVersion.slice(0, versionMax),
    orderRevision: report.orderRevision,
    errorCode: report.errorCode.slice(0, codeMax),
    problem: report.problem.slice(0, agentProblemMax),
  };
}

/** @throws INVALID_REQUEST */
export function decodeAgentReport(message: AgentReportMessage): AgentReport {
  const short = (name: string, value: string, max: number): string => text(`agent.${name}`, value, { max, allowEmpty: true });
  return {
    phase: phaseMap.decode('agent.phase', message.phase),
    runningVersion: short('running_version', message.runningVersion, versionMax),
    previousVersion: short('previous_version', message.previousVersion, versionMax),
    orderRevision: integer('agent.order_revision', message.orderRevision, 0),
    errorCode: short('error_code', message.errorCode, codeMax),
    problem: short('problem', message.problem, agentProblemMax),
  };
}
