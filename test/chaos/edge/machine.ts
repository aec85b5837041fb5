/**
 * One host for tests that treat an agent badly: the bundled agent in a network namespace and with a boot id of its own,
 * the simulated Cloud Hypervisor, and a control plane in memory that delivers again what was not finished. Owns what
 * power cuts and reboots take away; what must hold afterwards is the tests'.
 *
 * Without root there is no namespace: then guests have no networks and the machine can't be rebooted.
 */
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, microVMId, operationId, planId, type MicroVMId } from '#api/model/ids.ts';
import { deriveMac } from '#api/model/mac.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { Operation, OperationKind } from '#api/model/plan.ts';
import { openJournalForReading } from '#edge-agent/adapters/journal-sqlite/journal-sqlite.ts';
import type { MicroVMRecord } from '#edge-agent/domain/microvm-record.ts';
import { findProcessesOf, signalIfAlive } from '#hack/stack/run-directory.ts';
import type { RunningProcess } from '#hack/stack/process.ts';
import { openGate } from '#test/e2e/loopback-gate.ts';
import { liveVmms, type LiveVmm } from '#test/e2e/vmm-observer.ts';
import { fakeHostId, startFakeControlPlane, type FakeControlPlane, type FakeControlPlaneOptions } from '#test/fakes/control-plane.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { findObstacle, openLab, type Lab } from '#test/integration/network/lab.ts';

/** Why there is no network namespace here, or null. */
export const networkObstacle = await findObstacle();

export interface MachineOptions extends FakeControlPlaneOptions {
  /** Added to the agent's environment. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Where the state lies; default: in the file's folder. */
  readonly stateDirectory?: string;
  /** False: no namespace, so no networks of guests and no reboot. It saves half a second. */
  readonly hasNetwork?: boolean;
}

export interface StartOptions {
  readonly environment?: Readonly<Record<string, string>>;
  /** A program and its first arguments that run the agent. */
  readonly through?: readonly string[];
  /** Another bundle than that of this tree. */
  readonly program?: string;
  /** Another state directory than that of the machine. */
  readonly stateDirectory?: string;
  /** False: comes back when the process is there, whatever it says. */
  readonly awaitsReadiness?: boolean;
}

export interface EdgeMachine {
  readonly stateDirectory: string;
  readonly runtimeDirectory: string;
  readonly hypervisor: string;
  readonly guest: string;
  readonly plane: FakeControlPlane;
  readonly lab: Lab | null;
  start(options?: StartOptions): Promise<RunningProcess>;
  agent(): RunningProcess;
  /** SIGKILL to the agent alone. */
  crash(): Promise<void>;
  stop(): Promise<void>;
  command(...args: readonly string[]): Promise<{ readonly code: number | null; readonly output: string }>;
  vmms(): readonly LiveVmm[];
  vmmsOf(id: MicroVMId): readonly LiveVmm[];
  directory(id: MicroVMId): string;
  record(id: MicroVMId): MicroVMRecord | undefined;
  /** What kill -9 of all, a dead network and a new boot leave: the disk. The next agent finds another boot id. */
  cutPower(): Promise<void>;
  desired(id: MicroVMId, change?: Partial<DesiredMicroVM>): DesiredMicroVM;
  /** The next operation of the microVM. Null is a deletion. */
  order(id: MicroVMId, kind: OperationKind, desired: DesiredMicroVM | null): Operation;
  /** Pushes it and waits for its final report. */
  carryOut(operation: Operation): Promise<void>;
  isReported(operation: Operation): boolean;
}

export const newMicroVM = (): MicroVMId => microVMId(randomUUID());

let addresses = 9;

