/**
 * `nkudo-controller doctor`: looks at the database, the API server and the certificates with the program's own settings and
 * identity, and says what is wrong and what to do. Reads only. What it thinks of what it read is in findings.ts.
 */
import { X509Certificate } from 'node:crypto';
import Table from 'cli-table3';
import { field, type KubernetesQuestions } from '../adapters/kubernetes/questions.ts';
import type { DatabaseFacts } from '../ports/database-facts.ts';
import {
  exitCodeOf, judgeCertificate, judgeDefinitions, judgeKubernetesVersion, judgeRights, judgeRoles, judgeServer, judgeSkew,
  type DefinitionFacts, type Finding,
} from './findings.ts';
import { neededRights } from './rights.ts';

export interface DoctorDeps {
  readonly database: () => Promise<DatabaseFacts>;
  /** @throws Error when no cluster is configured */
  readonly kubernetes: () => KubernetesQuestions;
  readonly namespace: string;
  readonly nowMs: () => number;
}

/** Every kind of our own that rights are needed for. */
const definitions = [...new Set(neededRights.filter(({ group }) => group === 'nkudo.dev').map(({ resource }) => `${resource}.nkudo.dev`))];
/** Questions at a time. */
const rightsAtOnce = 8;
/** Certificates in the Secret of the authority. */
const authorityCertificates = { 'root.crt': 'root certificate of the hosts’ authority', 'intermediate.crt': 'intermediate certificate of the hosts’ authority' } as const;

export async function examine(deps: DoctorDeps): Promise<readonly Finding[]> {
  const { roles, server } = await deps.database();
  const findings = [...judgeRoles(roles), ...(server === null ? [] : judgeServer(server))];
  try {
    findings.push(...(await examineKubernetes(deps)));
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    findings.push({ check: 'Kubernetes API', verdict: 'failure', detail: detail === '' ? 'it does not answer' : detail, remedy: 'look at KUBECONFIG or the pod’s service account, and at the way there' });
  }
  return findings;
}

async function examineKubernetes({ kubernetes, namespace, nowMs }: DoctorDeps): Promise<readonly Finding[]> {
  const questions = kubernetes();
  const askedMs = nowMs();
  const version = await questions.get('/version');
  const middleMs = (askedMs + nowMs()) / 2;
  if (version.status !== 200) return [{ check: 'Kubernetes API', verdict: 'failure', detail: `it answers with status ${version.status}`, remedy: 'look at the credentials' }];
  const minor = Number.parseInt(String(field(version.body, 'minor')), 10);
  return [
    judgeKubernetesVersion({ gitVersion: String(field(version.body, 'gitVersion')), minor }),
    // A Date has whole seconds and is cut off, so half a second is the best guess.
    ...(version.dateMs === null ? [] : [judgeSkew('clock of the API server', Math.round(version.dateMs + 500 - middleMs))]),
    ...judgeDefinitions(await Promise.all(definitions.map((name) => readDefinition(questions, name)))),
    await examineRights(questions, namespace),
    ...(await examineCertificates(questions, namespace, nowMs())),
  ];
}

async function readDefinition(questions: KubernetesQuestions, name: string): Promise<DefinitionFacts> {
  const { status, body } = await questions.get(`/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${name}`);
  if (status === 404) return { name, state: 'missing' };
  if (status !== 200) return { name, state: 'unreadable' };
  if (field(field(body, 'metadata'), 'deletionTimestamp') !== undefined) return { name, state: 'deleting' };
  const conditions = field(field(body, 'status'), 'conditions');
  const isEstablished = Array.isArray(conditions) && conditions.some((condition) => field(condition, 'type') === 'Established' && field(condition, 'status') === 'True');
  const versions = field(field(body, 'spec'), 'versions');
  const isServed = Array.isArray(versions) && versions.some((version) => field(version, 'name') === 'v1alpha1' && field(version, 'served') === true);
  return { name, state: isEstablished && isServed ? 'served' : 'notEstablished' };
}

async function examineRights(questions: KubernetesQuestions, namespace: string): Promise<Finding> {
  const rights = neededRights.flatMap(({ verbs, isOwnNamespace, ...rule }) => verbs.map((verb) => ({ ...rule, verb, ...(isOwnNamespace === true ? { namespace } : {}) })));
  const missing: string[] = [];
  const waiting = [...rights];
  const next = async (): Promise<void> => {
    for (let right = waiting.shift(); right !== undefined; right = waiting.shift()) {
      if (!(await questions.may(right))) missing.push(`${right.verb} ${right.resource}${right.subresource === undefined ? '' : `/${right.subresource}`}`);
    }
  };
  await Promise.all(Array.from({ length: rightsAtOnce }, next));
  return judgeRights(missing.toSorted(), rights.length);
}

async function examineCertificates(questions: KubernetesQuestions, namespace: string, nowMs: number): Promise<readonly Finding[]> {
  const check = 'certificate authority';
  const { status, body } = await questions.get(`/api/v1/namespaces/${namespace}/secrets/nkudo-ca`);
  if (status === 404) return [{ check, verdict: 'warning', detail: `there is no Secret nkudo-ca in namespace ${namespace}`, remedy: 'the first start of serve makes it; when hosts were enrolled before, restore it from the backup first' }];
  if (status !== 200) return [{ check, verdict: 'failure', detail: `the Secret nkudo-ca can not be read: status ${status}`, remedy: 'allow get on secrets' }];
  return Object.entries(authorityCertificates).map(([name, what]) => {
    const encoded = field(field(body, 'data'), name);
    try {
      const { validTo } = new X509Certificate(Buffer.from(typeof encoded === 'string' ? encoded : '', 'base64'));
      return judgeCertificate(what, Date.parse(validTo), nowMs);
    } catch {
      return { check: what, verdict: 'failure', detail: `${name} of the Secret nkudo-ca is no certificate`, remedy: 'restore the Secret from the backup' };
    }
  });
}

/** Returns the exit code. */
export async function runDoctor(deps: DoctorDeps, output: 'table' | 'json', print: (text: string) => void): Promise<number> {
  const findings = await examine(deps);
  print(output === 'json' ? JSON.stringify({ findings }, null, 2) : renderTable(findings));
  return exitCodeOf(findings);
}

const words = { ok: 'ok', warning: 'WARNING', failure: 'FAILURE' } as const;

function renderTable(findings: readonly Finding[]): string {
  const table = new Table({ head: ['CHECK', '', 'FOUND', 'WHAT TO DO'], colWidths: [34, 9, 44, 44], wordWrap: true, style: { head: [], border: [] } });
  for (const { check, verdict, detail, remedy } of findings) table.push([check, words[verdict], detail, remedy]);
  const count = (verdict: Finding['verdict']): number => findings.filter((finding) => finding.verdict === verdict).length;
  return `${table.toString()}\n${findings.length} checks: ${count('failure')} failed, ${count('warning')} warnings`;
}
