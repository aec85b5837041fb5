/**
 * Starts what the demo needs, on free ports, all of it in one run folder: hypervisor choice, Kubernetes API, Postgres,
 * controller. Says each step and what isolation the guests have; how to undo it is registered with the caller.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from '../build-cache.ts';
import { buildGuest } from '../build-guest.ts';
import { buildPrograms } from '../build-programs.ts';
import { startPostgres, type PostgresCluster } from '../stack/postgres.ts';
import { createRunDirectory } from '../stack/run-directory.ts';
import { chooseHypervisor, type Hypervisor } from './hypervisor.ts';
import { startKubernetesApi } from './kubernetes-api.ts';
import { removeGuestNetworks, startController, type Addresses, type ProductContext } from './product.ts';
import type { Screen } from './screen.ts';

/** What the demo was asked for, where its logs go, and what it tells whom. */
export interface StackOptions {
  readonly isSimulatorForced: boolean;
  /** Path of a kubeconfig, only when the user asked for it. */
  readonly userKubeconfig: string | null;
  readonly logDirectory: string;
  readonly screen: Screen;
  /** Registers how to take something down; called last first. */
  readonly defer: (undo: () => Promise<void> | void) => void;
}

/** Everything that runs but the host. */
export interface Stack {
  readonly context: ProductContext;
  readonly addresses: Addresses;
  readonly screen: Screen;
  readonly defer: StackOptions['defer'];
  readonly postgres: PostgresCluster;
  readonly hypervisor: Hypervisor;
  readonly images: { readonly directory: string; readonly kernel: string; readonly disk: string };
}

/** Starts it. */
export async function startStack(options: StackOptions): Promise<Stack> {
  const { screen, defer, logDirectory } = options;
  const report = (line: string): void => screen.step(line);
  const hypervisor = await chooseHypervisor({ ...options, report });
  screen.step(`hypervisor: ${hypervisor.description}`);
  showIsolation(screen, hypervisor);
  const run = createRunDirectory('nkudo-d-');
  defer(() => removeGuestNetworks(run.path)); // After the VMMs, which hold the taps.
  defer(run.close);
  const [guests, programs] = await Promise.all([buildGuest(), buildPrograms()]);
  screen.step('test guest and programs built');
  const [kubernetes, postgres] = await Promise.all([
    startKubernetesApi({ userKubeconfig: options.userKubeconfig, runDirectory: run.path, logDirectory, report }).then((api) => {
      defer(api.release);
      screen.step(`Kubernetes: ${api.description}, CRDs established`);
      return api;
    }),
    startPostgres({ runDirectory: run.path, directory: join(run.path, 'postgres'), logDirectory }).then((cluster) => {
      defer(cluster.stop);
      screen.step(`Postgres: on 127.0.0.1:${cluster.port}`);
      return cluster;
    }),
  ]);
  const images = makeImages(join(run.path, 'images'), guests.guest64);
  const context: ProductContext = { programs, kubernetes, postgres, runDirectory: run.path, logDirectory };
  const controller = await startController(context);
  defer(async () => void (await controller.process.stop()));
  screen.step(`controller: ready, agents on ${controller.addresses.edge}, tenants on ${controller.addresses.fleet} (gRPC) and ${controller.addresses.api} (HTTPS), health on ${controller.addresses.http}`);
  return { context, addresses: controller.addresses, postgres, hypervisor, images, screen, defer };
}

function makeImages(directory: string, guest: string): Stack['images'] {
  mkdirSync(directory);
  const images = { directory, kernel: join(directory, 'guest.elf'), disk: join(directory, 'data.raw') };
  copyFileSync(guest, images.kernel);
  writeFileSync(images.disk, Buffer.alloc(1024 * 1024));
  return images;
}

/** What confines the VMMs here. What the host can't give of it, agent and Host tell (ADR 13). */
function showIsolation(screen: Screen, { kind }: Hypervisor): void {
  const isRoot = process.getuid?.() === 0;
  const ofVmm = 'seccomp and, where the kernel has it, Landlock';
  const ofRoot = 'a user of its own without capabilities, limits of memory, processors and threads';
  screen.print(`  isolation on:  each VMM has a session of its own and one folder that it writes (0700)${isRoot ? `, ${ofRoot}` : ''}${kind === 'real' ? `, ${ofVmm}` : ''}`);
  if (kind !== 'real') screen.print(`  isolation off: ${ofVmm}, which are the real VMM's`);
  if (!isRoot) {
    screen.print(`  isolation off: ${ofRoot}`);
    screen.print('                 because this is not root: the agent, the VMMs and Postgres all run as you');
  }
  screen.print();
}

/** Runs kubectl as the user of the demo would. @throws with what it printed. */
export function kubectl(stack: Stack, args: readonly string[], input?: string): string {
  const { kubernetes } = stack.context;
  const cache = `--cache-dir=${join(stack.context.runDirectory, 'kubectl-cache')}`; // Not in the user's home.
  const result = spawnSync(kubernetes.kubectl, [cache, ...args], {
    encoding: 'utf8',
    env: { ...process.env, KUBECONFIG: kubernetes.kubeconfig },
    ...(input === undefined ? {} : { input }),
  });
  if (result.status !== 0) {
    throw new Error(`kubectl ${args.join(' ')} failed:\n${result.stderr}`);
  }
  return result.stdout;
}

/** Applies a file of `examples/` with the paths of this machine. */
export function applyExample(stack: Stack, file: string): void {
  const text = readFileSync(join(repositoryRoot, 'examples', file), 'utf8')
    .replaceAll('/var/lib/nkudo/images/guest.elf', stack.images.kernel)
    .replaceAll('/var/lib/nkudo/images/data.raw', stack.images.disk);
  kubectl(stack, ['apply', '-f', '-'], text);
}

/** Path of an object in the demo's namespace. */
export function pathOf(stack: Stack, plural: string, name: string): string {
  return `/apis/nkudo.dev/v1alpha1/namespaces/${stack.context.kubernetes.namespace}/${plural}/${name}`;
}
