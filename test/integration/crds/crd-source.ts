/**
 * The CRD files as these tests see them: every validation rule with its place, and an unlocked copy.
 * The unlocked copy is the same schema in another API group without the rules that refuse reserved
 * fields, so that the rules behind reserved fields are tested today, on a real API server.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

const directory = fileURLToPath(new URL('../../../crds/v1alpha1/', import.meta.url));

export const kinds = ['Site', 'Host', 'MicroVM', 'EnrollmentToken', 'APIKey', 'MicroVMClass', 'MicroVMSet', 'AgentRollout'] as const;
export type Kind = (typeof kinds)[number];

export const groups = { shipped: 'nkudo.dev', unlocked: 'unlocked.nkudo.dev' } as const;
export type Variant = keyof typeof groups;

export interface ValidationRule {
  readonly rule: string;
  readonly message: string;
}

/** The part of a structural schema that these tests read. */
export interface Schema {
  readonly type?: string;
  readonly description?: string;
  readonly format?: string;
  readonly enum?: readonly string[];
  readonly required?: readonly string[];
  readonly maxLength?: number;
  readonly maxItems?: number;
  readonly maxProperties?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: Schema;
  readonly items?: Schema;
  readonly 'x-kubernetes-int-or-string'?: boolean;
  readonly 'x-kubernetes-list-type'?: string;
  readonly 'x-kubernetes-list-map-keys'?: readonly string[];
  readonly 'x-kubernetes-validations'?: readonly ValidationRule[];
}

export interface Crd {
  readonly metadata: { readonly name: string };
  readonly spec: {
    readonly group: string;
    readonly scope: string;
    readonly names: {
      readonly kind: Kind;
      readonly plural: string;
      readonly shortNames: readonly string[];
      readonly categories: readonly string[];
    };
    readonly versions: readonly [
      {
        readonly name: string;
        readonly subresources: { readonly status: object };
        readonly additionalPrinterColumns: readonly { readonly name: string; readonly jsonPath: string; readonly priority?: number }[];
        readonly schema: { readonly openAPIV3Schema: Schema };
      },
    ];
  };
}

const reservedPrefix = 'reserved: ';

/** The committed CRDs, in the order of {@link kinds}. */
export function readCrds(): readonly Crd[] {
  // Their shape is judged by the API server before anything here is asserted.
  const crds = readdirSync(directory)
    .filter((file) => file.endsWith('.yaml'))
    .map((file) => parse(readFileSync(`${directory}${file}`, 'utf8')) as Crd);
  return crds.toSorted((a, b) => kinds.indexOf(a.spec.names.kind) - kinds.indexOf(b.spec.names.kind));
}

export const schemaOf = (crd: Crd): Schema => crd.spec.versions[0].schema.openAPIV3Schema;

/** Every schema node below and with this one, with a path such as `.spec.disks[].path`. */
export function* walkSchema(schema: Schema, path = ''): Generator<{ readonly path: string; readonly schema: Schema }> {
  yield { path, schema };
  for (const [name, property] of Object.entries(schema.properties ?? {})) yield* walkSchema(property, `${path}.${name}`);
  if (schema.items !== undefined) yield* walkSchema(schema.items, `${path}[]`);
  if (schema.additionalProperties !== undefined) yield* walkSchema(schema.additionalProperties, `${path}{}`);
}

export interface LocatedRule extends ValidationRule {
  readonly kind: Kind;
  readonly path: string;
}

/** Every validation rule of every kind. */
export function allRules(): readonly LocatedRule[] {
  return readCrds().flatMap((crd) =>
    [...walkSchema(schemaOf(crd))].flatMap(({ path, schema }) =>
      (schema['x-kubernetes-validations'] ?? []).map((rule) => ({ ...rule, kind: crd.spec.names.kind, path })),
    ),
  );
}

export const isReservedRule = (rule: ValidationRule): boolean => rule.message.startsWith(reservedPrefix);

/** The same CRD in the group of the unlocked copy, without the rules that refuse reserved fields. */
export function unlocked(crd: Crd): unknown {
  const withoutReserved: unknown = JSON.parse(JSON.stringify(crd), (key, value: unknown) =>
    key === 'x-kubernetes-validations' && Array.isArray(value)
      ? value.filter((rule: ValidationRule) => !isReservedRule(rule))
      : value,
  );
  const copy = withoutReserved as Crd;
  const { names } = copy.spec;
  return {
    ...copy,
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${names.plural}.${groups.unlocked}` },
    spec: {
      ...copy.spec,
      group: groups.unlocked,
      // Short names and the category stay with the shipped kinds.
      names: { kind: names.kind, plural: names.plural },
    },
  };
}
