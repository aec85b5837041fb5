/**
 * Writes crds/gen/*.ts from crds/v1alpha1/*.yaml: one file for each kind, and one for what all share.
 * The YAML is the source of truth; nobody edits the output. `--check` writes nothing and fails when
 * the committed files differ from what the YAML gives now.
 * Invariant: the output depends on the YAML only, so that two runs agree byte for byte.
 */
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compile, type JSONSchema } from 'json-schema-to-typescript';
import { parse } from 'yaml';

const sourceDirectory = fileURLToPath(new URL('../crds/v1alpha1/', import.meta.url));
const outputDirectory = fileURLToPath(new URL('../crds/gen/', import.meta.url));
const sharedFile = 'kubernetes.ts';

/** The part of OpenAPI v3 that a structural schema uses and that matters for types. */
interface Schema {
  type?: string;
  description?: string;
  title?: string;
  format?: string;
  enum?: string[];
  default?: unknown;
  required?: string[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema;
  items?: Schema;
  'x-kubernetes-int-or-string'?: boolean;
  'x-kubernetes-preserve-unknown-fields'?: boolean;
}

interface CustomResourceDefinition {
  spec: { group: string; names: { kind: string }; versions: { name: string; schema: { openAPIV3Schema: Schema } }[] };
}

const fileHeader = (source: string): string => `/**
 * Generated from ${source} by hack/generate-crd-types.ts; do not edit.
 * Times are RFC 3339 strings, as the API server sends them. Fields with a default are present on
 * every object that was read from the API server; they are optional here because writers may leave them out.
 */
`;

const sharedText = `/**
 * Written by hack/generate-crd-types.ts; do not edit.
 * What every kind of this group has in common. Times are RFC 3339 strings, as the API server sends
 * them, so that no client library's Date conversion is needed.
 */

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

export interface ObjectMeta {
  name: string;
  namespace: string;
  uid: string;
  resourceVersion: string;
  generation: number;
  creationTimestamp: string;
  deletionTimestamp?: string;
  deletionGracePeriodSeconds?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  finalizers?: string[];
  ownerReferences?: OwnerReference[];
}

/** Metadata of an object that is about to be created. */
export type NewObjectMeta = Pick<ObjectMeta, 'name'> & Partial<ObjectMeta>;

export interface ListMeta {
  resourceVersion: string;
  continue?: string;
  remainingItemCount?: number;
}

export interface Condition {
  type: string;
  status: 'True' | 'False' | 'Unknown';
  /** Generation of the object that this condition was derived from. */
  observedGeneration?: number;
  lastTransitionTime: string;
  reason: string;
  message: string;
}
`;

const pascal = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** Name of one element of a list: disks -> Disk, addresses -> Address. */
function singular(listName: string): string {
  if (listName.endsWith('sses')) return listName.slice(0, -2);
  return listName.endsWith('s') ? listName.slice(0, -1) : listName;
}

/** The same schema as json-schema-to-typescript wants it: every object titled, special values typed. */
function toJsonSchema(schema: Schema, title: string): JSONSchema {
  const described: JSONSchema = {};
  const defaultNote = schema.default === undefined ? '' : `\n\nDefault: ${JSON.stringify(schema.default)}.`;
  if (schema.description !== undefined) described.description = schema.description + defaultNote;
  if (schema['x-kubernetes-int-or-string'] === true) return { ...described, tsType: 'number | string' };
  if (schema['x-kubernetes-preserve-unknown-fields'] === true) return { ...described, tsType: 'Record<string, unknown>' };
  if (schema.enum !== undefined) return { ...described, type: 'string', enum: schema.enum };
  if (schema.items !== undefined) {
    return { ...described, type: 'array', items: toJsonSchema(schema.items, singular(title)) };
  }
  if (schema.additionalProperties !== undefined) return { ...described, tsType: 'Record<string, string>' };
  if (schema.type !== 'object') {
    return { ...described, type: schema.type === 'integer' || schema.type === 'boolean' ? schema.type : 'string' };
  }
  return { ...described, ...objectSchema(schema, title) };
}

function objectSchema(schema: Schema, title: string): JSONSchema {
  const properties: Record<string, JSONSchema> = {};
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const isConditions = name === 'conditions' && property.type === 'array';
    properties[name] = isConditions
      ? { description: property.description ?? '', tsType: 'Condition[]' }
      : toJsonSchema(property, title.replace(/Spec$/, '') + pascal(name));
  }
  return { type: 'object', title, additionalProperties: false, required: schema.required ?? [], properties };
}

