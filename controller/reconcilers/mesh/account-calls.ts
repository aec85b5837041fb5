/**
 * Makes the calls to a mesh account, each between its two fault points and counted. Calls are safe to repeat: the port
 * looks for an object's name and marker before it makes one, so a crash at any point costs one look more.
 */
import { isAppError } from '#api/model/error-codes.ts';
import type { MeshCall, MeshCallResult, MeshListing, MeshNames } from '#controller/domain/mesh/model.ts';
import type { MeshScope } from '#controller/domain/mesh/names.ts';
import { meshListStep, meshStepOf, type MeshFaultPoints, type MeshStep } from '#controller/mesh-fault-points.ts';
import type { MeshAccount } from '#controller/ports/mesh.ts';
import type { Time } from '#controller/runtime/time.ts';
import type { MeshMetrics } from '#controller/telemetry/mesh-metrics.ts';

export interface AccountCallDeps {
  readonly meshFaults: MeshFaultPoints;
  readonly metrics: Pick<MeshMetrics, 'countCall'>;
  readonly time: Pick<Time, 'monotonicMs'>;
}

async function call<Result>(deps: AccountCallDeps, kind: string, step: MeshStep, work: () => Promise<Result>): Promise<Result> {
  const startedMs = deps.time.monotonicMs();
  const count = (outcome: string): void => deps.metrics.countCall(kind, outcome, (deps.time.monotonicMs() - startedMs) / 1000);
  await deps.meshFaults.reach(`${step}:before`);
  try {
    const result = await work();
    count('OK');
    await deps.meshFaults.reach(`${step}:after`);
    return result;
  } catch (error) {
    count(isAppError(error) ? error.code : 'INTERNAL');
    throw error;
  }
}

export function listAccount(deps: AccountCallDeps, account: MeshAccount, scope: MeshScope, signal: AbortSignal): Promise<MeshListing> {
  return call(deps, 'list', meshListStep, () => account.list(scope, signal));
}

export function performCall(deps: AccountCallDeps, account: MeshAccount, request: { readonly call: MeshCall; readonly names: MeshNames; readonly signal: AbortSignal }): Promise<MeshCallResult> {
  const { call: change, names, signal } = request;
  return call(deps, change.kind, meshStepOf(change.kind), () => account.perform(change, names, signal));
}

/** Names to ids of a listing, to which what is made is added. */
export interface GrowingNames extends MeshNames {
  readonly groupIds: Map<string, string>;
  readonly networkIds: Map<string, string>;
}

export function namesOf(listing: MeshListing): GrowingNames {
  return {
    groupIds: new Map(listing.groups.map(({ name, id }) => [name, id])),
    networkIds: new Map(listing.networks.map(({ name, id }) => [name, id])),
  };
}

/** Performs all of them in order. @throws at the first that fails */
export async function performAll(
  deps: AccountCallDeps,
  account: MeshAccount,
  request: { readonly calls: readonly MeshCall[]; readonly names: GrowingNames; readonly signal: AbortSignal },
): Promise<void> {
  const { calls, names, signal } = request;
  for (const change of calls) {
    const { id } = await performCall(deps, account, { call: change, names, signal });
    if (change.kind === 'createGroup') names.groupIds.set(change.name, id);
    if (change.kind === 'createNetwork') names.networkIds.set(change.name, id);
    if (change.kind === 'deleteGroup') names.groupIds.delete(change.name);
    if (change.kind === 'deleteNetwork') names.networkIds.delete(change.name);
  }
}
