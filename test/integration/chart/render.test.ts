/** [R1] The chart as Helm renders it: lint, schemas, what each value does, and what is refused. Needs no cluster. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { beforeAll, describe, expect, test } from 'vitest';
import { isMap, isScalar, parse, parseDocument, type YAMLMap } from 'yaml';
import { neededRights } from '#controller/doctor/rights.ts';
import { repositoryRoot } from '#hack/build-cache.ts';
import { ensureGoTool } from '#hack/build-go-tools.ts';
import { ensureKubernetesSchemas } from '#hack/kubernetes-schemas.ts';
import { chartDirectory, helmTemplate, nameOf, namespace, pick, render, runProgram, valuesFiles, type Rendered } from './chart-tool.ts';

/** A first build; in `npm test` the tools are there already. */
const buildTimeoutMs = 900_000;
/** Kinds of others, whose schemas Kubernetes does not have. */
const kindsOfOthers = ['Certificate', 'TLSRoute', 'ServiceMonitor', 'PrometheusRule'];

let helm = '';
let kubeconform = '';
let schemas = '';
let byDefault: readonly Rendered[] = [];
beforeAll(async () => {
  helm = await ensureGoTool('helm');
  kubeconform = await ensureGoTool('kubeconform');
  schemas = await ensureKubernetesSchemas();
  byDefault = await render(helm, []);
}, buildTimeoutMs);

const variants: readonly { readonly name: string; readonly args: readonly string[] }[] = [
  { name: 'default', args: [] },
  { name: 'default, as an upgrade', args: ['--is-upgrade'] },
  ...valuesFiles.map((file) => ({ name: nameOf(file), args: ['--values', file] })),
];

describe('[R1] the chart', () => {
  test.for(variants)('[R1] passes strict lint and the schemas of Kubernetes with $name values', async ({ args }) => {
    const lint = await runProgram(helm, ['lint', '--strict', chartDirectory, ...args.filter((arg) => arg !== '--is-upgrade')]);
    expect(lint.output).toContain('1 chart(s) linted, 0 chart(s) failed');
    const { output } = await helmTemplate(helm, args);
    const conform = await runProgram(kubeconform, ['-strict', '-summary', '-output', 'json', '-schema-location', schemas, '-skip', kindsOfOthers.join(',')], output);
    const { summary } = JSON.parse(conform.output) as { summary: { valid: number; invalid: number; errors: number; skipped: number } }; // kubeconform's summary.
    expect(conform.output).not.toContain('"statusInvalid"');
    expect(summary).toMatchObject({ invalid: 0, errors: 0 });
    expect(summary.valid).toBeGreaterThan(10);
  });

  test('[R1] a field that Kubernetes does not know is found by the schemas', async () => {
    const { output } = await helmTemplate(helm, []);
    const wrong = output.replace('revisionHistoryLimit:', 'revisionHistoryLimt:');
    expect(wrong).not.toBe(output);
    expect((await runProgram(kubeconform, ['-strict', '-schema-location', schemas], wrong)).code).not.toBe(0);
  });

  test('[R1] carries the versions of the product', () => {
    const chart = parse(readFileSync(join(chartDirectory, 'Chart.yaml'), 'utf8')) as { version: string; appVersion: string };
    const { version } = JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8')) as { version: string };
    expect(chart).toMatchObject({ version, appVersion: version });
  });
});

/** Every path of values.yaml, groups too. */
function paths(map: YAMLMap, prefix: readonly string[] = []): readonly (readonly string[])[] {
  return map.items.flatMap((pair) => {
    if (!isScalar(pair.key)) return [];
    const path = [...prefix, String(pair.key.value)];
    return [path, ...(isMap(pair.value) && pair.value.items.length > 0 && path.at(-1) !== 'resources' ? paths(pair.value, path) : [])];
  });
}

const document = parseDocument(readFileSync(join(chartDirectory, 'values.yaml'), 'utf8'));
const allPaths = isMap(document.contents) ? paths(document.contents) : [];

function nest(path: readonly string[], value: unknown): unknown {
  return path.reduceRight<unknown>((inner, key) => ({ [key]: inner }), value);
}

