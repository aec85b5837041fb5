/**
 * What the leader knows of a recovery of the database that is under way: hosts that have not reported yet, and microVMs
 * that only hosts know. Read from the rows with every change of a host; empty when nothing was restored. Decides nothing.
 */
import type { HostId, MicroVMId, SiteId } from '#api/model/ids.ts';
import type { AwaitedHost, RecoveryStore } from '#controller/ports/recovery.ts';
import { errorFields, type Log } from '#controller/runtime/log.ts';

export interface RecoveryBoard {
  /** Of the database, as last read. */
  incarnation(): number;
  isAwaited(hostId: HostId): boolean;
  /** Names of the hosts that the site waits for. */
  awaitedAt(siteUid: string): readonly string[];
  /** A host has it and it is not bound to that host. */
  isSighted(microvmId: MicroVMId): boolean;
  /** Reads again. What is asked for while it reads is covered by another reading. Never throws. */
  read(): Promise<void>;
}

export interface RecoveryBoardDeps {
  readonly store: Pick<RecoveryStore, 'listAllAwaited' | 'listAllSighted' | 'incarnation'>;
  readonly log: Log;
  /** For metrics. */
  readonly onAwaited: (count: number) => void;
  /** Called with what is not as it was before. */
  readonly onChanged: (change: { readonly siteIds: readonly SiteId[]; readonly hosts: readonly AwaitedHost[]; readonly microvmIds: readonly MicroVMId[] }) => void;
}

export function createRecoveryBoard({ store, log, onAwaited, onChanged }: RecoveryBoardDeps): RecoveryBoard {
  let incarnation = 1;
  let awaited: ReadonlyMap<HostId, AwaitedHost> = new Map();
  let sighted: ReadonlySet<MicroVMId> = new Set();
  let reading: Promise<void> | null = null;
  let next: Promise<void> | null = null;

  const readOnce = async (): Promise<void> => {
    try {
      const [hosts, microvms, found] = await Promise.all([store.listAllAwaited(), store.listAllSighted(), store.incarnation()]);
      const [hadHosts, hadMicrovms] = [awaited, sighted];
      incarnation = found;
      awaited = new Map(hosts.map((host) => [host.hostId, host]));
      sighted = new Set(microvms.map(({ microvmId }) => microvmId));
      onAwaited(awaited.size);
      const changed = [...hosts.filter(({ hostId }) => !hadHosts.has(hostId)), ...[...hadHosts.values()].filter(({ hostId }) => !awaited.has(hostId))];
      const microvmIds = [...sighted].filter((id) => !hadMicrovms.has(id));
      if (changed.length > 0 || microvmIds.length > 0) onChanged({ siteIds: [...new Set(changed.map(({ siteId }) => siteId))], hosts: changed, microvmIds });
    } catch (error) {
      // What was held stays held.
      log.warn(errorFields(error), 'which hosts have reported since the last recovery could not be read');
    }
  };
  const start = (): Promise<void> => {
    reading = readOnce().finally(() => {
      reading = null;
    });
    return reading;
  };

  return {
    incarnation: () => incarnation,
    isAwaited: (hostId) => awaited.has(hostId),
    awaitedAt: (siteUid) => [...awaited.values()].filter(({ siteId }) => siteId === siteUid).map(({ name }) => name),
    isSighted: (microvmId) => sighted.has(microvmId),
    read: () => {
      if (reading === null) return start();
      next ??= reading.then(() => {
        next = null;
        return start();
      });
      return next;
    },
  };
}
