/**
 * Every example is applied as a newcomer would, and the full ones really are full: each field that has
 * an effect is in them.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { useCrdServer, type CrdServer } from './api-server.ts';
import { kinds, readCrds, schemaOf, walkSchema, type Kind } from './crd-source.ts';

const directory = fileURLToPath(new URL('../../../examples/', import.meta.url));
const files = readdirSync(directory).filter((file) => file.endsWith('.yaml'));

/** Examples of one subject beside those of each kind. */
const topics = ['site-mesh.yaml', 'site-images.yaml', 'microvm-networks.yaml', 'microvm-disks.yaml', 'microvm-sizes.yaml', 'microvm-probes.yaml', 'microvm-cloud-init.yaml', 'microvm-cloud-init-secret.yaml'];

/** Fields that work and that the full example can't show, with the reason. */
const leftOut: Readonly<Record<string, string>> = {
  'MicroVMSet .spec.siteSelector': 'with mode PerSite only; shown as a comment',
  'MicroVM .spec.className': 'it writes its own sizes',
  'Host .spec.drain': 'a host that is to be used is not drained; shown as a comment',
  'MicroVM .spec.boot.firmware': 'exactly one of kernel and firmware',
  'MicroVM .spec.boot.kernel.initramfs': 'the test guest needs none; shown as a comment',
  'MicroVM .spec.placement.hostSelector': 'shown as a comment beside hostName',
  'MicroVM .spec.probes.startup.tcp': 'exactly one of four; shown at another probe or in a comment',
  'MicroVM .spec.probes.startup.http': 'exactly one of four; shown at another probe',
  'MicroVM .spec.probes.startup.vsock': 'exactly one of four; shown at another probe',
  'MicroVM .spec.probes.readiness.tcp': 'exactly one of four; shown at another probe or in a comment',
  'MicroVM .spec.probes.readiness.console': 'exactly one of four; shown at another probe',
  'MicroVM .spec.probes.readiness.vsock': 'exactly one of four; shown at another probe',
  'MicroVM .spec.probes.liveness.tcp': 'exactly one of four; shown at another probe or in a comment',
  'MicroVM .spec.probes.liveness.http': 'exactly one of four; shown at another probe',
  'MicroVM .spec.probes.liveness.console': 'exactly one of four; shown at another probe',
};

interface Manifest {
  readonly kind: Kind;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly spec: unknown;
}
const readExample = (file: string): Manifest => parse(readFileSync(`${directory}${file}`, 'utf8')) as Manifest; // Committed files; the API server judges them below.

let server: CrdServer;
beforeAll(async () => {
  server = await useCrdServer({ withUnlocked: false });
});

describe('the examples', () => {
  it('are one minimal and one full manifest for each kind', () => {
    const expected = kinds.map((kind) => kind.toLowerCase()).flatMap((kind) => [`${kind}.yaml`, `${kind}-full.yaml`]);
    expect(files.toSorted()).toEqual([...expected, ...topics].toSorted());
  });

  it.each(files)('%s is applied by kubectl into any namespace, twice', async (file) => {
    const { kind, metadata } = readExample(file);
    expect(metadata.namespace).toBeUndefined();
    const apply = (): ReturnType<CrdServer['kubectl']> =>
      server.kubectl(['apply', '--filename', `${directory}${file}`], { namespace: server.namespace });
    expect((await apply()).stdout).toBe(`${kind.toLowerCase()}.nkudo.dev/${metadata.name} created\n`);
    expect((await apply()).stdout).toBe(`${kind.toLowerCase()}.nkudo.dev/${metadata.name} unchanged\n`);
  });

  it.each(files)('%s begins with a comment for the reader', (file) => {
    expect(readFileSync(`${directory}${file}`, 'utf8')).toMatch(/^# [A-Z]/);
  });
});

/** Paths such as `.spec.boot.kernel.path` of all values in a manifest. */
function pathsOf(value: unknown, path: string): string[] {
  if (Array.isArray(value)) return [path, ...value.flatMap((item) => pathsOf(item, `${path}[]`))];
  if (typeof value !== 'object' || value === null) return [path];
  return [path, ...Object.entries(value).flatMap(([name, item]) => pathsOf(item, `${path}.${name}`))];
}

/** Fields below the spec that no rule reserves as a whole. */
function workingFields(kind: Kind): string[] {
  const crd = readCrds().find(({ spec }) => spec.names.kind === kind);
  if (crd === undefined) return [];
  const nodes = [...walkSchema(schemaOf(crd))];
  const reserved = nodes.flatMap(({ path, schema }) =>
    (schema['x-kubernetes-validations'] ?? []).flatMap(({ rule }) => {
      const field = /^!has\(self\.(\w+)\)$/.exec(rule)?.[1];
      return field === undefined ? [] : [`${path}.${field}`];
    }),
  );
  const isBelow = (path: string, parent: string): boolean =>
    path === parent || path.startsWith(`${parent}.`) || path.startsWith(`${parent}[`) || path.startsWith(`${parent}{`);
  return nodes
    .map(({ path }) => path)
    .filter((path) => path.startsWith('.spec') && !path.endsWith('{}'))
    .filter((path) => !reserved.some((parent) => isBelow(path, parent)))
    .filter((path) => !Object.keys(leftOut).some((entry) => entry.startsWith(`${kind} `) && isBelow(path, entry.slice(kind.length + 1))));
}

describe.each(kinds)('the full example of %s, with those of one subject', (kind) => {
  it('has every field that has an effect', () => {
    const shown = [`${kind.toLowerCase()}-full.yaml`, ...topics].map(readExample).filter((example) => example.kind === kind);
    const present = new Set(shown.flatMap(({ spec }) => pathsOf(spec, '.spec')));
    expect(workingFields(kind).filter((path) => !present.has(path) && !path.endsWith('[]'))).toEqual([]);
  });
});
