/**
 * A real agent process on a real state directory, with the simulated Cloud Hypervisor and no control
 * plane: what it is to do is written into its journal through the Journal port. Owns the processes and
 * takes all of them down, VMMs included.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeEpoch } from '#api/model/epoch.ts';
import { microVMId, operationId, planId, type MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { openJournal, openJournalForReading } from '#edge-agent/adapters/journal-sqlite/journal-sqlite.ts';
import { initialRun, type MicroVMRecord } from '#edge-agent/domain/microvm-record.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { buildSimulator } from '#hack/build-simulator.ts';
import { removeControlGroups } from '#test/harness/control-groups.ts';

const repositoryRoot = join(import.meta.dirname, '..', '..', '..');
const waitMs = 30_000;
const pollMs = 10;
const logTailMax = 4_000;

export interface AgentFixture {
  readonly stateDirectory: string;
  readonly guestPath: string;
  /** A desired state with every field filled in. */
  desired(change?: Partial<DesiredMicroVM>): DesiredMicroVM;
  /** Writes a desired state as an accepted operation; the agent must not run. Null asks for a deletion. */
  seed(microvmId: MicroVMId, desired: DesiredMicroVM | null, revision?: number): void;
  record(microvmId: MicroVMId): MicroVMRecord;
  /** @param inside a command that runs the agent in another place, such as a network namespace */
  start(environment?: Record<string, string>, inside?: readonly string[], flags?: readonly string[]): Promise<RunningAgent>;
  run(...args: string[]): Promise<{ readonly code: number | null; readonly out: string; readonly err: string }>;
  vmmPids(microvmId: MicroVMId): readonly number[];
  /** Whether a process works in the microVM's directory: its VMM, or the reaper that is still recording its end. */
  isDirectoryInUse(microvmId: MicroVMId): boolean;
  /** Waits until the record is as asked. */
  until(what: string, condition: () => boolean): Promise<void>;
  directory(microvmId: MicroVMId): string;
  close(): Promise<void>;
}

export interface RunningAgent {
  readonly pid: number;
  readonly exited: Promise<{ readonly code: number | null; readonly signal: string | null }>;
  kill(signal: NodeJS.Signals): Promise<void>;
  log(): string;
}

export const newMicroVM = (): MicroVMId => microVMId(randomUUID());

