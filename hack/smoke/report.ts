/** The report of a smoke run: for a manager as Markdown, for a machine as JSON. Pure. */
import type { StepResult } from './steps.ts';

export interface SmokeReport {
  /** What was looked at: the API server's address. */
  readonly installation: string;
  readonly startedAt: string;
  readonly durationMs: number;
  readonly hypervisor: string;
  readonly agentVersion: string;
  readonly steps: readonly StepResult[];
  /** Folder with the logs of what this machine ran. */
  readonly logs: string;
}

export const isPassed = ({ steps }: Pick<SmokeReport, 'steps'>): boolean => steps.length > 0 && steps.every(({ outcome }) => outcome === 'passed');

const signs = { passed: 'passed', failed: '**FAILED**', notRun: 'not run' } as const;
const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
/** Of other programs, inside of a table. */
const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ').slice(0, 500);

export function renderMarkdown(report: SmokeReport): string {
  const failed = report.steps.find(({ outcome }) => outcome === 'failed');
  const verdict = failed === undefined && isPassed(report) ? 'Every step of the critical path works.' : `The critical path is broken at "${failed?.name ?? 'nothing was run'}": ${cell(failed?.detail ?? 'no step was run')}`;
  return [
    `# Sign-off of n-kudo: ${isPassed(report) ? 'PASSED' : 'FAILED'}`,
    '',
    verdict,
    '',
    `Installation ${report.installation}, ${report.startedAt}, ${seconds(report.durationMs)} in all. Agent ${report.agentVersion}; ${report.hypervisor}.`,
    '',
    '| step | result | time | what it shows | detail |',
    '| --- | --- | --- | --- | --- |',
    ...report.steps.map(({ name, shows, outcome, durationMs, detail }) => `| ${name} | ${signs[outcome]} | ${outcome === 'notRun' ? '' : seconds(durationMs)} | ${shows} | ${cell(detail)} |`),
    '',
    `Logs of this machine: ${report.logs}`,
    '',
  ].join('\n');
}

export function renderJson(report: SmokeReport): string {
  return `${JSON.stringify({ passed: isPassed(report), ...report }, null, 2)}\n`;
}
