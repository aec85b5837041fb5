/** Renders the chart with the real Helm, as plain objects. */
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { repositoryRoot } from '#hack/build-cache.ts';

export const chartDirectory = join(repositoryRoot, 'charts', 'nkudo');
/** Sets of values that each must work; the empty one is the default. */
export const valuesFiles: readonly string[] = readdirSync(join(chartDirectory, 'ci')).map((name) => join(chartDirectory, 'ci', name));
export const nameOf = (file: string): string => basename(file, '-values.yaml');

export interface Rendered {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly annotations?: Readonly<Record<string, string>>; readonly labels?: Readonly<Record<string, string>> };
  readonly [key: string]: unknown;
}

export interface Run {
  readonly code: number;
  readonly output: string;
}

/** Never through a shell; `input` goes to standard input. */
export function runProgram(program: string, args: readonly string[], input?: string): Promise<Run> {
  return new Promise((resolve) => {
    const child = execFile(program, args, { maxBuffer: 64 * 2 ** 20, env: { ...process.env, HELM_CACHE_HOME: '/nonexistent', HELM_CONFIG_HOME: '/nonexistent' } }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      resolve({ code, output: code === 0 ? stdout : `${stdout}${stderr}` });
    });
    child.stdin?.end(input ?? '');
  });
}

export const namespace = 'nkudo-system';

export function helmTemplate(helm: string, args: readonly string[]): Promise<Run> {
  return runProgram(helm, ['template', 'nkudo', chartDirectory, '--namespace', namespace, ...args]);
}

/** @throws Error with Helm's words */
export async function render(helm: string, args: readonly string[]): Promise<readonly Rendered[]> {
  const { code, output } = await helmTemplate(helm, args);
  if (code !== 0) throw new Error(output);
  return parseManifests(output);
}

export function parseManifests(text: string): readonly Rendered[] {
  return parseAllDocuments(text).map((document) => document.toJS() as Rendered | null).filter((object) => object !== null); // Helm's output, which the tests look at.
}

/** @throws Error when there is not exactly one */
export function pick(objects: readonly Rendered[], kind: string, name: string): Rendered {
  const found = objects.filter((object) => object.kind === kind && object.metadata.name === name);
  const [only] = found;
  if (only === undefined || found.length > 1) throw new Error(`${found.length} objects are ${kind}/${name}; there are ${objects.map((object) => `${object.kind}/${object.metadata.name}`).join(', ')}`);
  return only;
}