/** @param real another VMM than the simulated one, and the guest for it */
/** @param agent the program and its first arguments; default: from source */
export async function createAgentFixture(real?: { readonly hypervisor: string; readonly guest: string }, agent: readonly string[] = [process.execPath, join(repositoryRoot, 'edge-agent/main.ts')]): Promise<AgentFixture> {
  const hypervisor = realpathSync(real?.hypervisor ?? (await buildSimulator()));
  const guestPath = real?.guest ?? (await buildGuest()).guest64;
  const root = mkdtempSync(join(tmpdir(), 'nkudo-agent-'));
  // Kernels and disks of tests lie here, and VMMs with users of their own open them.
  chmodSync(root, 0o711);
  const stateDirectory = join(root, 'state');
  mkdirSync(stateDirectory, { mode: 0o700 });
  const journalPath = join(stateDirectory, 'journal.db');
  const agents: ChildProcess[] = [];
  let newestLog = (): string => '';
  const directory = (microvmId: MicroVMId): string => join(stateDirectory, 'vms', microvmId);

  const desired: AgentFixture['desired'] = (change = {}) => ({
    name: 'guest',
    namespace: 'shop',
    runPolicy: 'Always',
    paused: false,
    restartNonce: 0,
    restart: { initialBackoffMs: 50, maxBackoffMs: 400, maxRetries: 5, windowMs: 60_000 },
    cpuCount: 1,
    memoryBytes: 64 * 2 ** 20,
    boot: { kind: 'kernel', path: guestPath, cmdline: 'idle' },
    disks: [],
    serialLog: true,
    terminationGracePeriodMs: 2_000,
    ...change,
  });

  const record: AgentFixture['record'] = (microvmId) => {
    const journal = openJournalForReading(journalPath);
    try {
      const found = journal.loadMicroVMs().find((entry) => entry.microvmId === microvmId);
      if (found === undefined) throw new Error(`the journal has no microVM ${microvmId}`);
      return found;
    } finally {
      journal.close();
    }
  };

  const seed: AgentFixture['seed'] = (microvmId, wanted, revision = 1) => {
    const journal = openJournal(journalPath);
    const earlier = journal.loadMicroVMs().find((entry) => entry.microvmId === microvmId);
    journal.saveMicroVM({
      microvmId,
      epoch: makeEpoch(1, 1),
      revision,
      generation: revision,
      desired: wanted ?? earlier?.desired ?? null,
      isDeleting: wanted === null,
      isTombstone: false,
      operation: { id: operationId(randomUUID()), planId: planId(randomUUID()), kind: wanted === null ? 'Delete' : 'Update', state: 'accepted', attempt: 0 },
      run: earlier?.run ?? initialRun,
    });
    journal.close();
  };

  const vmmPids: AgentFixture['vmmPids'] = (microvmId) =>
    readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .filter((pid) => {
        try {
          return readlinkSync(`/proc/${pid}/exe`) === hypervisor && readlinkSync(`/proc/${pid}/cwd`) === directory(microvmId) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
        } catch {
          // It ended while we looked, or is not ours to look at.
          return false;
        }
      })
      .map(Number);

  const start: AgentFixture['start'] = async (environment = {}, inside = [], flags = []) => {
    const [program = '', ...words] = [...inside, ...agent];
    const child = spawn(
      program,
      [...words, 'run', '--state-dir', stateDirectory, '--hypervisor', hypervisor, '--log-level', 'debug', ...(flags.includes('--allow-path') ? [] : ['--allow-path', '/']), ...flags],
      { cwd: repositoryRoot, env: { PATH: process.env['PATH'], ...environment }, stdio: ['ignore', 'pipe', 'pipe'] },
    );
    agents.push(child);
    let text = '';
    newestLog = () => text;
    let onText = (): void => {};
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8');
      stream.on('data', (chunk: string) => {
        text += chunk;
        onText();
      });
    }
    const exited = new Promise<{ code: number | null; signal: string | null }>((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
    await new Promise<void>((resolve, reject) => {
      onText = () => void (text.includes('"msg":"running"') && resolve());
      void exited.then(({ code, signal }) => reject(new Error(`the agent ended with ${signal ?? code}:\n${text}`)));
    });
    return {
      pid: child.pid ?? 0,
      exited,
      async kill(signal) {
        child.kill(signal);
        await exited;
      },
      log: () => text,
    };
  };

  return {
    stateDirectory,
    guestPath,
    desired,
    seed,
    record,
    start,
    vmmPids,
    isDirectoryInUse: (microvmId) =>
      readdirSync('/proc').some((name) => {
        try {
          return /^\d+$/.test(name) && readlinkSync(`/proc/${name}/cwd`) === directory(microvmId);
        } catch {
          // It ended while we looked.
          return false;
        }
      }),
    directory,
    run: (...args) =>
      new Promise((resolve) => {
        const [program = '', ...words] = agent;
        const child = spawn(program, [...words, ...args], { cwd: repositoryRoot, stdio: ['ignore', 'pipe', 'pipe'] });
        let out = '';
        let err = '';
        child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
        child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
        child.once('close', (code) => resolve({ code, out, err }));
      }),
    // The journal and the process table of other processes send no event, so these are looked at again.
    async until(what, condition) {
      const giveUpAt = performance.now() + waitMs;
      while (!condition()) {
        if (performance.now() > giveUpAt) throw new Error(`gave up waiting for: ${what}\nthe newest agent's last lines:\n${newestLog().slice(-logTailMax)}`);
        await new Promise((resolve) => setTimeout(resolve, pollMs));
      }
    },
    async close() {
      for (const child of agents) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
      for (const pid of allVmms(stateDirectory)) process.kill(pid, 'SIGKILL');
      await removeControlGroups(stateDirectory);
      rmSync(root, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

function allVmms(stateDirectory: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/cwd`).startsWith(stateDirectory);
      } catch {
        return false; // It ended while we looked.
      }
    })
    .map(Number);
}
