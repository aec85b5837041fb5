/** The table of fields against what it speaks of: the message that hosts get, and the description of the VMM. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { fieldEffects, type FieldEffect } from './field-effects.ts';

const repository = join(import.meta.dirname, '..', '..');
const proto = readFileSync(join(repository, 'api/proto/nkudo/edge/v1/edge.proto'), 'utf8');

/** Fields of a message as the file writes them; names of types that are messages lead on. */
function fieldsOf(message: string, path: readonly string[] = []): string[] {
  const body = new RegExp(`^message ${message} \\{\\n([\\s\\S]*?)^\\}`, 'm').exec(proto)?.[1];
  if (body === undefined) throw new Error(`edge.proto has no message ${message}`);
  const withoutEnums = body.replaceAll(/^ {2}enum [\s\S]*?^ {2}\}\n/gm, '');
  const fields = [...withoutEnums.matchAll(/^ {2,4}(?:repeated |optional )?([A-Za-z_0-9.]+) ([a-z_0-9]+) = \d+( \[.*\])?;/gm)];
  return fields.flatMap(([, type = '', name = '']) => {
    const isMessage = new RegExp(`^message ${type} \\{`, 'm').test(proto);
    return isMessage ? fieldsOf(type, [...path, name]) : [[...path, name].join('.')];
  });
}

test('[E2] every field of DesiredMicroVM has exactly one row, and every row a field', () => {
  const rows = fieldEffects.map(({ field }) => field);
  expect(new Set(rows).size).toBe(rows.length);
  expect([...rows].sort()).toEqual(fieldsOf('DesiredMicroVM').sort());
  expect(rows.length).toBeGreaterThan(40);
});

test('[E2] every member and call that the table names is in the description of Cloud Hypervisor', () => {
  // The description that the types are generated from; only what is read here is typed.
  const api = parse(readFileSync(join(repository, 'edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.yaml'), 'utf8')) as {
    readonly paths: Readonly<Record<string, object>>;
    readonly components: { readonly schemas: Readonly<Record<string, { readonly properties?: Readonly<Record<string, object>> }>> };
  };
  for (const { field, config, calls = [] } of fieldEffects as readonly FieldEffect[]) {
    for (const member of config) {
      const [schema = '', property = ''] = member.split('.');
      expect(api.components.schemas[schema]?.properties, `${field}: ${member}`).toHaveProperty(property);
    }
    for (const call of calls) expect(api.paths, `${field}: ${call}`).toHaveProperty([call]);
  }
});
