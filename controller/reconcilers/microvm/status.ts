/**
 * What a MicroVM shows, from its row and from whether its host is heard. Pure: the same facts give the same
 * status, and at rest nothing differs, so nothing is written.
 *
 * Honest status: of a silent host nothing is known, so Running and Ready are Unknown, never a stale True and
 * never an invented False. States that last for moments only (a plan under way, files being made) are shown
 * with the next lasting one: each of them would cost a write and tell nobody anything.
 */
import { isTerminal, type PlanStatus } from '#api/model/plan.ts';
import type { MicroVMObservation } from '#api/model/microvm.ts';
import type { MicroVM, MicroVMStatus } from '#crds/gen/microvm.ts';
import { formatQuantity } from '#crds/scalar-values.ts';
import { formatTime, stampConditions } from '#controller/runtime/status-patch.ts';
import { deriveConditions, derivePrintableStatus } from './conditions.ts';
import { createView, isUnderWay, type MicroVMFacts, type MicroVMView } from './view.ts';

export function projectMicroVMStatus(object: MicroVM, facts: MicroVMFacts): MicroVMStatus {
  const view = createView(object, facts);
  const { record, observation } = view;
  const binding = record?.binding ?? null;
  const isSilent = binding !== null && !view.isHeard;
  return {
    observedGeneration: object.metadata.generation,
    ...optional('hostObservedGeneration', deriveHostGeneration(view)),
    printableStatus: derivePrintableStatus(view),
    ...(binding === null ? keepBinding(view) : { binding: { hostName: binding.hostName, hostID: binding.hostId, epoch: binding.epoch } }),
    ...(isSilent && view.lastBeatAtMs !== null ? { lastObservedTime: formatTime(view.lastBeatAtMs) } : {}),
    ...(observation?.bootedAtMs === undefined ? {} : { bootedTime: formatTime(observation.bootedAtMs) }),
    ...projectAddresses(view),
    ...projectSize(observation),
    ...(binding === null ? {} : { restarts: projectRestarts(observation) }),
    ...optional('plan', derivePlan(view)),
    conditions: stampConditions(deriveConditions(view), object.status?.conditions, {
      generation: object.metadata.generation,
      nowMs: facts.nowMs,
    }),
  };
}

/**
 * What was shown is the only trace of where a microVM may run while a restored database does not know it, and also in
 * the moment before the restore is noticed. A row without a binding is another matter: it was released.
 */
function keepBinding({ object, record, obstacle }: MicroVMView): Pick<MicroVMStatus, 'binding'> {
  const shown = object.status?.binding;
  return (record === null || obstacle?.reason === 'RecoveryUnderWay') && shown !== undefined ? { binding: shown } : {};
}

function deriveHostGeneration({ object, observation }: MicroVMView): number | undefined {
  const shown = object.status?.hostObservedGeneration;
  if (observation === null) return shown;
  // It never goes back, and moves with the next lasting state.
  if (shown !== undefined && (isUnderWay(observation) || observation.generation < shown)) return shown;
  return isUnderWay(observation) ? undefined : observation.generation;
}

function derivePlan(view: MicroVMView): { id: string; status: PlanStatus } | undefined {
  const newest = view.record?.newestOperation ?? null;
  if (newest === null) return undefined;
  const shown = view.object.status?.plan;
  if (isTerminal(newest.planStatus)) return { id: newest.planId, status: newest.planStatus };
  // An operation has succeeded when the host sees what it asked for; the row follows with the same report or the next.
  if (newest.status !== 'Cancelled' && agrees(view, newest.revision)) return { id: newest.planId, status: 'Succeeded' };
  return { id: newest.planId, status: shown?.id === newest.planId ? (shown.status ?? 'Pending') : 'Pending' };
}

function agrees({ record, observation }: MicroVMView, revision: number): boolean {
  const desired = record?.desired ?? null;
  if (desired === null || observation === null || observation.revision < revision || observation.problem !== undefined) return false;
  if (desired.runPolicy === 'Halted') return observation.state === 'stopped';
  return observation.state === (desired.paused ? 'paused' : 'running');
}

const addressTypes = { nat: 'NAT', bridge: 'Bridge', mesh: 'Mesh', macvtap: 'Macvtap' } as const;

/** As they were given, from the binding on: they do not depend on what the host does. */
function projectAddresses({ record }: MicroVMView): Pick<MicroVMStatus, 'addresses' | 'meshAddress'> {
  if (record?.binding == null) return {};
  const addresses = (record.desired?.networks ?? []).flatMap(({ name, kind, address, ports }) => {
    const bare = address?.split('/')[0];
    if (bare === undefined) return [];
    const shown = ports.map(({ name: port, protocol, hostPort, guestPort }) => ({ name: port, protocol: protocol === 'udp' ? 'UDP' as const : 'TCP' as const, hostPort, guestPort }));
    return [{ network: name, address: bare, type: addressTypes[kind], ...(shown.length === 0 ? {} : { ports: shown }) }];
  });
  const mesh = addresses.find(({ type }) => type === 'Mesh');
  return { ...(addresses.length === 0 ? {} : { addresses }), ...(mesh === undefined ? {} : { meshAddress: mesh.address }) };
}

/** From the moment on in which it is known to have booted: what comes before passes. */
function projectSize(observation: MicroVMObservation | null): Pick<MicroVMStatus, 'size'> {
  if (observation?.bootedAtMs === undefined || (observation.cpuCount === undefined && observation.memoryBytes === undefined)) return {};
  return { size: { ...optional('cpus', observation.cpuCount), ...optional('memory', observation.memoryBytes === undefined ? undefined : formatQuantity(observation.memoryBytes)) } };
}

function projectRestarts(observation: MicroVMObservation | null): NonNullable<MicroVMStatus['restarts']> {
  const lastExit = observation?.lastExit;
  return {
    count: observation?.restarts ?? 0,
    ...(lastExit === undefined ? {} : { lastExitReason: lastExit.reason, lastExitTime: formatTime(lastExit.atMs) }),
  };
}

function optional<Name extends string, Value>(name: Name, value: Value | undefined): { readonly [Key in Name]?: Value } {
  return value === undefined ? {} : ({ [name]: value } as { readonly [Key in Name]?: Value }); // A computed key widens to string.
}
