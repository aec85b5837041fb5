/**
 * Keeps the lease of this host for its microVMs that may be replaced: which beats were sent when, which answers extended
 * it, until when each microVM may live, and the table by which the guard ends what is overdue. It decides nothing about
 * a microVM; each worker asks for its view.
 *
 * Invariant: the guard runs and knows the directory before a VMM is started there, and a grant counts only from the
 * moment its beat was sent.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import { askEveryMs, deriveLeaseView, endUnder, isHeld, leaseTermsOf, newerLease, type HostLease, type LeaseView } from '../domain/lease.ts';
import type { BootMoment, MicroVMRecord, Now, ProcessKey } from '../domain/microvm-record.ts';
import type { SeenVmm } from '../domain/observed-state.ts';
import type { Clock } from '../ports/clock.ts';
import type { Guard, GuardEntry } from '../ports/guard.ts';
import type { Logger } from '../ports/logger.ts';
import type { VmDirectories } from '../ports/vm-directories.ts';

export interface LeaseKeeper {
  /** Undefined for a microVM that needs no lease. */
  viewOf(record: MicroVMRecord, now: Now): LeaseView | undefined;
  /** Before its VMM is started: the guard runs and knows of it. @throws GUARD_FAILED */
  prepare(record: MicroVMRecord): Promise<void>;
  /** What a look at a microVM found: its entry comes, stays or goes with it. */
  noticed(record: MicroVMRecord, vmm: SeenVmm): void;
  /** What a beat that asks for the lease says; null while nothing needs one. */
  ask(): { readonly holdsLease: boolean } | null;
  /** The answer to a beat that was sent at that moment, committed by the control plane. */
  granted(sent: BootMoment, leaseMs: number): void;
  /** Whether this host holds a live lease. */
  isHeld(now: Now): boolean;
  /** Milliseconds between two requests; undefined while nothing needs a lease. */
  askEveryMs(): number | undefined;
  /** Calls back when a lease is wanted soon: a microVM waits for it. Returns how to end that. */
  onWanted(callback: () => void): () => void;
  /** Calls back when microVMs that wait may be started. */
  onConfirmed(callback: () => void): void;
  /** Directory for the watchers of VMMs that are started now; undefined when this microVM needs none. */
  guardDirectoryOf(record: MicroVMRecord): string | undefined;
  close(): void;
}