function generatedName(definition: CustomResourceDefinition): string {
  return `${definition.spec.names.kind.toLowerCase()}.ts`;
}

async function generateKind(definition: CustomResourceDefinition, source: string): Promise<string> {
  const { group, names, versions } = definition.spec;
  const version = versions[0];
  if (version === undefined) throw new Error(`${source} has no version`);
  const { kind } = names;
  const root = version.schema.openAPIV3Schema;
  const whole = toJsonSchema({ ...root, required: ['spec'] }, kind);
  const properties: Record<string, JSONSchema> = {
    ...whole.properties,
    apiVersion: { tsType: `'${group}/${version.name}'` },
    kind: { tsType: `'${kind}'` },
    metadata: { tsType: 'ObjectMeta' },
  };
  const body = await compile({ ...whole, required: ['apiVersion', 'kind', 'metadata', 'spec'], properties }, kind, {
    bannerComment: '',
    ignoreMinAndMaxItems: true,
    style: { singleQuote: true, printWidth: 120 },
  });
  const list = `
export interface ${kind}List {
  apiVersion: '${group}/${version.name}';
  kind: '${kind}List';
  metadata: ListMeta;
  items: ${kind}[];
}
`;
  const imports = ['Condition', 'ListMeta', 'ObjectMeta'];
  return `${fileHeader(source)}import type { ${imports.join(', ')} } from './${sharedFile}';\n\n${body}${list}`;
}

/** File name -> content of everything that belongs into crds/gen. */
async function generateAll(): Promise<Map<string, string>> {
  const files = new Map([[sharedFile, sharedText]]);
  for (const source of (await readdir(sourceDirectory)).filter((name) => name.endsWith('.yaml')).sort()) {
    // The API server is the judge of these files (test/integration/crds); here only their shape is assumed.
    const definition = parse(await readFile(join(sourceDirectory, source), 'utf8')) as CustomResourceDefinition;
    files.set(generatedName(definition), await generateKind(definition, `crds/v1alpha1/${source}`));
  }
  return files;
}

/** Names of the files that differ from the generated ones, those that should not be there included. */
async function staleFiles(files: ReadonlyMap<string, string>): Promise<string[]> {
  const present = await readdir(outputDirectory).catch(() => []);
  const stale = present.filter((name) => !files.has(name));
  for (const [name, text] of files) {
    const committed = await readFile(join(outputDirectory, name), 'utf8').catch(() => undefined);
    if (committed !== text) stale.push(name);
  }
  return stale;
}

async function main(args: readonly string[]): Promise<number> {
  if (args.includes('--help')) {
    console.log('usage: generate-crd-types.ts [--check]\nWrites crds/gen from crds/v1alpha1; --check only compares.');
    return 0;
  }
  const files = await generateAll();
  if (args.includes('--check')) {
    const stale = await staleFiles(files);
    if (stale.length > 0) console.error(`crds/gen is stale: ${stale.join(', ')}; run hack/generate-crd-types.ts`);
    return stale.length > 0 ? 1 : 0;
  }
  await mkdir(outputDirectory, { recursive: true });
  for (const [name, text] of files) await writeFile(join(outputDirectory, name), text);
  console.log(`crds/gen: ${files.size} files written`);
  return 0;
}

process.exitCode = await main(process.argv.slice(2));
