/**
 * JSON schemas of Kubernetes' own kinds for kubeconform, made from the OpenAPI description inside the Go module that the
 * tests' API server is built from. Strict: a field that the kind does not have is refused.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buildOnce, contentKey, repositoryRoot } from './build-cache.ts';

const moduleDirectory = join(repositoryRoot, 'hack', 'kubernetes');
/** Of this file's translation; raised with it. */
const translation = '1';

interface Definition {
  readonly type?: string;
  readonly format?: string;
  readonly properties?: Readonly<Record<string, unknown>>;
  readonly 'x-kubernetes-group-version-kind'?: readonly { readonly group: string; readonly version: string; readonly kind: string }[];
}

/** Pattern for kubeconform's `-schema-location`. */
export async function ensureKubernetesSchemas(): Promise<string> {
  const directory = await buildOnce({
    kind: 'kubernetes-schemas',
    key: contentKey([translation, readFileSync(join(moduleDirectory, 'go.mod'))]),
    build: async (staging) => {
      const text = readFileSync(join(moduleFolder(), 'api', 'openapi-spec', 'swagger.json'), 'utf8');
      const { definitions } = JSON.parse(text) as { definitions: Record<string, Definition> }; // Shape of every OpenAPI 2 description.
      await writeFile(join(staging, '_definitions.json'), JSON.stringify({ definitions: translate(definitions) }));
      for (const [name, definition] of Object.entries(definitions)) {
        for (const { group, version, kind } of definition['x-kubernetes-group-version-kind'] ?? []) {
          const suffix = [...(group === '' ? [] : [group.split('.')[0] ?? '']), version].join('-');
          await writeFile(join(staging, `${kind.toLowerCase()}-${suffix}.json`), JSON.stringify({ $ref: `_definitions.json#/definitions/${name}` }));
        }
      }
    },
  });
  return `${directory}/{{ .ResourceKind }}{{ .KindSuffix }}.json`;
}

/** Downloads the module when only the programs made from it are in the cache. */
function moduleFolder(): string {
  const run = spawnSync('go', ['mod', 'download', '-json', 'k8s.io/kubernetes'], { cwd: moduleDirectory, encoding: 'utf8', env: { GOTOOLCHAIN: 'auto', ...process.env } });
  if (run.status !== 0) throw new Error(`the Kubernetes module can't be had: ${run.stderr}`);
  return (JSON.parse(run.stdout) as { Dir: string }).Dir; // Source: go help mod download.
}

/** OpenAPI 2 to JSON Schema: no unknown fields, and values that may be a number or a text. */
function translate(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(translate);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).map(([key, inner]): [string, unknown] => [key, key === '$ref' && typeof inner === 'string' ? inner.replace('#/definitions/', '#/definitions/') : translate(inner)]);
  const result = Object.fromEntries(entries);
  if (result['format'] === 'int-or-string') return { description: result['description'], oneOf: [{ type: 'string' }, { type: 'integer' }] };
  const properties = result['properties'];
  const isObject = typeof properties === 'object' && properties !== null && !('$ref' in properties && typeof properties.$ref === 'string');
  return isObject && result['additionalProperties'] === undefined ? { ...result, additionalProperties: false } : result;
}
