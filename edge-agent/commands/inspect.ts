/**
 * `status`, `vm ls` and `vm show`: what this host knows and sees, from the journal and by looking at the VMMs.
 * They need neither a running agent nor a control plane, and change nothing.
 */
import { X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { microVMId } from '#api/model/ids.ts';
import type { SiteOverride } from '#api/model/site-orders.ts';
import { createCloudHypervisor } from '../adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { createIdentityFiles } from '../adapters/identity-files/identity-files.ts';
import { damagedJournalFile, openJournalForReading } from '../adapters/journal-sqlite/journal-sqlite.ts';
import { createSystemClock } from '../adapters/system/clock.ts';
import { isStateDirectoryLocked } from '../adapters/system/state-lock.ts';
import { createVmDirectories } from '../adapters/vm-directories/vm-directories.ts';
import { nearest } from '../config/nearest.ts';
import { decideNext } from '../domain/diff.ts';
import type { MicroVMRecord, Now } from '../domain/microvm-record.ts';
import { classify, projectObservation } from '../domain/observation.ts';
import { noAttempt } from '../domain/observed-state.ts';
import { damageFact, journalFile } from './run.ts';
import { renderTable } from './table.ts';

export interface InspectOptions {
  readonly stateDir: string;
  readonly output: string;
}

export interface SeenMicroVM {
  readonly name: string;
  readonly namespace: string;
  readonly microvmId: string;
  readonly runPolicy: string;
  readonly state: string;
  readonly pid: number | null;
  readonly restarts: number;
  readonly isCrashLooping: boolean;
  readonly isRestartRequired: boolean;
  readonly lastExit: string | null;
  readonly problem: string | null;
  readonly epoch: number;
  readonly revision: number;
  readonly generation: number;
  readonly bootedAtMs: number | null;
  /** What somebody ordered here, while it stands. */
  readonly siteOverride: { readonly kind: string; readonly user: string; readonly uid: number; readonly since: string; readonly acceptsTwoCopies: boolean; readonly againstSpec: boolean } | null;
  /** Orders given here that the control plane does not know yet. */
  readonly untoldOrders: number;
}

export async function listMicroVMs(options: InspectOptions): Promise<string> {
  const { now } = createSystemClock();
  const seen = await lookAtAll(resolve(options.stateDir), now());
  if (options.output === 'json') return JSON.stringify(seen, null, 2);
  if (seen.length === 0) return 'no microVMs on this host';
  return renderTable(
    ['NAMESPACE', 'NAME', 'STATE', 'POLICY', 'PID', 'RESTARTS', 'LAST EXIT', 'UP', 'PROBLEM'],
    seen.map((vm) => [
      vm.namespace,
      vm.name,
      `${vm.state}${remarkOf(vm)}`,
      vm.runPolicy,
      vm.pid === null ? '-' : String(vm.pid),
      String(vm.restarts),
      vm.lastExit ?? '-',
      vm.bootedAtMs === null ? '-' : formatAge(now().wallMs - vm.bootedAtMs),
      vm.problem ?? '-',
    ]),
  );
}

function remarkOf(vm: SeenMicroVM): string {
  if (vm.siteOverride !== null) return { Stopped: ' (stopped here)', Held: ' (held here)', ForcedStart: ' (forced here)' }[vm.siteOverride.kind] ?? ` (${vm.siteOverride.kind})`;
  return vm.isRestartRequired ? ' (restart required)' : vm.isCrashLooping ? ' (crash-looping)' : '';
}

/** @param named a name, a namespace and name with a slash between, or an id. @throws NOT_FOUND, INVALID_REQUEST when several have the name */
export async function findMicroVM(stateDir: string, named: string): Promise<SeenMicroVM> {
  const { now } = createSystemClock();
  const seen = await lookAtAll(resolve(stateDir), now());
  const [found, ...others] = seen.filter((vm) => vm.microvmId === named || vm.name === named || `${vm.namespace}/${vm.name}` === named);
  if (found === undefined) {
    const meant = nearest(named, seen.flatMap(({ namespace, name }) => [name, `${namespace}/${name}`]));
    throw new AppError('NOT_FOUND', `no microVM ${named} is on this host${meant === undefined ? '' : `; did you mean ${meant}?`}`, { remedy: 'see the names: nkudo-edge vm ls' });
  }
  if (others.length > 0) {
    const all = [found, ...others].map(({ namespace, name }) => `${namespace}/${name}`).join(', ');
    throw new AppError('INVALID_REQUEST', `${named} names several microVMs`, { remedy: `name one of them with its namespace: ${all}` });
  }
  return found;
}

export async function showMicroVM(options: InspectOptions & { readonly named: string }): Promise<string> {
  const vm = await findMicroVM(options.stateDir, options.named);
  if (options.output === 'json') return JSON.stringify(vm, null, 2);
  return renderTable(
    [],
    [
      ['name', `${vm.namespace}/${vm.name}`],
      ['id', vm.microvmId],
      ['state', vm.state],
      ['run policy', vm.runPolicy],
      ['pid', vm.pid === null ? '-' : String(vm.pid)],
      ['booted', vm.bootedAtMs === null ? '-' : new Date(vm.bootedAtMs).toISOString()],
      ['restarts', `${vm.restarts}${vm.isCrashLooping ? ', crash-looping' : ''}`],
      ['restart required', vm.isRestartRequired ? 'yes' : 'no'],
      ['last exit', vm.lastExit ?? '-'],
      ['ordered here', vm.siteOverride === null ? '-' : `${vm.siteOverride.kind}, by ${vm.siteOverride.user} (uid ${vm.siteOverride.uid}) since ${vm.siteOverride.since}`],
      ['untold orders', String(vm.untoldOrders)],
      ['problem', vm.problem ?? '-'],
      ['accepted', `epoch ${vm.epoch}, revision ${vm.revision}, generation ${vm.generation}`],
      ['directory', createVmDirectories(resolve(options.stateDir)).path(microVMId(vm.microvmId))],
    ],
  );
}

export async function showStatus(options: InspectOptions): Promise<string> {
  const stateDirectory = resolve(options.stateDir);
  const identity = createIdentityFiles(stateDirectory).load();
  const { now } = createSystemClock();
  const seen = await lookAtAll(stateDirectory, now());
  const expiresAt = identity === null ? null : new X509Certificate(identity.chainPem).validToDate;
  const status = {
    stateDirectory,
    agentRunning: existsSync(stateDirectory) && isStateDirectoryLocked(stateDirectory),
    enrolled: identity !== null,
    host: identity?.hostName ?? null,
    hostId: identity?.hostId ?? null,
    site: identity?.siteName ?? null,
    namespace: identity?.namespace ?? null,
    endpoints: identity?.endpoints ?? [],
    certificateExpiresAt: expiresAt?.toISOString() ?? null,
    certificateExpired: expiresAt === null ? null : expiresAt.getTime() <= now().wallMs,
    microvms: seen.length,
    microvmsRunning: seen.filter((vm) => vm.state === 'running').length,
    damagedJournal: damageOf(withJournal(stateDirectory, (journal) => journal.loadFact(damageFact))),
    unsentReports: withJournal(stateDirectory, (journal) => journal.loadOutbox(10_000).length) ?? 0,
  };
  if (options.output === 'json') return JSON.stringify(status, null, 2);
  return renderTable(
    [],
    [
      ['host', status.host ?? 'not enrolled'],
      ['site', status.site ?? '-'],
      ['namespace', status.namespace ?? '-'],
      ['agent', status.agentRunning ? 'running' : 'not running'],
      ['certificate', expiresAt === null ? '-' : `${status.certificateExpired === true ? 'expired' : 'valid'} until ${expiresAt.toISOString()}`],
      ['control plane', status.endpoints.join(', ') || '-'],
      ['microVMs', `${status.microvms}, ${status.microvmsRunning} running`],
      ['unsent reports', String(status.unsentReports)],
      ...(status.damagedJournal === null ? [] : [['journal', `${status.damagedJournal}; the damaged one is kept as ${damagedJournalFile}`] as const]),
    ],
  );
}

/** The journal was begun anew because the one before was damaged. */
function damageOf(fact: string | undefined): string | null {
  if (fact === undefined) return null;
  const { damage, atMs } = JSON.parse(fact) as { damage: string; atMs: number }; // Written by `run` only.
  return `begun anew on ${new Date(atMs).toISOString()}: ${damage}`;
}

type ReadJournal = ReturnType<typeof openJournalForReading>;

function withJournal<Value>(stateDirectory: string, read: (journal: ReadJournal) => Value): Value | undefined {
  const path = join(stateDirectory, journalFile);
  if (!existsSync(stateDirectory)) {
    throw new AppError('NOT_FOUND', `there is no state directory ${stateDirectory}`, { remedy: 'correct --state-dir, or make this host known first: nkudo-edge enroll' });
  }
  if (!existsSync(path)) return undefined;
  const journal = openJournalForReading(path);
  try {
    return read(journal);
  } finally {
    journal.close();
  }
}

async function lookAtAll(stateDirectory: string, now: Now): Promise<readonly SeenMicroVM[]> {
  const records = withJournal(stateDirectory, (journal) => journal.loadMicroVMs()) ?? [];
  const hypervisor = createCloudHypervisor({ binaryPath: 'cloud-hypervisor', environment: { PATH: process.env['PATH'] ?? '' } });
  const directories = createVmDirectories(stateDirectory);
  const look = async (record: MicroVMRecord): Promise<SeenMicroVM> => {
    const [vmm, directory] = await Promise.all([
      hypervisor.observe(directories.path(record.microvmId), AbortSignal.timeout(lookDeadlineMs)),
      directories.look(record.microvmId),
    ]);
    const view = { record, vmm, directory, attempt: noAttempt, now };
    const seen = projectObservation(view, classify(view, decideNext(view)));
    return {
      name: record.desired?.name ?? '?',
      namespace: record.desired?.namespace ?? '?',
      microvmId: record.microvmId,
      runPolicy: record.isDeleting ? 'deleting' : (record.desired?.runPolicy ?? '?'),
      state: record.problem !== undefined && vmm.kind !== 'live' ? 'failed' : seen.state,
      pid: vmm.kind === 'live' ? vmm.process.pid : null,
      restarts: seen.restarts,
      isCrashLooping: seen.isCrashLooping,
      isRestartRequired: seen.isRestartRequired,
      lastExit: seen.lastExit?.reason ?? null,
      problem: seen.problem === undefined ? null : `${seen.problem.code}: ${seen.problem.message}`,
      epoch: record.epoch,
      revision: record.revision,
      generation: record.generation,
      bootedAtMs: seen.bootedAtMs ?? null,
      siteOverride: toSeenOverride(record.site?.override),
      untoldOrders: (record.site?.untold.length ?? 0) + (record.site?.lost ?? 0),
    };
  };
  const seen = await Promise.all(records.filter((record) => !record.isTombstone).map(look));
  return seen.sort((a, b) => `${a.namespace}/${a.name}`.localeCompare(`${b.namespace}/${b.name}`));
}

function toSeenOverride(override: SiteOverride | undefined): SeenMicroVM['siteOverride'] {
  if (override === undefined) return null;
  const { kind, by, atMs, acceptsTwoCopies, isAgainstSpec } = override;
  return { kind, user: by.user, uid: by.uid, since: new Date(atMs).toISOString(), acceptsTwoCopies: acceptsTwoCopies === true, againstSpec: isAgainstSpec === true };
}

const lookDeadlineMs = 5_000;

function formatAge(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3_600)}h` : `${Math.floor(seconds / 86_400)}d`;
}
