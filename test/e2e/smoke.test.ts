/** [R7] The sign-off run against a real control plane: it passes, and with each step broken on purpose it fails there and says why. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { installRoles } from '#hack/stack/crds.ts';
import { createKubernetesClient } from '#hack/stack/kubernetes-client.ts';
import type { SmokeContext } from '#hack/smoke/path.ts';
import { smokeSteps } from '#hack/smoke/path.ts';
import { isPassed, renderJson, renderMarkdown, type SmokeReport } from '#hack/smoke/report.ts';
import { runSmoke, type SmokeOptions } from '#hack/smoke/run-smoke.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { createWorld, type World } from './world.ts';

let world: World;
let setup: SmokeOptions['setup'];
beforeAll(async () => {
  world = await createWorld();
  await installRoles(world.kubernetes.client);
  await world.startController();
  const programs = await fileScope().shared('programs');
  setup = {
    client: world.kubernetes.client,
    systemNamespace: 'nkudo-system',
    agent: [programs.node, programs.edge],
    hypervisor: world.hypervisor,
    kernel: world.guest,
    apiAddress: () => Promise.resolve(world.endpoints().api),
  };
});

/** Long for what works on a busy machine. */
const patientMs = 60_000;
/** Short for what can't work: a run with something broken waits it out. */
const brokenMs = 3_000;

const smoke = (changes: Partial<SmokeOptions> & { readonly setup?: SmokeOptions['setup'] } = {}): Promise<SmokeReport> =>
  runSmoke({ setup, stepTimeoutMs: patientMs, logDirectory: join(fileScope().directory, 'smoke-logs'), installation: world.kubernetes.access.server, hypervisor: 'simulated', ...changes });

/** A program in place of the agent that does one thing of its own and else is the agent. */
function agentThat(name: string, lines: readonly string[]): readonly [string, ...string[]] {
  const path = join(fileScope().directory, name);
  writeFileSync(path, ['#!/bin/sh', ...lines, `exec ${setup.agent.join(' ')} "$@"`, ''].join('\n'));
  chmodSync(path, 0o755);
  return [path];
}

function noKernel(): string {
  const path = join(fileScope().directory, 'no-kernel');
  writeFileSync(path, 'this is no kernel');
  return path;
}

interface Break {
  readonly step: string;
  /** What the reader is told. */
  readonly reason: RegExp;
  /** Changes of the run that break it. */
  readonly changes: () => Partial<SmokeOptions>;
  /** Mends the world for the next run. */
  readonly mend?: () => Promise<void>;
}

/** Breaks the run when that step begins; the context tells what there is to break. */
function whenStepBegins(step: string, breakIt: (context: SmokeContext) => Promise<void> | void): Partial<SmokeOptions> {
  let context: SmokeContext | null = null;
  return {
    onContext: (made) => void (context = made),
    onStep: async (name) => {
      if (name === step && context !== null) await breakIt(context);
    },
  };
}

const killAgent = async (context: SmokeContext): Promise<void> => void (await context.agentProcess?.crash());
const policyPath = (kind: string): string => `/apis/admissionregistration.k8s.io/v1/${kind}/smoke-no-microvms`;

/** The cluster takes no microVM any more. */
async function refuseMicroVMs(): Promise<void> {
  const { client } = world.kubernetes;
  await client.apply(policyPath('validatingadmissionpolicies'), {
    apiVersion: 'admissionregistration.k8s.io/v1', kind: 'ValidatingAdmissionPolicy', metadata: { name: 'smoke-no-microvms' },
    spec: { failurePolicy: 'Fail', matchConstraints: { resourceRules: [{ apiGroups: ['nkudo.dev'], apiVersions: ['*'], operations: ['CREATE'], resources: ['microvms'] }] }, validations: [{ expression: 'false', message: 'no microVMs today' }] },
  });
  await client.apply(policyPath('validatingadmissionpolicybindings'), {
    apiVersion: 'admissionregistration.k8s.io/v1', kind: 'ValidatingAdmissionPolicyBinding', metadata: { name: 'smoke-no-microvms' }, spec: { policyName: 'smoke-no-microvms', validationActions: ['Deny'] },
  });
  // A policy is in force a moment after it was made.
  await until(async () => {
    const answer = await client.request('POST', `/apis/nkudo.dev/v1alpha1/namespaces/${world.namespace}/microvms?dryRun=All`, {
      apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name: 'probe' }, spec: { siteRef: { name: 'x' }, cpu: { count: 1 }, memory: { size: '64Mi' }, boot: { kernel: { path: '/k' } } },
    });
    return answer.status === 422 || answer.status === 403;
  }, 'the policy to be in force');
}

async function allowMicroVMs(): Promise<void> {
  for (const kind of ['validatingadmissionpolicybindings', 'validatingadmissionpolicies']) await world.kubernetes.client.request('DELETE', policyPath(kind));
}