/** In the mount namespace of the program, and so of all that it starts, the machine has the boot id of the file. */
export const asBootOf = (bootIdFile: string): readonly string[] => ['unshare', '--mount', 'sh', '-c', 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"', 'sh', bootIdFile];

export async function createEdgeMachine(options: MachineOptions = {}): Promise<EdgeMachine> {
  const scope = fileScope();
  const [programs, hypervisor, guests] = await Promise.all([scope.shared('programs'), scope.shared('simulator'), scope.shared('guests')]);
  const base = scope.makeDirectory('m');
  const stateDirectory = options.stateDirectory ?? join(base, 'state');
  const runtimeDirectory = join(base, 'run');
  const bootIdFile = join(base, 'boot-id');
  for (const directory of [stateDirectory, runtimeDirectory]) mkdirSync(directory, { recursive: true, mode: directory === stateDirectory ? 0o700 : 0o755 });
  const lab = options.hasNetwork === false || networkObstacle !== null ? null : await openLab();
  if (lab !== null) scope.defer(() => lab.close());
  const plane = await startFakeControlPlane({ redelivers: true, ...options });
  scope.defer(() => plane.stop());
  if (lab !== null) await openGate(lab.namespaces.host, plane.address);
  writeFileSync(bootIdFile, `${randomUUID()}\n`);
  let agent: RunningProcess | undefined;
  const revisions = new Map<MicroVMId, number>();
  const addressOf = new Map<MicroVMId, string>();

  const start: EdgeMachine['start'] = async (how = {}) => {
    const inside = [...(how.through ?? []), ...(lab === null ? [] : ['ip', 'netns', 'exec', lab.namespaces.host, ...asBootOf(bootIdFile)]), programs.node];
    const [command = '', ...before] = inside;
    agent = await scope.start({
      name: 'edge-machine',
      command,
      args: [...before, how.program ?? programs.edge, 'run', '--state-dir', how.stateDirectory ?? stateDirectory, '--hypervisor', hypervisor, '--log-level', 'debug', '--allow-path', dirname(guests.guest64), '--allow-path', scope.directory],
      environment: { NKUDO_RUNTIME_DIR: runtimeDirectory, ...options.environment, ...how.environment },
    });
    if (how.awaitsReadiness !== false) await agent.waitForLine(/"msg":"running"/);
    return agent;
  };

  const command: EdgeMachine['command'] = async (...args) => {
    const run = await scope.start({ name: 'edge-machine-command', command: programs.node, args: [programs.edge, ...args, '--state-dir', stateDirectory] });
    const { code } = await run.exited;
    return { code, output: run.lines().join('\n') };
  };

  const theAgent = (): RunningProcess => {
    if (agent === undefined) throw new Error('the agent was not started');
    return agent;
  };

  async function cutPower(): Promise<void> {
    if (lab === null) throw new Error('only a machine in a namespace can lose its power');
    plane.stop();
    // Whoever is left may start another one: until nobody is.
    await until(() => {
      const left = findProcessesOf(base);
      for (const pid of left) signalIfAlive(pid, 'SIGKILL');
      return left.length === 0;
    }, 'every process of the machine to be dead');
    for (const name of (await lab.run(lab.namespaces.host, 'ls', '/sys/class/net')).split('\n')) {
      if (name.startsWith('nkt') || name.startsWith('nkbr-')) await lab.run(lab.namespaces.host, 'ip', 'link', 'delete', name);
    }
    await lab.run(lab.namespaces.host, 'nft', 'flush', 'ruleset');
    for (const name of readdirSync(runtimeDirectory)) rmSync(join(runtimeDirectory, name), { recursive: true });
    writeFileSync(bootIdFile, `${randomUUID()}\n`);
  }

  const machine: EdgeMachine = {
    stateDirectory,
    runtimeDirectory,
    hypervisor,
    guest: guests.guest64,
    plane,
    lab,
    start,
    agent: theAgent,
    crash: async () => void (await theAgent().crash()),
    stop: async () => void (await theAgent().stop()),
    command,
    vmms: () => liveVmms(stateDirectory, hypervisor),
    vmmsOf: (id) => liveVmms(join(stateDirectory, 'vms', id), hypervisor),
    directory: (id) => join(stateDirectory, 'vms', id),
    record(id) {
      const journal = openJournalForReading(join(stateDirectory, 'journal.db'));
      try {
        return journal.loadMicroVMs().find(({ microvmId }) => microvmId === id);
      } finally {
        journal.close();
      }
    },
    cutPower,
    desired(id, change = {}) {
      const address = addressOf.get(id) ?? `10.87.${Math.floor((addresses += 1) / 250)}.${addresses % 250}/16`;
      addressOf.set(id, address);
      return {
        name: `guest-${id.slice(0, 8)}`,
        namespace: 'shop',
        runPolicy: 'Always',
        paused: false,
        restartNonce: 0,
        restart: { initialBackoffMs: 50, maxBackoffMs: 400, maxRetries: 5, windowMs: 60_000 },
        cpuCount: 1,
        memoryBytes: 64 * 2 ** 20,
        boot: { kind: 'kernel', path: guests.guest64, cmdline: 'idle' },
        disks: [{ name: 'data', path: '', readOnly: false, sizeBytes: 2 ** 20, managed: { persistence: 'Persistent', isRetained: false } }],
        ...(lab === null ? {} : { networks: [{ name: 'lan', kind: 'nat', mac: deriveMac(id, 'lan'), address, gateway: '10.87.0.1', ports: [] }] }),
        serialLog: true,
        terminationGracePeriodMs: 300,
        ...change,
      };
    },
    order(id, kind, wanted) {
      const revision = (revisions.get(id) ?? 0) + 1;
      revisions.set(id, revision);
      return {
        id: operationId(randomUUID()),
        planId: planId(randomUUID()),
        microvmId: id,
        hostId: hostId(fakeHostId),
        kind,
        epoch: makeEpoch(1, 1),
        revision,
        generation: revision,
        ...(wanted === null ? {} : { desired: wanted }),
      };
    },
    async carryOut(operation) {
      plane.push(operation);
      await plane.when(`${operation.kind} to be reported`, () => machine.isReported(operation));
      const report = plane.reports.find(({ operationId: of, isFinal }) => of === operation.id && isFinal);
      if (report?.status !== 'Succeeded') throw new Error(`${operation.kind} of ${operation.microvmId}: ${JSON.stringify(report)}`);
    },
    isReported: (operation) => plane.reports.some(({ operationId: of, isFinal }) => of === operation.id && isFinal),
  };

  const tokenFile = join(base, 'token');
  writeFileSync(tokenFile, plane.token(), { mode: 0o600 });
  if (!existsSync(join(stateDirectory, 'identity'))) {
    const enrolled = await command('enroll', '--token-file', tokenFile, '--name', 'edge-1', '--hypervisor', hypervisor);
    if (enrolled.code !== 0) throw new Error(`enroll ended with ${enrolled.code}:\n${enrolled.output}`);
  }
  return machine;
}

/** Removes a mount of a test when its file ends. @throws when it can't be made, as without the right to */
export function mountSmall(directory: string, bytes: number): void {
  mkdirSync(directory, { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes},mode=0700`, 'nkudo-test', directory]);
  fileScope().defer(() => {
    execFileSync('umount', ['--lazy', directory]);
  });
}