describe('[R1] values', () => {
  const schema = JSON.parse(readFileSync(join(chartDirectory, 'values.schema.json'), 'utf8')) as object;
  const isRight = new Ajv2020({ allowUnionTypes: true }).compile(schema);

  test('[R1] the schema takes the default values and knows every one of them', () => {
    expect(allPaths.length).toBeGreaterThan(80);
    expect(isRight(document.toJS()), JSON.stringify(isRight.errors)).toBe(true);
    const known = (node: unknown, prefix: readonly string[]): readonly string[] => {
      if (typeof node !== 'object' || node === null || !('properties' in node)) return [];
      return Object.entries(node.properties as object).flatMap(([key, inner]) => [[...prefix, key].join('.'), ...known(inner, [...prefix, key])]);
    };
    const described = known(schema, []).filter((path) => path !== 'global');
    const written = allPaths.map((path) => path.join('.'));
    // What has a type of its own, or is empty by default, is described further than it is written.
    expect(written.filter((path) => !described.includes(path) && !/(image|embedded\.image)\./.test(path))).toEqual([]);
    expect(described.filter((path) => !written.includes(path) && !/issuerRef\./.test(path))).toEqual([]);
  });

  test('[R1] refuses every misspelt value', () => {
    for (const path of allPaths) {
      const wrong = [...path.slice(0, -1), `${path.at(-1) ?? ''}x`];
      const isFree = /annotations|labels/i.test(path.at(-2) ?? '');
      if (!isFree) expect(isRight(nest(wrong, 'x')), wrong.join('.')).toBe(false);
    }
  });

  test('[R1] Helm itself refuses a misspelt value, and says which', async () => {
    const { code, output } = await helmTemplate(helm, ['--set', 'edge.service.nodeport=30000']);
    expect(code).not.toBe(0);
    expect(output).toContain("at '/edge/service': additional properties 'nodeport' not allowed");
  });

  test.for([
    { name: 'two databases', set: ['database.existingSecret=a', 'database.url=postgres://u@h/d'], sentence: 'write only one of database.existingSecret and database.url' },
    { name: 'half a database', set: ['database.url=postgres://u@h/d'], sentence: 'write all of database.url, database.systemUrl and database.adminUrl' },
    { name: 'no database', set: ['database.embedded.enabled=false'], sentence: 'the controller needs a Postgres' },
    { name: 'a LoadBalancer without an address', set: ['edge.service.type=LoadBalancer'], sentence: 'write edge.advertise, the host:port at which hosts reach the Service' },
    { name: 'an address without a port', set: ['edge.advertise=nkudo.example.com'], sentence: '/edge/advertise' },
    { name: 'two certificates', set: ['api.tls.existingSecret=a', 'api.tls.certManager.enabled=true'], sentence: 'write only one of api.tls.existingSecret and api.tls.certManager.enabled' },
    { name: 'a certificate of nobody', set: ['api.tls.certManager.enabled=true'], sentence: 'write api.tls.certManager.issuerRef.name' },
    { name: 'an ingress without a host', set: ['api.ingress.enabled=true'], sentence: 'write api.ingress.host' },
    { name: 'a route without a Gateway', set: ['api.gateway.enabled=true'], sentence: 'write api.gateway.parentRefs' },
    { name: 'a nameless ServiceAccount', set: ['serviceAccount.create=false'], sentence: 'serviceAccount.name must name the ServiceAccount' },
  ])('[R1] refuses $name with a sentence that says what to write', async ({ set, sentence }) => {
    const { code, output } = await helmTemplate(helm, set.flatMap((value) => ['--set', value]));
    expect(code).not.toBe(0);
    expect(output).toContain(sentence);
  });
});

interface Container {
  readonly args?: readonly string[];
  readonly image: string;
  readonly env?: readonly { readonly name: string; readonly value?: string; readonly valueFrom?: { readonly secretKeyRef?: { readonly name: string; readonly key: string } } }[];
  readonly securityContext: object;
}

interface PodSpec {
  readonly serviceAccountName?: string;
  readonly automountServiceAccountToken: boolean;
  readonly securityContext: object;
  readonly containers: readonly Container[];
}

/** Pods of an object; none for one that has none. */
function podOf(object: Rendered): PodSpec | null {
  const spec = object['spec'] as { template?: { spec: PodSpec } } | undefined; // Rendered by the chart.
  if (object.kind === 'Pod') return object['spec'] as PodSpec;
  return spec?.template?.spec ?? null;
}

const container = (object: Rendered): Container => {
  const first = podOf(object)?.containers[0];
  if (first === undefined) throw new Error(`${object.kind}/${object.metadata.name} has no container`);
  return first;
};
const variable = (object: Rendered, name: string): unknown => {
  const found = container(object).env?.find((entry) => entry.name === name);
  return found?.value ?? found?.valueFrom?.secretKeyRef ?? null;
};

