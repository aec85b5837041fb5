/** [R1] What the chart renders, judged by a real API server: dry runs of every object, and pods under the restricted standard. */
import { beforeAll, describe, expect, test } from 'vitest';
import { ensureGoTool } from '#hack/build-go-tools.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { chartDirectory, nameOf, parseManifests, runProgram, valuesFiles, type Rendered } from './chart-tool.ts';

const kindsOfOthers: ReadonlySet<string> = new Set(['Certificate', 'TLSRoute', 'ServiceMonitor', 'PrometheusRule']);

let kubernetes: TestKubernetes;
let helm = '';
let namespace = '';
beforeAll(async () => {
  helm = await ensureGoTool('helm');
  kubernetes = await useKubernetes();
  namespace = await kubernetes.createNamespace('chart');
  await kubernetes.client.apply(`/api/v1/namespaces/${namespace}`, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace, labels: { 'pod-security.kubernetes.io/enforce': 'restricted' } } });
}, 900_000);

const render = async (args: readonly string[]): Promise<readonly Rendered[]> => parseManifests((await runProgram(helm, ['template', 'nkudo', chartDirectory, '--namespace', namespace, ...args])).output);

describe('[R1] on a real API server', () => {
  test.for([{ name: 'default', args: [] }, ...valuesFiles.map((file) => ({ name: nameOf(file), args: ['--values', file] }))])('[R1] takes every object with $name values', async ({ args }) => {
    const objects = (await render(args)).filter(({ kind }) => !kindsOfOthers.has(kind));
    const { stdout } = await kubernetes.kubectl(['apply', '--server-side', '--dry-run=server', '--field-manager=helm', '--force-conflicts', '-f', '-'], { input: objects.map((object) => JSON.stringify(object)).join('\n---\n'), namespace });
    expect(stdout.trim().split('\n')).toHaveLength(objects.length);
  });

  test('[R1] admits its pods to a namespace that enforces the restricted standard, and would refuse a weaker one', async () => {
    const pods = (await render([])).flatMap((object): readonly Record<string, unknown>[] => {
      if (object.kind === 'Pod') return [object];
      const template = (object['spec'] as { template?: { metadata: object; spec: object } } | undefined)?.template; // Rendered by the chart.
      return template === undefined ? [] : [{ apiVersion: 'v1', kind: 'Pod', metadata: { ...template.metadata, name: object.metadata.name, namespace }, spec: { restartPolicy: 'Never', ...template.spec } }];
    });
    expect(pods).toHaveLength(5);
    const create = (pod: object): ReturnType<TestKubernetes['kubectl']> => kubernetes.kubectl(['create', '--dry-run=server', '-f', '-'], { input: JSON.stringify(pod), namespace, mayFail: true });
    for (const pod of pods) {
      // Volumes of a StatefulSet's claims are added by its controller.
      const { code, stderr } = await create(withVolumes(pod));
      expect(stderr).toBe('');
      expect(code).toBe(0);
    }
    const [first = {}] = pods;
    const weak = structuredClone(withVolumes(first)) as { spec: { securityContext: object } };
    weak.spec.securityContext = {};
    expect((await create(weak)).stderr).toContain('violates PodSecurity "restricted');
  });
});

function withVolumes(pod: Readonly<Record<string, unknown>>): object {
  const spec = pod['spec'] as { volumes?: { name: string }[]; containers: { volumeMounts?: { name: string }[] }[] }; // Rendered by the chart.
  const known = new Set((spec.volumes ?? []).map(({ name }) => name));
  const missing = spec.containers.flatMap(({ volumeMounts = [] }) => volumeMounts).filter(({ name }) => !known.has(name));
  return { ...pod, spec: { ...spec, volumes: [...(spec.volumes ?? []), ...missing.map(({ name }) => ({ name, emptyDir: {} }))] } };
}