export interface LeaseKeeperDeps {
  readonly guard: Guard;
  readonly directories: VmDirectories;
  readonly records: () => Iterable<MicroVMRecord>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A guard that ended is started again at once, and after a failure so often; well within the time that the watchers give. */
const restartDelayMs = 500;

export function createLeaseKeeper(deps: LeaseKeeperDeps): LeaseKeeper {
  const { guard, directories, clock, logger } = deps;
  /** By directory, as the guard has it. */
  let ends: ReadonlyMap<string, BootMoment> = new Map(guard.load().map(({ vmDirectory, end }) => [vmDirectory, end]));
  const watched = new Map<string, ProcessKey>();
  let lease: HostLease | undefined;
  const onWanted = new Set<() => void>();
  let onConfirmed = (): void => {};
  let isWanted = false;
  let isClosed = false;

  /** The guard first: what it could not be told does not count as known here either, and is tried again. */
  function change(alter: (next: Map<string, BootMoment>) => void): void {
    const next = new Map(ends);
    alter(next);
    guard.save([...next].map(([vmDirectory, end]): GuardEntry => ({ vmDirectory, end })));
    ends = next;
  }

  async function keepGuard(): Promise<void> {
    if (isClosed || ends.size === 0) return;
    try {
      await guard.ensure();
    } catch (error) {
      logger.error({ err: error }, 'the guard can not be started: microVMs that may be replaced end');
      clock.after(restartDelayMs, () => void keepGuard());
    }
  }
  guard.onLost(() => {
    if (ends.size > 0) logger.warn({}, 'the guard ended; it is started again');
    void keepGuard();
  });
  if (ends.size > 0) void keepGuard();

  const pathOf = (microvmId: MicroVMId): string => directories.path(microvmId);

  function want(): void {
    if (isWanted) return;
    isWanted = true;
    for (const callback of onWanted) callback();
  }

  return {
    viewOf(record, now) {
      const view = deriveLeaseView(record, ends.get(pathOf(record.microvmId)) ?? endOf(record, lease), lease !== undefined, now);
      if (view !== undefined && !view.mayStart) want();
      return view;
    },
    async prepare(record) {
      const end = endOf(record, lease);
      if (end === undefined) return;
      const directory = pathOf(record.microvmId);
      if (ends.get(directory)?.ms !== end.ms) change((next) => next.set(directory, end));
      await guard.ensure();
    },
    noticed(record, vmm) {
      const directory = pathOf(record.microvmId);
      const isGoverned = leaseTermsOf(record) !== undefined;
      const isThere = vmm.kind === 'live' || vmm.kind === 'starting';
      if (isGoverned && vmm.kind === 'live') adopt(directory, vmm.process);
      // While it is being deleted it still ends in time; only a microVM that needs no lease any more is let go alive.
      const isKept = isGoverned || (record.isDeleting && isThere);
      if (isKept || !ends.has(directory)) return;
      change((next) => next.delete(directory));
      watched.delete(directory);
    },
    ask: () => {
      isWanted = false;
      return askEveryMs(deps.records()) === undefined ? null : { holdsLease: isHeld(lease, clock.now()) };
    },
    granted(sent, leaseMs) {
      const earlier = lease;
      lease = newerLease(lease, { sent, leaseMs });
      const now = clock.now();
      const moved: GuardEntry[] = [];
      let isRevived = false;
      for (const record of deps.records()) {
        const terms = leaseTermsOf(record);
        const directory = pathOf(record.microvmId);
        const before = ends.get(directory);
        // One that somebody started without a lease comes under it.
        if (record.site?.override?.acceptsTwoCopies === true) isRevived = true;
        if (terms === undefined) continue;
        // Also one whose orderly stop was due and whose end was not: it waits, and nothing else would wake it.
        isRevived ||= deriveLeaseView(record, before ?? endOf(record, earlier), earlier !== undefined, now)?.mayStart !== true;
        if (before === undefined) continue;
        const end = endUnder(terms, lease);
        if (end.ms !== before.ms || end.bootId !== before.bootId) moved.push({ vmDirectory: directory, end });
      }
      if (moved.length > 0) change((next) => moved.forEach(({ vmDirectory, end }) => next.set(vmDirectory, end)));
      if (isRevived) onConfirmed();
    },
    isHeld: (now) => isHeld(lease, now),
    askEveryMs: () => askEveryMs(deps.records()),
    onWanted(callback) {
      onWanted.add(callback);
      return () => void onWanted.delete(callback);
    },
    onConfirmed(callback) {
      onConfirmed = callback;
    },
    guardDirectoryOf: (record) => (leaseTermsOf(record) === undefined ? undefined : guard.directory),
    close() {
      isClosed = true;
      guard.close();
    },
  };

  /** A VMM that this agent did not start may have been started without a watcher. */
  function adopt(directory: string, process: ProcessKey): void {
    if (watched.get(directory)?.pid === process.pid) return;
    if (!ends.has(directory)) {
      // It ran already when it became replaceable: until the first lease it has what its terms give from now on.
      const record = [...deps.records()].find(({ microvmId }) => pathOf(microvmId) === directory);
      const terms = record === undefined ? undefined : leaseTermsOf(record);
      if (terms === undefined) return;
      const now = clock.now();
      change((next) => next.set(directory, { bootId: now.bootId, ms: now.bootMs + terms.stopOnHostAfterMs }));
    }
    watched.set(directory, process);
    guard.watch(directory, process);
    void keepGuard();
  }
}

/** Of a microVM that the guard does not know yet. */
function endOf(record: MicroVMRecord, lease: HostLease | undefined): BootMoment | undefined {
  const terms = leaseTermsOf(record);
  return terms === undefined || lease === undefined ? undefined : endUnder(terms, lease);
}