describe('[R1] templates', () => {
  test('[R1] every pod is restricted: no root, no privileges, a read-only root, the runtime’s seccomp profile', () => {
    const pods = byDefault.flatMap((object) => podOf(object) ?? []);
    expect(pods.length).toBe(5);
    for (const pod of pods) {
      expect(pod.securityContext).toMatchObject({ runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } });
      for (const { securityContext } of pod.containers) expect(securityContext).toMatchObject({ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } });
    }
    const withToken = pods.filter((pod) => pod.automountServiceAccountToken).map((pod) => pod.containers[0]?.args?.[0]);
    expect(withToken.toSorted()).toEqual(['doctor', 'remaining', 'serve']);
  });

  test('[R1] the controller’s rights are those that its doctor asks for, no more, and none is a wildcard', () => {
    const granted = (kind: string): readonly string[] => {
      const rules = pick(byDefault, kind, 'nkudo-controller')['rules'] as { apiGroups: string[]; resources: string[]; verbs: string[] }[];
      return rules.flatMap(({ apiGroups, resources, verbs }) => apiGroups.flatMap((group) => resources.flatMap((resource) => verbs.map((verb) => `${verb} ${resource}.${group}`)))).toSorted();
    };
    const needed = (isOwn: boolean): readonly string[] =>
      neededRights
        .filter(({ isOwnNamespace }) => (isOwnNamespace === true) === isOwn)
        .flatMap(({ group, resource, subresource, verbs }) => verbs.map((verb) => `${verb} ${resource}${subresource === undefined ? '' : `/${subresource}`}.${group}`))
        .toSorted();
    expect(granted('ClusterRole')).toEqual(needed(false));
    expect(granted('Role')).toEqual(needed(true));
    expect(granted('ClusterRole').join()).not.toContain('*');
  });

  test('[R1] the definitions stay when the release goes, and can be left to somebody else', async () => {
    const definitions = byDefault.filter(({ kind }) => kind === 'CustomResourceDefinition');
    expect(definitions.map(({ metadata }) => metadata.name)).toContain('microvms.nkudo.dev');
    expect(definitions.every(({ metadata }) => metadata.annotations?.['helm.sh/resource-policy'] === 'keep')).toBe(true);
    const loose = await render(helm, ['--set', 'crds.keep=false']);
    expect(loose.filter(({ kind, metadata }) => kind === 'CustomResourceDefinition' && metadata.annotations !== undefined)).toEqual([]);
    expect((await render(helm, ['--set', 'crds.enabled=false'])).filter(({ kind }) => kind === 'CustomResourceDefinition')).toEqual([]);
  });

  test('[R1] the migration comes before an upgrade, and with a database of one’s own before the installation', async () => {
    const first = byDefault.find(({ kind, metadata }) => kind === 'Job' && metadata.name.startsWith('nkudo-migrate'));
    expect(first?.metadata.annotations).toBeUndefined();
    const upgrade = pick(await render(helm, ['--is-upgrade']), 'Job', 'nkudo-migrate');
    expect(upgrade.metadata.annotations?.['helm.sh/hook']).toBe('pre-install,pre-upgrade');
    const external = await render(helm, ['--values', join(chartDirectory, 'ci', 'external-database-values.yaml')]);
    const job = pick(external, 'Job', 'nkudo-migrate');
    expect(job.metadata.annotations?.['helm.sh/hook']).toBe('pre-install,pre-upgrade');
    expect(variable(job, 'NKUDO_DATABASE_ADMIN_URL')).toEqual({ name: 'pg-superuser', key: 'uri' });
    // The controller never sees the URL that may make roles.
    expect(variable(pick(external, 'Deployment', 'nkudo'), 'NKUDO_DATABASE_ADMIN_URL')).toBeNull();
    expect(variable(pick(external, 'Deployment', 'nkudo'), 'NKUDO_DATABASE_URL')).toEqual({ name: 'nkudo-postgres', key: 'url' });
    expect(external.filter(({ kind }) => kind === 'StatefulSet')).toEqual([]);
  });

  test('[R1] URLs in the values reach the migration before anything of the release exists', async () => {
    const objects = await render(helm, ['--values', join(chartDirectory, 'ci', 'urls-values.yaml')]);
    const secret = pick(objects, 'Secret', 'nkudo-migrate-database');
    expect(secret.metadata.annotations).toMatchObject({ 'helm.sh/hook': 'pre-install,pre-upgrade', 'helm.sh/hook-weight': '-10' });
    expect(secret['stringData']).toMatchObject({ adminUrl: expect.stringContaining('postgres:c@') as string });
    expect(pick(objects, 'Secret', 'nkudo-database')['stringData']).not.toHaveProperty('adminUrl');
    expect(container(pick(objects, 'Deployment', 'nkudo')).image).toMatch(/^registry\.example\.com\/nkudo\/controller@sha256:/);
    expect(pick(objects, 'Deployment', 'nkudo')['spec']).not.toHaveProperty('replicas');
    expect(pick(objects, 'HorizontalPodAutoscaler', 'nkudo')['spec']).toMatchObject({ minReplicas: 2 });
  });

  test('[R1] hosts dial the node by default, and what is written otherwise', async () => {
    expect(variable(pick(byDefault, 'Deployment', 'nkudo'), 'NKUDO_ADVERTISE')).toBe('$(NODE_IP):30843');
    const external = await render(helm, ['--values', join(chartDirectory, 'ci', 'external-database-values.yaml')]);
    expect(variable(pick(external, 'Deployment', 'nkudo'), 'NKUDO_ADVERTISE')).toBe('nkudo.example.com:443');
    expect(pick(external, 'Service', 'nkudo-edge')['spec']).toMatchObject({ type: 'LoadBalancer', loadBalancerSourceRanges: ['203.0.113.0/24'], ports: [{ port: 443, targetPort: 'edge' }] });
    expect(pick(external, 'PodDisruptionBudget', 'nkudo')['spec']).toMatchObject({ minAvailable: 1 });
    expect(byDefault.filter(({ kind }) => kind === 'PodDisruptionBudget')).toEqual([]);
  });

  test('[R1] hosts never come through anything that ends their TLS', async () => {
    const objects = await render(helm, ['--values', join(chartDirectory, 'ci', 'exposed-api-values.yaml')]);
    const routes = objects.filter(({ kind }) => ['Ingress', 'TLSRoute', 'HTTPRoute', 'GRPCRoute'].includes(kind));
    expect(routes.map(({ kind, metadata }) => `${kind}/${metadata.name}`).toSorted()).toEqual(['Ingress/nkudo-api', 'TLSRoute/nkudo-api-grpc', 'TLSRoute/nkudo-api-https']);
    expect(JSON.stringify(routes)).not.toContain('nkudo-edge');
    expect(variable(pick(objects, 'Deployment', 'nkudo'), 'NKUDO_API_TLS_DIR')).toBe('/etc/nkudo/api-tls');
    expect(pick(objects, 'Certificate', 'nkudo-api-tls')['spec']).toMatchObject({ secretName: 'nkudo-api-tls', dnsNames: ['api.example.com'] });
    expect(pick(objects, 'ConfigMap', 'nkudo-extra').metadata.namespace).toBe(namespace);
  });

  test('[R1] policies let in who must come in', async () => {
    const ports = (objects: readonly Rendered[], name: string): unknown => (pick(objects, 'NetworkPolicy', name)['spec'] as { ingress: { ports: { port: string }[]; from?: unknown }[] }).ingress.map(({ ports: open, from }) => ({ open: open.map(({ port }) => port), from: from ?? 'everybody' }));
    expect(ports(byDefault, 'nkudo-controller')).toEqual([{ open: ['edge'], from: 'everybody' }, { open: ['grpc', 'https'], from: 'everybody' }, { open: ['http'], from: [{ namespaceSelector: {} }] }]);
    expect(JSON.stringify(ports(byDefault, 'nkudo-postgres'))).toContain('"open":["postgres"]');
    const smallest = await render(helm, ['--values', join(chartDirectory, 'ci', 'smallest-values.yaml')]);
    expect(smallest.filter(({ kind }) => ['NetworkPolicy', 'CustomResourceDefinition', 'ServiceAccount', 'ValidatingAdmissionPolicy'].includes(kind))).toEqual([]);
    expect(podOf(pick(smallest, 'Deployment', 'control-nkudo'.replace('-nkudo', '')))?.serviceAccountName).toBe('somebody');
  });

  test('[R1] selectors never change with a version, so that an upgrade can be applied', () => {
    const selector = (pick(byDefault, 'Deployment', 'nkudo')['spec'] as { selector: { matchLabels: object } }).selector.matchLabels;
    expect(Object.keys(selector).toSorted()).toEqual(['app.kubernetes.io/component', 'app.kubernetes.io/instance', 'app.kubernetes.io/name']);
  });

  test('[R1] the notes say the next step', async () => {
    const { output } = await runProgram(helm, ['install', 'nkudo', chartDirectory, '--namespace', namespace, '--dry-run=client', '--hide-notes=false']);
    expect(output).toContain('kubectl -n shops wait --for=condition=Ready enrollmenttoken/first');
    expect(output).toContain('nkudo-edge enroll --token-file token');
  });
});
