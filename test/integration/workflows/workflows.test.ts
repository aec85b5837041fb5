/** The workflows of the forge: clean by actionlint, actions pinned by their commits, tokens that may do no more than they must. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { repositoryRoot } from '#hack/build-cache.ts';
import { ensureGoTool } from '#hack/build-go-tools.ts';

const directory = join(repositoryRoot, '.github', 'workflows');
const files = readdirSync(directory).map((name) => join(directory, name));

interface Workflow {
  readonly permissions?: Readonly<Record<string, string>>;
  readonly jobs: Readonly<Record<string, { readonly 'timeout-minutes'?: number; readonly steps: readonly { readonly uses?: string; readonly with?: Readonly<Record<string, unknown>> }[] }>>;
}
const workflows = files.map((file) => ({ file, text: readFileSync(file, 'utf8'), workflow: parse(readFileSync(file, 'utf8')) as Workflow })); // Our own files.

test('actionlint finds nothing', async () => {
  const actionlint = await ensureGoTool('actionlint', () => {});
  const { status, stdout } = spawnSync(actionlint, ['-shellcheck=', '-pyflakes=', ...files], { encoding: 'utf8' });
  expect(stdout).toBe('');
  expect(status).toBe(0);
  expect(spawnSync(actionlint, ['-shellcheck=', '-'], { input: 'on: push\njobs: { a: { runs-on: ubuntu-24.04, steps: [{ ran: x }] } }\n' }).status).not.toBe(0);
}, 300_000);

test('every action is pinned by its commit, with its version beside it', () => {
  const uses = workflows.flatMap(({ text }) => text.split('\n').filter((line) => /\buses:/.test(line)));
  expect(uses.length).toBeGreaterThan(5);
  for (const line of uses) expect(line).toMatch(/uses: [\w.-]+\/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
});

test('tokens may only read, no job runs without an end, and no checkout leaves its token behind', () => {
  for (const { file, workflow } of workflows) {
    expect(workflow.permissions, file).toEqual({ contents: 'read' });
    for (const [name, job] of Object.entries(workflow.jobs)) {
      expect(job['timeout-minutes'], `${file} ${name}`).toBeGreaterThan(0);
      for (const step of job.steps.filter(({ uses }) => uses?.startsWith('actions/checkout@') === true)) expect(step.with).toMatchObject({ 'persist-credentials': false });
    }
  }
});
