/**
 * The committed TypeScript types are those that the YAML gives, and the closed lists of the schemas
 * agree with the vocabulary of the rest of the product.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { errorCatalogue } from '#api/model/error-codes.ts';
import { hostPhases } from '#api/model/host.ts';
import { exitReasons, runPolicies } from '#api/model/microvm.ts';
import { planStatuses } from '#api/model/plan.ts';
import { conditionsByKind, hostFailureReasons } from '#crds/conditions.ts';
import { kinds, readCrds, schemaOf, walkSchema, type Kind } from './crd-source.ts';

const generator = fileURLToPath(new URL('../../../hack/generate-crd-types.ts', import.meta.url));

function enumOf(kind: Kind, path: string): readonly string[] | undefined {
  const crd = readCrds().find(({ spec }) => spec.names.kind === kind);
  return crd === undefined ? undefined : [...walkSchema(schemaOf(crd))].find((node) => node.path === path)?.schema.enum;
}

describe('crds/gen', () => {
  it('is what the YAML gives', () => {
    const { status, stderr } = spawnSync(process.execPath, [generator, '--check'], { encoding: 'utf8' });
    expect(stderr).toBe('');
    expect(status).toBe(0);
  });
});

describe('the closed lists of the schemas', () => {
  it.each([
    ['MicroVM', '.spec.runPolicy', runPolicies],
    ['MicroVM', '.status.restarts.lastExitReason', exitReasons],
    ['MicroVM', '.status.plan.status', planStatuses],
    ['Host', '.status.phase', hostPhases],
  ] as const)('%s %s is that of api/model', (kind, path, values) => {
    expect(enumOf(kind, path)).toEqual(values);
  });
});

describe('crds/conditions', () => {
  // A class has no status of its own.
  const reported = kinds.filter((kind) => kind !== 'MicroVMClass');
  const definitions = reported.flatMap((kind) => Object.entries(conditionsByKind[kind]).map(([type, definition]) => ({ kind, type, definition })));

  it('has a condition Ready with positive polarity for every kind', () => {
    for (const kind of reported) expect(conditionsByKind[kind].Ready.polarity).toBe('positive');
  });

  it.each(definitions)('$kind $type has distinct CamelCase reasons', ({ type, definition }) => {
    expect(new Set(definition.reasons).size).toBe(definition.reasons.length);
    for (const word of [type, ...definition.reasons]) expect(word).toMatch(/^[A-Z][A-Za-z]{1,63}$/);
  });

  it('knows every reason that a host reports as an error of the catalogue', () => {
    const known = new Set<string>(Object.values(errorCatalogue).map(({ reason }) => reason));
    expect(hostFailureReasons.filter((reason) => !known.has(reason))).toEqual([]);
  });
});
