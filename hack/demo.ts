/**
 * The whole path on one machine: a Kubernetes API, Postgres, the controller and one host; a microVM from `kubectl apply`
 * to its first console lines, and with `--once` back to nothing.
 *
 * Owns the order of what is shown. Everything runs in one run folder on free ports, so two demos do not meet, and
 * nothing outlives it, however it ends.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildGuest } from './build-guest.ts';
import { buildPrograms } from './build-programs.ts';
import { cacheRoot, repositoryRoot } from './build-cache.ts';
import { readConsole } from './demo/console.ts';
import { chooseHypervisor, type Hypervisor } from './demo/hypervisor.ts';
import { startKubernetesApi } from './demo/kubernetes-api.ts';
import { findLeftovers } from './demo/leftovers.ts';
import { enrollHost, startAgent, startController, stateDirectory, type ProductContext } from './demo/product.ts';
import { conditionStatus, showConditions } from './demo/progress.ts';
import { createScreen } from './demo/screen.ts';
import { startPostgres, type PostgresCluster } from './stack/postgres.ts';
import { createRunDirectory } from './stack/run-directory.ts';
import type { KubernetesObject } from './stack/kubernetes-client.ts';

const usage = `npm run demo -- [--once] [--simulator] [--kubeconfig [FILE]]

  --once               delete the microVM again, check that nothing is left, and end
  --simulator          use the simulated hypervisor also where the real one would work
  --kubeconfig [FILE]  use that cluster (default: $KUBECONFIG or ~/.kube/config) instead of one of its own
`;

const keptLogs = 8;
const deleteTimeoutMs = 120_000;

interface Options {
  readonly isOnce: boolean;
  readonly isSimulatorForced: boolean;
  readonly userKubeconfig: string | null;
}

function parseOptions(args: readonly string[]): Options | null {
  // `--kubeconfig` alone means the usual place.
  const completed = args.flatMap((arg, index) => {
    const next = args[index + 1];
    const isAlone = arg === '--kubeconfig' && (next === undefined || next.startsWith('--'));
    return isAlone ? [arg, process.env['KUBECONFIG'] ?? join(homedir(), '.kube', 'config')] : [arg];
  });
  const { values } = parseArgs({
    args: completed,
    options: { once: { type: 'boolean' }, simulator: { type: 'boolean' }, kubeconfig: { type: 'string' }, help: { type: 'boolean' } },
  });
  return values.help === true
    ? null
    : { isOnce: values.once === true, isSimulatorForced: values.simulator === true, userKubeconfig: values.kubeconfig ?? null };
}

const screen = createScreen();
const undos: (() => Promise<void> | void)[] = [];
let isEnding = false;

/** Takes everything down, last started first. Safe to call twice. */
async function takeDown(): Promise<void> {
  isEnding = true;
  for (const undo of undos.splice(0).reverse()) {
    try {
      await undo();
    } catch (error) {
      screen.print(`taking down: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}

function makeLogDirectory(): string {
  const parent = join(cacheRoot(), 'demo-logs');
  mkdirSync(parent, { recursive: true });
  for (const old of readdirSync(parent).sort().slice(0, -(keptLogs - 1))) {
    rmSync(join(parent, old), { recursive: true, force: true });
  }
  const directory = join(parent, `${new Date().toISOString().replaceAll(':', '-')}-${process.pid}`);
  mkdirSync(directory);
  return directory;
}

/** Names what keeps a guest in, and what does not yet. */
function showIsolation(hypervisor: Hypervisor): void {
  const isRoot = process.getuid?.() === 0;
  screen.print(`  isolation on:  a session of its own for each VMM, its socket in a 0700 folder${hypervisor.kind === 'real' ? ', seccomp' : ''}`);
  screen.print(`  isolation off: a user of its own for each VMM, cgroup limits, Landlock (not in this version)`);
  if (!isRoot) {
    screen.print('                 and, because this is not root: the agent, the VMMs and Postgres all run as you');
  }
  screen.print();
}

interface Stack {
  readonly context: ProductContext;
  readonly postgres: PostgresCluster;
  readonly hypervisor: Hypervisor;
  readonly images: { readonly kernel: string; readonly disk: string };
}

async function startStack(options: Options, logDirectory: string): Promise<Stack> {
  const hypervisor = await chooseHypervisor(options);
  screen.step(`hypervisor: ${hypervisor.description}`);
  showIsolation(hypervisor);
  const run = createRunDirectory('nkudo-d-');
  undos.push(run.close);
  const report = (line: string): void => screen.step(line);
  const [guests, programs] = await Promise.all([buildGuest(), buildPrograms()]);
  screen.step('test guest and programs built');
  const [kubernetes, postgres] = await Promise.all([
    startKubernetesApi({ userKubeconfig: options.userKubeconfig, runDirectory: run.path, logDirectory, report }).then((api) => {
      undos.push(api.release);
      screen.step(`Kubernetes: ${api.description}, CRDs established`);
      return api;
    }),
    startPostgres({ runDirectory: run.path, directory: join(run.path, 'postgres'), logDirectory }).then((cluster) => {
      undos.push(cluster.stop);
      screen.step(`Postgres: on 127.0.0.1:${cluster.port}`);
      return cluster;
    }),
  ]);
  const images = makeImages(join(run.path, 'images'), guests.guest64);
  const context: ProductContext = { programs, kubernetes, postgres, runDirectory: run.path, logDirectory };
  const controller = await startController(context);
  undos.push(async () => void (await controller.process.stop()));
  screen.step(`controller: ready, agents on ${controller.addresses.edge}, tenants on ${controller.addresses.fleet}, health on ${controller.addresses.http}`);
  return { context, postgres, hypervisor, images };
}

function makeImages(directory: string, guest: string): Stack['images'] {
  mkdirSync(directory);
  const images = { kernel: join(directory, 'guest.elf'), disk: join(directory, 'data.raw') };
  copyFileSync(guest, images.kernel);
  writeFileSync(images.disk, Buffer.alloc(1024 * 1024));
  return images;
}

/** Runs kubectl as the user of the demo would. @throws with what it printed. */
function kubectl(stack: Stack, args: readonly string[], input?: string): string {
  const { kubernetes } = stack.context;
  const result = spawnSync(kubernetes.kubectl, args, {
    encoding: 'utf8',
    env: { ...process.env, KUBECONFIG: kubernetes.kubeconfig },
    ...(input === undefined ? {} : { input }),
  });
  if (result.status !== 0) {
    throw new Error(`kubectl ${args.join(' ')} failed:\n${result.stderr}`);
  }
  return result.stdout;
}

function applyExample(stack: Stack, file: string): void {
  const text = readFileSync(join(repositoryRoot, 'examples', file), 'utf8')
    .replaceAll('/var/lib/nkudo/images/guest.elf', stack.images.kernel)
    .replaceAll('/var/lib/nkudo/images/data.raw', stack.images.disk);
  kubectl(stack, ['apply', '-f', '-'], text);
}

function pathOf(stack: Stack, plural: string, name: string): string {
  return `/apis/nkudo.dev/v1alpha1/namespaces/${stack.context.kubernetes.namespace}/${plural}/${name}`;
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

async function joinHost(stack: Stack): Promise<void> {
  applyExample(stack, 'site.yaml');
  applyExample(stack, 'enrollmenttoken.yaml');
  screen.step('applied examples/site.yaml, examples/enrollmenttoken.yaml');
  const token = await waitForCondition(stack, pathOf(stack, 'enrollmenttokens', 'edge-1-token'), 'Ready');
  const secretName = String((token['status'] as { secretName?: string }).secretName); // The CRD's schema.
  const encoded = kubectl(stack, ['get', 'secret', secretName, '-o', 'jsonpath={.data.token}']);
  await enrollHost(stack.context, Buffer.from(encoded, 'base64').toString('utf8'));
  screen.step('host edge-1: enrolled, its key was made here and stays here');
  const agent = await startAgent(stack.context, stack.hypervisor.path);
  undos.push(async () => void (await agent.stop()));
  await waitForCondition(stack, pathOf(stack, 'hosts', 'edge-1'), 'Ready');
  screen.step('host edge-1: Ready');
}

/** Applies a microVM and shows what becomes true of it; gives milliseconds from before the apply to Running=True. */
async function createMicroVM(stack: Stack, file: string, name: string): Promise<{ uid: string; createToRunningMs: number }> {
  const watch = stack.context.kubernetes.client.watch(pathOf(stack, 'microvms', name));
  try {
    showConditions(watch, { name, screen });
    const startedAt = performance.now();
    applyExample(stack, file);
    screen.step(`applied examples/${file}`);
    const running = await watch.waitFor(({ object }) => conditionStatus(object, 'Running') === 'True', { what: 'condition Running=True' });
    return { uid: running.object.metadata.uid ?? '', createToRunningMs: Math.round(running.receivedAtMs - startedAt) };
  } finally {
    watch.stop();
  }
}

async function deleteMicroVM(stack: Stack, name: string): Promise<void> {
  const watch = stack.context.kubernetes.client.watch(pathOf(stack, 'microvms', name));
  try {
    kubectl(stack, ['delete', 'mvm', name, '--wait=false']);
    await watch.waitFor((event) => event.type === 'DELETED', { what: 'the object to be gone', timeoutMs: deleteTimeoutMs });
    screen.step(`${name}: deleted, the host confirmed the teardown`);
  } finally {
    watch.stop();
  }
}

function showHowToGoOn(stack: Stack, logDirectory: string): void {
  const { context } = stack;
  screen.print('From another terminal:');
  screen.print(`  export KUBECONFIG=${context.kubernetes.kubeconfig}`);
  screen.print(`  alias kubectl=${context.kubernetes.kubectl}`);
  screen.print(`  alias nkudo-edge='${context.programs.node} ${context.programs.edge}'`);
  screen.print('  kubectl get sites,hosts,microvms');
  screen.print('  kubectl describe mvm hello');
  screen.print(`  kubectl patch mvm hello --type=merge -p '{"spec":{"runPolicy":"Halted"}}'`);
  screen.print(`  nkudo-edge vm ls --state-dir ${stateDirectory(context)}`);
  screen.print(`Logs of every program: ${logDirectory}`);
  screen.print();
}

async function runDemo(options: Options, logDirectory: string): Promise<string | null> {
  const stack = await startStack(options, logDirectory);
  await joinHost(stack);
  const hello = await createMicroVM(stack, 'microvm.yaml', 'hello');
  screen.step(`hello: Running ${hello.createToRunningMs} ms after kubectl apply was started`);
  const full = await createMicroVM(stack, 'microvm-full.yaml', 'hello-full');
  screen.print(`\n$ kubectl get sites,hosts,microvms\n${kubectl(stack, ['get', 'sites,hosts,microvms'])}`);
  screen.print('first console lines of hello, as the control plane has them:');
  for (const line of await readConsole(stack.postgres, hello.uid)) {
    screen.print(`  | ${line}`);
  }
  screen.print();
  if (!options.isOnce) {
    showHowToGoOn(stack, logDirectory);
    screen.print('Ctrl-C takes everything down.');
    return null;
  }
  await deleteMicroVM(stack, 'hello-full');
  await deleteMicroVM(stack, 'hello');
  const leftovers = await findLeftovers({
    stateDirectory: stateDirectory(stack.context),
    postgres: stack.postgres,
    microvmUids: [hello.uid, full.uid],
  });
  if (leftovers.length > 0) {
    throw new Error(`the deleted microVMs left behind: ${leftovers.join('; ')}`);
  }
  screen.step('nothing is left: no process, no file, no live row');
  return `demo: ok hypervisor=${stack.hypervisor.kind} create_to_running_ms=${hello.createToRunningMs}`;
}

async function end(code: number, lastLine: string): Promise<never> {
  await takeDown();
  screen.print(lastLine);
  process.exit(code);
}

const options = parseOptions(process.argv.slice(2));
if (options === null) {
  process.stdout.write(usage);
} else {
  let isUp = false;
  const onSignal = (): void => {
    if (!isEnding) {
      isEnding = true;
      screen.print('\ntaking everything down');
      void end(isUp ? 0 : 130, 'demo: ended');
    }
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, onSignal);
  }
  const logDirectory = makeLogDirectory();
  screen.print('n-kudo: from kubectl apply to a running microVM, on this machine\n');
  try {
    const verdict = await runDemo(options, logDirectory);
    isUp = true;
    if (verdict !== null) {
      await end(0, verdict);
    }
    setInterval(() => {}, 3_600_000); // Until Ctrl-C.
  } catch (error) {
    if (!isEnding) {
      screen.print(`\n${error instanceof Error ? error.message : String(error)}`);
      await end(1, `demo: failed (logs: ${logDirectory})`);
    }
  }
}
