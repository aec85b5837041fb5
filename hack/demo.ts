/**
 * The whole path on one machine: a Kubernetes API, Postgres, the controller and one host; a microVM from `kubectl apply`
 * to its first console lines, and with `--once` back to nothing.
 *
 * Owns the command line and the end: everything runs in one run folder on free ports, so two demos do not meet, and no
 * process or file outlives it, however it ends. Only guest networks do, when it is killed with SIGKILL.
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheRoot, errorCode } from './build-cache.ts';
import { createScreen } from './demo/screen.ts';
import { startStack } from './demo/stack.ts';
import { checkNothingIsLeft, createMicroVM, deleteMicroVM, joinHost, showHowToGoOn, showResult } from './demo/story.ts';

const usage = `npm run demo -- [--once] [--simulator] [--kubeconfig [FILE]]

  --once               delete the microVM again, check that nothing is left, and end
  --simulator          use the simulated hypervisor also where the real one would work
  --kubeconfig [FILE]  use that cluster (default: $KUBECONFIG or ~/.kube/config) instead of one of its own
`;

const keptLogs = 8;

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

/** Shows it all; gives the last line of `--once`, or null when the stack stays. */
async function runDemo(options: Options, logDirectory: string): Promise<string | null> {
  const stack = await startStack({ ...options, logDirectory, screen, defer: (undo) => void undos.push(undo) });
  await joinHost(stack);
  const hello = await createMicroVM(stack, 'microvm.yaml', 'hello');
  screen.step(`hello: Running ${hello.createToRunningMs} ms after kubectl apply was started`);
  const full = await createMicroVM(stack, 'microvm-full.yaml', 'hello-full');
  await showResult(stack, hello, 2);
  if (!options.isOnce) {
    showHowToGoOn(stack);
    screen.print('Ctrl-C takes everything down.');
    return null;
  }
  await deleteMicroVM(stack, 'hello-full');
  await deleteMicroVM(stack, 'hello');
  await checkNothingIsLeft(stack, [hello, full]);
  return `demo: ok hypervisor=${stack.hypervisor.kind} create_to_running_ms=${hello.createToRunningMs}`;
}

async function end(code: number, lastLine: string): Promise<never> {
  await takeDown();
  screen.print(lastLine);
  process.exit(code);
}

/** A mistake on the command line is the user's to correct, not a fault to trace. */
function parseOptionsOrExit(args: readonly string[]): Options | null {
  try {
    return parseOptions(args);
  } catch (error) {
    if (!(errorCode(error) ?? '').startsWith('ERR_PARSE_ARGS_')) throw error;
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`);
    process.exit(2);
  }
}

const options = parseOptionsOrExit(process.argv.slice(2));
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
