/** A host that is being emptied, by spec.drain or by its deletion: what is left of its microVMs, as phase and condition. Pure. */
import type { EmptyingPhase } from '#api/model/host.ts';
import type { HostConditionReason } from '#crds/conditions.ts';
import type { Host } from '#crds/gen/host.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { HostRecord } from '#controller/ports/host-store.ts';
import type { DerivedCondition } from '#controller/runtime/status-patch.ts';

/** MicroVMs that a message names at most. */
const namedMax = 3;

export interface Emptying {
  /** Bound to the host, by its row. */
  readonly bound: number;
  /** Of those, shown as not running. */
  readonly down: number;
  /** Those that say what they wait for. */
  readonly blocked: readonly { readonly name: string; readonly message: string }[];
}

export function gatherEmptying(host: Host | null, record: HostRecord | null, microvms: readonly MicroVM[]): Emptying | null {
  if (host === null || record === null || (host.spec.drain === undefined && host.metadata.deletionTimestamp === undefined)) return null;
  const here = microvms.filter(({ status }) => status?.binding?.hostID === record.hostId);
  return {
    bound: record.allocated.microvms,
    down: here.filter(({ status }) => status?.printableStatus === 'Stopped' || status?.printableStatus === 'Completed').length,
    blocked: here.flatMap(({ metadata, status }) => {
      const condition = status?.conditions?.find(({ type }) => type === 'EvictionBlocked');
      return condition?.status === 'True' ? [{ name: metadata.name, message: condition.message }] : [];
    }),
  };
}

function isEmpty({ bound, down }: Emptying): boolean {
  return bound === 0 || down >= bound;
}

export function emptyingPhase(host: Host, emptying: Emptying | null): EmptyingPhase | null {
  if (emptying === null) return null;
  return host.spec.drain !== undefined && isEmpty(emptying) ? 'Drained' : 'Draining';
}

/** There is none of it without spec.drain. */
export function deriveDrained(host: Host, emptying: Emptying | null, isHeard: boolean): DerivedCondition[] {
  if (emptying === null || host.spec.drain === undefined) return [];
  const drained = (status: DerivedCondition['status'], reason: HostConditionReason<'Drained'>, message: string): DerivedCondition[] => [{ type: 'Drained', status, reason, message }];
  const { bound, down, blocked } = emptying;
  if (bound === 0) return drained('True', 'Empty', 'no microVM is bound to the host');
  if (!isHeard) return drained('Unknown', 'HostSilent', `the host is silent, and ${bound} microVMs are bound to it`);
  if (isEmpty(emptying)) return drained('True', 'AllStopped', `${bound} microVMs are stopped and stay bound to the host; they start again when spec.drain is removed`);
  const left = `${bound - down} of ${bound} microVMs that are bound to the host still run`;
  return blocked.length > 0 ? drained('False', 'MicroVMsHeld', `${left}; ${describeBlocked(blocked)}`) : drained('False', 'MicroVMsLeaving', left);
}

export function describeBlocked(blocked: Emptying['blocked']): string {
  const named = blocked.toSorted((left, right) => (left.name < right.name ? -1 : 1)).slice(0, namedMax);
  const rest = blocked.length - named.length;
  return `${named.map(({ name, message }) => `${name} waits: ${message}`).join('; ')}${rest > 0 ? `; and ${rest} more` : ''}`;
}
