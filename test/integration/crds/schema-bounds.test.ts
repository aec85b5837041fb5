/**
 * Bounds of the schemas on a real API server, and the proof that nothing in them is unbounded.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { useCrdServer, type CrdServer } from './api-server.ts';
import { boundCases } from './bound-cases.ts';
import { readCrds, schemaOf, walkSchema, type Schema } from './crd-source.ts';
import { baseSpecs } from './rule-cases.ts';

let server: CrdServer;
beforeAll(async () => {
  server = await useCrdServer({ withUnlocked: true });
});

const titled = (specs: readonly unknown[]): { readonly title: string; readonly spec: unknown }[] =>
  specs.map((spec) => ({ title: JSON.stringify(spec).slice(0, 160), spec }));

describe.each(boundCases)('$kind ($variant): $field', ({ kind, variant, field, accepted, refused }) => {
  const tag = variant === 'shipped' ? '[S6] ' : '';
  for (const { title, spec } of titled(accepted)) {
    it(`accepts ${title}`, async () => {
      expect(await server.offer({ kind, variant, spec })).toEqual([]);
    });
  }
  for (const { title, spec } of titled(refused)) {
    it(`${tag}refuses ${title}`, async () => {
      const causes = await server.offer({ kind, variant, spec });
      expect(causes.filter((cause) => cause.field.startsWith(field)).length, JSON.stringify(causes)).toBeGreaterThan(0);
    });
  }
});

describe('the status', () => {
  const spec = baseSpecs.MicroVM;
  const condition = { type: 'Ready', status: 'True', lastTransitionTime: '2026-01-02T03:04:05Z', reason: 'NoProbe', message: 'the guest runs' };
  const offer = (status: unknown): ReturnType<CrdServer['offerStatus']> => server.offerStatus({ kind: 'MicroVM', spec, status });

  it('accepts one condition of each type', async () => {
    expect(await offer({ conditions: [condition, { ...condition, type: 'Running', reason: 'Running' }] })).toEqual([]);
  });
  it.each([
    ['two conditions of one type', { conditions: [condition, condition] }],
    ['a condition without a reason', { conditions: [{ ...condition, reason: '' }] }],
    ['a condition without a time', { conditions: [{ ...condition, lastTransitionTime: undefined }] }],
    ['a printableStatus out of the list', { printableStatus: 'Sleeping' }],
    ['an exit reason out of the list', { restarts: { lastExitReason: 'Boredom' } }],
    ['an epoch beyond 2^53', { binding: { hostName: 'edge-1', epoch: 2 ** 60 } }],
  ])('refuses %s', async (_title, status) => {
    expect((await offer(status)).length).toBeGreaterThan(0);
  });
});

/** Why a node of a schema is unbounded, or null. */
function unboundedBecause(schema: Schema): string | null {
  if (schema['x-kubernetes-int-or-string'] === true) return schema.maxLength === undefined ? 'maxLength' : null;
  switch (schema.type) {
    case 'string':
      return schema.maxLength === undefined && schema.enum === undefined && schema.format !== 'date-time' ? 'maxLength' : null;
    case 'integer':
      return schema.minimum === undefined || schema.maximum === undefined ? 'minimum and maximum' : null;
    case 'array':
      if (schema.maxItems === undefined) return 'maxItems';
      return schema['x-kubernetes-list-type'] === undefined ? 'x-kubernetes-list-type' : null;
    case 'object':
      return schema.additionalProperties !== undefined && schema.maxProperties === undefined ? 'maxProperties' : null;
    default:
      return null;
  }
}

describe.each(readCrds().map((crd) => ({ kind: crd.spec.names.kind, crd })))('the schema of $kind', ({ crd }) => {
  const nodes = [...walkSchema(schemaOf(crd))].filter(({ path }) => path !== '.metadata');

  it('bounds every string, number, list and map', () => {
    const unbounded = nodes.flatMap(({ path, schema }) => {
      const reason = unboundedBecause(schema);
      return reason === null ? [] : [`${path}: ${reason}`];
    });
    expect(unbounded).toEqual([]);
  });

  it('describes every field', () => {
    const undescribed = nodes.filter(({ path, schema }) => !/(\[\]|\{\})$/.test(path) && (schema.description ?? '') === '');
    expect(undescribed.map(({ path }) => path)).toEqual([]);
  });

  it('keys lists of named things by name and conditions by type', () => {
    const wrong = nodes.filter(({ path, schema }) => {
      if (schema.type !== 'array' || schema.items?.required?.includes('name') !== true) return false;
      return schema['x-kubernetes-list-map-keys']?.join() !== 'name' || path === '';
    });
    expect(wrong.map(({ path }) => path)).toEqual([]);
    const conditions = nodes.find(({ path }) => path === '.status.conditions')?.schema;
    // A class has no conditions.
    if (crd.spec.names.kind !== 'MicroVMClass') expect(conditions?.['x-kubernetes-list-map-keys']).toEqual(['type']);
  });

  it('is namespaced, in the category nkudo, with a status subresource', () => {
    expect(crd.spec.scope).toBe('Namespaced');
    expect(crd.spec.names.categories).toEqual(['nkudo']);
    expect(crd.spec.versions[0].subresources.status).toEqual({});
  });
});
