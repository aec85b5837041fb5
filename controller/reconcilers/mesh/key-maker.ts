/**
 * Orders and one-off keys for the hosts whose streams this replica holds; it need not lead. A key's value goes from the
 * management server through memory to the stream, and is forgotten: after a crash the key is deleted and made anew.
 * Never throws to its caller: a mesh that does not answer is no reason to disturb a host's stream.
 */
import { isAppError } from '#api/model/error-codes.ts';
import { hostGroupName, setupKeyName, type MeshScope } from '#controller/domain/mesh/names.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { MeshAccount, OpenMeshAccount } from '#controller/ports/mesh.ts';
import type { IssuedMeshKey, MeshHost, MeshOrders } from '#controller/ports/mesh-orders.ts';
import type { MeshKeyClaim, MeshStore } from '#controller/ports/mesh-store.ts';
import type { KubernetesApi } from '#controller/runtime/kubernetes-api.ts';
import { errorFields, type Log } from '#controller/runtime/log.ts';
import type { Time } from '#controller/runtime/time.ts';
import type { MeshMetrics } from '#controller/telemetry/mesh-metrics.ts';
import { performCall, type AccountCallDeps } from './account-calls.ts';
import { setupKeyTtlSeconds } from './desired.ts';
import { createMeshGate } from './gate.ts';
import { loadMeshToken } from './token.ts';

/** Another replica may make a key for the host after this time; nothing of ours takes longer. */
const claimMs = 60_000;
const keyDeadlineMs = 45_000;

export interface KeyMakerDeps extends AccountCallDeps {
  readonly store: MeshStore;
  readonly kube: Pick<KubernetesApi, 'get'>;
  readonly openAccount: OpenMeshAccount;
  readonly metrics: Pick<MeshMetrics, 'countCall' | 'countKey'>;
  readonly time: Time;
  readonly log: Log;
  readonly replica: string;
  /** Longest time between tries for the hosts of one site, milliseconds. */
  readonly retryMaxMs: number;
}

export function createMeshOrders(deps: KeyMakerDeps): MeshOrders {
  const gate = createMeshGate(deps.time, deps.retryMaxMs);
  const actor: Actor = { kind: 'controller', name: deps.replica, from: '' };
  const issue = async (host: MeshHost, signal: AbortSignal): Promise<IssuedMeshKey | null> => {
    const record = await deps.store.load(host.tenantId, host.hostId);
    if (record?.order?.join !== true || gate.delayMs(record.siteId, '') > 0) return null;
    const claim = await deps.store.claimKey(host, deps.replica, claimMs);
    if (claim === null) return null;
    let made: { readonly id: string; readonly ttlSeconds: number } | null = null;
    try {
      const key = await makeKey(deps, { host, claim, signal });
      made = key === null ? null : { id: key.id, ttlSeconds: setupKeyTtlSeconds };
      gate.open(record.siteId);
      return key?.revealKey === undefined ? null : { order: claim.order, revealKey: key.revealKey };
    } catch (error) {
      gate.shut(record.siteId, '', isAppError(error) ? (error.retryAfterMs ?? 0) : 0);
      throw error;
    } finally {
      await deps.store.endClaim(host, deps.replica, made, actor);
    }
  };
  return {
    loadOrders: (hosts) => deps.store.loadOrders(hosts),
    issueKey: async (host, signal) => {
      try {
        const key = await issue(host, signal);
        deps.metrics.countKey(key === null ? 'NotNow' : 'OK');
        return key;
      } catch (error) {
        deps.metrics.countKey(isAppError(error) ? error.code : 'INTERNAL');
        deps.log.warn({ hostId: host.hostId, ...errorFields(error) }, 'a setup key could not be made');
        return null;
      }
    },
  };
}

interface KeyRequest {
  readonly host: MeshHost;
  readonly claim: MeshKeyClaim;
  readonly signal: AbortSignal;
}

async function makeKey(deps: KeyMakerDeps, { host, claim, signal }: KeyRequest): Promise<Awaited<ReturnType<MeshAccount['perform']>> | null> {
  const token = await loadMeshToken(deps.kube, { namespace: claim.namespace, name: claim.site.secretName });
  if (token === null) return null;
  const account = deps.openAccount({ managementUrl: claim.site.managementUrl, token: token.reveal() });
  const scope: MeshScope = { installationId: await deps.store.installationId(), siteUid: claim.siteId, namespace: claim.namespace, siteName: claim.siteName };
  const groupIds = new Map([...Object.entries(claim.site.groupIds), [hostGroupName(scope, host.hostId), claim.groupId]]);
  const late = new AbortController();
  const cancel = deps.time.schedule(keyDeadlineMs, () => late.abort());
  try {
    return await performCall(deps, account, {
      call: { kind: 'createSetupKey', hostId: host.hostId, name: setupKeyName(scope, host.hostId), groups: [...groupIds.keys()], ttlSeconds: setupKeyTtlSeconds },
      names: { groupIds, networkIds: new Map() },
      signal: AbortSignal.any([signal, late.signal]),
    });
  } finally {
    cancel();
  }
}
