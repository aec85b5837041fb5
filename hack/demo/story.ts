/**
 * What the demo shows: a host joins, microVMs come to life and go again. Owns the order and the measure; every wait is on
 * the watch API.
 */
import { rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from '../build-cache.ts';
import { conditionStatus, showProgress } from './progress.ts';
import { readConsole } from './console.ts';
import { findLeftovers } from './leftovers.ts';
import { enrollHost, startAgent, stateDirectory } from './product.ts';
import { applyExample, kubectl, pathOf, type Stack } from './stack.ts';
import type { KubernetesObject } from '../stack/kubernetes-client.ts';

const deleteTimeoutMs = 120_000;

/** A microVM that runs. */
export interface RunningMicroVM {
  readonly name: string;
  readonly uid: string;
  /** From before `kubectl apply` was started to the watch event with Running=True. */
  readonly createToRunningMs: number;
}

/** Site, token, enrollment, agent, until the Host is Ready. */
export async function joinHost(stack: Stack): Promise<void> {
  const { screen } = stack;
  applyExample(stack, 'site.yaml');
  applyExample(stack, 'enrollmenttoken.yaml');
  screen.step('applied examples/site.yaml, examples/enrollmenttoken.yaml');
  const token = await waitForCondition(stack, pathOf(stack, 'enrollmenttokens', 'edge-1-token'), 'Ready');
  const secretName = String((token['status'] as { secretName?: string }).secretName); // The CRD's schema.
  const encoded = kubectl(stack, ['get', 'secret', secretName, '-o', 'jsonpath={.data.token}']);
  await enrollHost(stack.context, Buffer.from(encoded, 'base64').toString('utf8'));
  screen.step('host edge-1: enrolled, its key was made here and stays here');
  const agent = await startAgent(stack.context, { hypervisor: stack.hypervisor.path, imageDirectory: stack.images.directory });
  stack.defer(async () => void (await agent.stop()));
  await waitForCondition(stack, pathOf(stack, 'hosts', 'edge-1'), 'Ready');
  screen.step('host edge-1: Ready');
}

/** Applies a microVM and shows what becomes true of it; gives milliseconds from before the apply to Running=True. */
export async function createMicroVM(stack: Stack, file: string, name: string): Promise<RunningMicroVM> {
  const { screen } = stack;
  const watch = stack.context.kubernetes.client.watch(pathOf(stack, 'microvms', name));
  try {
    showProgress(watch, { name, screen });
    const startedAt = performance.now();
    applyExample(stack, file);
    screen.step(`applied examples/${file}`);
    const running = await watch.waitFor(({ object }) => conditionStatus(object, 'Running') === 'True', { what: 'condition Running=True' });
    return { name, uid: running.object.metadata.uid ?? '', createToRunningMs: Math.round(running.receivedAtMs - startedAt) };
  } finally {
    watch.stop();
  }
}

/** Deletes it and waits until the object is gone, which is after the host confirmed the teardown. */
export async function deleteMicroVM(stack: Stack, name: string): Promise<void> {
  const watch = stack.context.kubernetes.client.watch(pathOf(stack, 'microvms', name));
  try {
    kubectl(stack, ['delete', 'mvm', name, '--wait=false']);
    await watch.waitFor((event) => event.type === 'DELETED', { what: 'the object to be gone', timeoutMs: deleteTimeoutMs });
    stack.screen.step(`${name}: deleted, the host confirmed the teardown`);
  } finally {
    watch.stop();
  }
}

/** The counts of the Site follow the microVMs at most once in an interval; a table before that would be out of date. */
async function waitForCounts(stack: Stack, running: number): Promise<void> {
  const watch = stack.context.kubernetes.client.watch(pathOf(stack, 'sites', 'shop-1'));
  try {
    await watch.waitFor(({ object }) => (object['status'] as { microvms?: { running?: number } } | undefined)?.microvms?.running === running, { what: `${running} running` });
  } finally {
    watch.stop();
  }
}

/** The table and the console, as a user sees them. */
export async function showResult(stack: Stack, microvm: RunningMicroVM, running: number): Promise<void> {
  const { screen } = stack;
  await waitForCounts(stack, running);
  screen.print(`\n$ kubectl get sites,hosts,microvms\n${kubectl(stack, ['get', 'sites,hosts,microvms'])}`);
  screen.print(`first console lines of ${microvm.name}, as the control plane has them:`);
  for (const line of await readConsole(stack.postgres, microvm.uid)) {
    screen.print(`  | ${line}`);
  }
  screen.print();
}

/** @throws naming what the deleted microVMs left. */
export async function checkNothingIsLeft(stack: Stack, microvms: readonly RunningMicroVM[]): Promise<void> {
  const leftovers = await findLeftovers({
    stateDirectory: stateDirectory(stack.context),
    postgres: stack.postgres,
    microvmUids: microvms.map((microvm) => microvm.uid),
  });
  if (leftovers.length > 0) {
    throw new Error(`the deleted microVMs left behind: ${leftovers.join('; ')}`);
  }
  stack.screen.step('nothing is left: no process, no file, no live row');
}

/** How to use the running stack from another terminal. */
export function showHowToGoOn(stack: Stack): void {
  const { addresses, context, images, screen } = stack;
  // Whatever carries the run folder's path in its environment is killed at the end: an editor that was started from the
  // other terminal must not be among it, so that terminal gets a name outside of the folder.
  const kubeconfig = join(context.logDirectory, 'kubeconfig');
  symlinkSync(context.kubernetes.kubeconfig, kubeconfig);
  stack.defer(() => rmSync(kubeconfig, { force: true }));
  screen.print('From another terminal:');
  screen.print(`  export KUBECONFIG=${kubeconfig}`);
  screen.print(`  alias kubectl=${context.kubernetes.kubectl}`);
  screen.print(`  alias nkudo-edge='${context.programs.node} ${context.programs.edge}'`);
  screen.print('  kubectl get sites,hosts,microvms');
  screen.print('  kubectl describe mvm hello');
  screen.print(`  sed 's#/var/lib/nkudo/images#${images.directory}#; s/name: hello/name: hello-2/' ${join(repositoryRoot, 'examples', 'microvm.yaml')} | kubectl apply -f -`);
  screen.print(`  kubectl patch mvm hello --type=merge -p '{"spec":{"runPolicy":"Halted"}}'`);
  screen.print(`  nkudo-edge vm ls --state-dir ${stateDirectory(context)}`);
  screen.print('The commands of docs/api.md (plans, logs, events) run in that terminal after this:');
  screen.print(`  export GRPC=${addresses.fleet} API=${addresses.api} NAMESPACE=${context.kubernetes.namespace} KERNEL=${images.kernel}`);
  screen.print(`Logs of every program: ${context.logDirectory}`);
  screen.print();
}

async function waitForCondition(stack: Stack, path: string, condition: string): Promise<KubernetesObject> {
  const watch = stack.context.kubernetes.client.watch(path);
  try {
    const event = await watch.waitFor(({ object }) => conditionStatus(object, condition) === 'True', { what: `condition ${condition}=True` });
    return event.object;
  } finally {
    watch.stop();
  }
}