const breaks: readonly Break[] = [
  {
    step: 'reach',
    reason: /ECONNREFUSED/,
    changes: () => ({ setup: { ...setup, client: createKubernetesClient({ ...world.kubernetes.access, server: 'https://127.0.0.1:9' }) } }),
  },
  {
    step: 'site',
    reason: /sites\/smoke is not accepted: nobody has written a status: is the controller running/,
    changes: () => whenStepBegins('site', () => world.stopController()),
    mend: () => world.startController(),
  },
  { step: 'enroll', reason: /nkudo-edge enroll ended with 7/, changes: () => ({ setup: { ...setup, agent: agentThat('no-enroll', ['[ "$1" = enroll ] && exit 7']) } }) },
  { step: 'heartbeat', reason: /nkudo-edge run ended with 8/, changes: () => ({ setup: { ...setup, agent: agentThat('no-run', ['[ "$1" = run ] && exit 8']) } }) },
  { step: 'apply', reason: /no microVMs today/, changes: () => whenStepBegins('apply', refuseMicroVMs), mend: allowMicroVMs },
  { step: 'run', reason: /microvms\/smoke is not running: .*Running=/, changes: () => ({ setup: { ...setup, kernel: noKernel() } }) },
  { step: 'logs', reason: /the tenants' API at 127\.0\.0\.1:9 can't be reached/, changes: () => ({ setup: { ...setup, apiAddress: () => Promise.resolve('127.0.0.1:9') } }) },
  { step: 'stop', reason: /microvms\/smoke is not stopped: /, changes: () => whenStepBegins('stop', killAgent) },
  { step: 'delete', reason: /microvms\/smoke is not gone: finalizers nkudo\.dev\/microvm-teardown/, changes: () => whenStepBegins('delete', killAgent) },
  { step: 'audit', reason: /the tenants' API answered 401/, changes: () => whenStepBegins('audit', (context) => void (context.api !== undefined && (context.api = { ...context.api, token: 'nobody' }))) },
  { step: 'give back', reason: /sites\/smoke is not gone|hosts\/smoke-host is not gone|it took longer than/, changes: () => whenStepBegins('give back', () => world.stopController()), mend: () => world.startController() },
];

describe('the sign-off run', () => {
  it('[R7] passes against a running installation, and leaves nothing', async () => {
    const report = await smoke();
    expect(report.steps.map(({ name, outcome, detail }) => `${name}: ${outcome} ${outcome === 'passed' ? '' : detail}`.trim())).toEqual(smokeSteps.map(({ name }) => `${name}: passed`));
    expect(isPassed(report)).toBe(true);
    expect(renderMarkdown(report)).toContain('# Sign-off of n-kudo: PASSED');
    expect(JSON.parse(renderJson(report))).toMatchObject({ passed: true });
    expect(report.durationMs).toBeLessThan(300_000);
    for (const plural of ['sites', 'hosts', 'microvms']) {
      const left = (await world.kubernetes.client.list(`/apis/nkudo.dev/v1alpha1/${plural}`)).filter(({ metadata }) => metadata.namespace?.startsWith('nkudo-smoke-'));
      expect(left).toEqual([]);
    }
  });

  it('[R7] has a way of breaking for every step', () => {
    expect(breaks.map(({ step }) => step)).toEqual(smokeSteps.map(({ name }) => name));
  });

  it.each(breaks)('[R7] fails at "$step" when that is broken, and says why', async ({ step, reason, changes, mend }) => {
    const report = await smoke({ stepTimeoutMs: patientMs, ...withShortStep(step, changes()) });
    await mend?.();
    const failed = report.steps.filter(({ outcome }) => outcome === 'failed');
    expect(failed[0]).toMatchObject({ name: step, detail: expect.stringMatching(reason) as string });
    expect(isPassed(report)).toBe(false);
    const after = report.steps.slice(report.steps.findIndex(({ name }) => name === step) + 1).filter(({ name }) => name !== 'give back');
    expect(after.every(({ outcome }) => outcome === 'notRun')).toBe(true);
    const text = renderMarkdown(report);
    expect(text).toContain('# Sign-off of n-kudo: FAILED');
    expect(text).toContain(`The critical path is broken at "${step}"`);
  });
});

/** Steps before the broken one get all the time that they need; from there on nothing works and nobody waits for it. */
function withShortStep(step: string, changes: Partial<SmokeOptions>): Partial<SmokeOptions> {
  const shortFrom = smokeSteps.findIndex(({ name }) => name === step);
  const steps = smokeSteps.slice(shortFrom).map(({ name }) => name);
  return { ...changes, timeoutOf: (name) => (steps.includes(name) ? brokenMs : patientMs) };
}
