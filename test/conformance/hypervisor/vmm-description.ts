/**
 * The VMM's own OpenAPI description as a judge: whether a request or an answer is as described, and which members two
 * configurations differ in, by the names that the table of fields uses. In requests what the description does not
 * know is an error, since the VMM passes over it without a word; answers may say more.
 */
import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { parse } from 'yaml';

interface Schema {
  readonly $ref?: string;
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: unknown;
}
interface Description {
  readonly paths: Readonly<Record<string, { readonly put?: { readonly requestBody?: { readonly content: { readonly 'application/json': { readonly schema: Schema } } } } }>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}

export type Members = Readonly<Record<string, unknown>>;

// The file that the adapter's types are generated from; the parts that are read are named above.
const description = parse(readFileSync(new URL('../../../edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.yaml', import.meta.url), 'utf8')) as Description;
const prefix = '#/components/schemas/';
const basePath = '/api/v1';

const strict = new Ajv2020({ strict: false, validateFormats: false, allErrors: true }).addSchema({ $id: 'vmm', ...closed(description) });
const open = new Ajv2020({ strict: false, validateFormats: false, allErrors: true }).addSchema({ $id: 'vmm', ...description });

/** Every object with named members takes no others. */
function closed<Value>(value: Value): Value {
  if (Array.isArray(value)) return value.map((item: unknown) => closed(item)) as Value; // The same shape again.
  if (typeof value !== 'object' || value === null) return value;
  const inner = Object.fromEntries(Object.entries(value).map(([key, item]: [string, unknown]) => [key, closed(item)]));
  const isSchema = typeof inner['properties'] === 'object' && inner['type'] === 'object' && inner['additionalProperties'] === undefined;
  return { ...inner, ...(isSchema ? { additionalProperties: false } : {}) } as Value;
}

function problemsOf(validate: ValidateFunction | undefined, value: unknown): readonly string[] {
  if (validate === undefined) return ['the description does not know it'];
  validate(value);
  return (validate.errors ?? []).map(({ instancePath, message, params }) => `${instancePath} ${message ?? ''} ${JSON.stringify(params)}`);
}

/** What is wrong with a PUT, by the description; empty: nothing. `path`: as sent, with the prefix of the API. */
export function requestProblems(path: string, body: unknown): readonly string[] {
  const call = path.startsWith(`${basePath}/`) ? path.slice(basePath.length) : path;
  const put = description.paths[call]?.put;
  if (put === undefined) return [`no call ${call}`];
  if (put.requestBody === undefined) return body === undefined ? [] : [`${call} takes no body`];
  if (body === undefined) return [`${call} needs a body`];
  return problemsOf(strict.getSchema(`vmm#/paths/${call.replaceAll('~', '~0').replaceAll('/', '~1')}/put/requestBody/content/application~1json/schema`), body);
}

/** What is wrong with the answer to vm.info. Measured on v54: what is absent may be null. */
export function answerProblems(body: unknown): readonly string[] {
  const present: unknown = JSON.parse(JSON.stringify(body), (_key, value: unknown) => value ?? undefined);
  return problemsOf(open.getSchema(`vmm${prefix}VmInfo`), present);
}

export interface Difference {
  /** `<schema>.<property>` of plain values. */
  readonly members: ReadonlySet<string>;
  /** The same of objects and lists that something differs in, also only the order. */
  readonly around: ReadonlySet<string>;
}

/** Where two configurations differ. Devices of a list are told by their ids, in its order. */
export function differenceOf(before: Members, after: Members, schema = 'VmConfig'): Difference {
  const members = new Set<string>();
  const around = new Set<string>();
  compare(schema, before, after);
  return { members, around };

  function compare(name: string, one: Members, other: Members): void {
    for (const property of new Set([...Object.keys(one), ...Object.keys(other)])) {
      if (isDeepStrictEqual(one[property], other[property])) continue;
      const described = description.components.schemas[name]?.properties?.[property];
      if (described === undefined) throw new Error(`the description has no ${name}.${property}`);
      const inner = (described.items ?? described).$ref?.slice(prefix.length);
      if (inner === undefined || description.components.schemas[inner]?.properties === undefined) members.add(`${name}.${property}`);
      else {
        around.add(`${name}.${property}`);
        if (described.items === undefined) compare(inner, asMembers(one[property]), asMembers(other[property]));
        else compareLists(inner, asList(one[property]), asList(other[property]));
      }
    }
  }

  function compareLists(name: string, one: readonly Members[], other: readonly Members[]): void {
    const ids = (list: readonly Members[]): readonly unknown[] => list.map(({ id }) => id);
    const isSameSet = isDeepStrictEqual([...ids(one)].sort(), [...ids(other)].sort());
    for (let index = 0; index < Math.max(one.length, other.length); index += 1) {
      const left = one[index];
      const right = isSameSet ? other.find(({ id }) => id === left?.['id']) : other[index];
      compare(name, left ?? {}, right ?? {});
    }
  }
}

function asMembers(value: unknown): Members {
  return typeof value === 'object' && value !== null ? (value as Members) : {}; // An object of a JSON text.
}

function asList(value: unknown): readonly Members[] {
  return Array.isArray(value) ? value.map(asMembers) : [];
}
