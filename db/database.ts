/** Composition of this room: two pools, one for each role, and the stores over them. */
import type { IdSource } from '#controller/ports/ids.ts';
import type { ApiKeyStore } from '#controller/ports/api-key-store.ts';
import type { DispatchStore } from '#controller/ports/dispatch-store.ts';
import type { EnrollmentStore } from '#controller/ports/enrollment-store.ts';
import type { EvictionStore } from '#controller/ports/eviction-store.ts';
import type { FleetStore } from '#controller/ports/fleet-store.ts';
import type { ChangeReader } from '#controller/ports/hints.ts';
import type { HostStore } from '#controller/ports/host-store.ts';
import type { LeaseStore, ReplacementStore } from '#controller/ports/lease-store.ts';
import type { IdentityStore } from '#controller/ports/identity-store.ts';
import type { LeadershipStore } from '#controller/ports/leadership-store.ts';
import type { LogExportStore } from '#controller/ports/log-sink.ts';
import type { LogStore } from '#controller/ports/log-store.ts';
import type { AgentOrders } from '#controller/ports/agent-orders.ts';
import type { AgentRolloutStore } from '#controller/ports/agent-rollout-store.ts';
import type { MeshStore } from '#controller/ports/mesh-store.ts';
import type { RecoveryStore } from '#controller/ports/recovery.ts';
import type { MicroVMStore } from '#controller/ports/microvm-store.ts';
import type { PlanStore } from '#controller/ports/plan-store.ts';
import type { SiteStore } from '#controller/ports/site-store.ts';
import { silentLog, type DatabaseLog } from './log.ts';
import { createPool } from './pool.ts';
import { createApiKeyStore } from './stores/api-key-store.ts';
import { createChangeReader } from './stores/change-reader.ts';
import { createDispatchStore } from './stores/dispatch-store.ts';
import { createEnrollmentStore } from './stores/enrollment-store.ts';
import { createEvictionStore } from './stores/eviction-store.ts';
import { createFleetStore } from './stores/fleet-store.ts';
import { createHostStore } from './stores/host-store.ts';
import { createIdentityStore } from './stores/identity-store.ts';
import { createLeadershipStore } from './stores/leadership-store.ts';
import { createLeaseStore } from './stores/lease-store.ts';
import { createLogExportStore } from './stores/log-export-store.ts';
import { createLogStore } from './stores/log-store.ts';
import { createAgentOrderStore } from './stores/agent-order-store.ts';
import { createAgentRolloutStore } from './stores/agent-rollout-store.ts';
import { createMeshStore } from './stores/mesh-store.ts';
import { createMicroVMStore } from './stores/microvm-store.ts';
import { createReplacementStore } from './stores/replacement-store.ts';
import { createPlanStore } from './stores/plan-store.ts';
import { createRecoveryStore } from './stores/recovery-store.ts';
import { createSiteStore } from './stores/site-store.ts';
import { createTransactions } from './tx.ts';

/** Most connections of one replica under each role; Postgres' default limit is 100 for all. */
const appConnections = 12;
const systemConnections = 4;

export interface DatabaseOptions {
  /** Connection string of role nkudo_app. */
  readonly appUrl: string;
  /** Connection string of role nkudo_system. */
  readonly systemUrl: string;
  readonly ids: IdSource;
  readonly log?: DatabaseLog;
}

export interface Database {
  readonly leadership: LeadershipStore;
  readonly enrollment: EnrollmentStore;
  readonly sites: SiteStore;
  readonly hosts: HostStore;
  readonly microvms: MicroVMStore;
  readonly plans: PlanStore;
  readonly dispatch: DispatchStore;
  readonly logs: LogStore;
  readonly logExports: LogExportStore;
  readonly evictions: EvictionStore;
  readonly fleet: FleetStore;
  readonly changes: ChangeReader;
  readonly mesh: MeshStore;
  readonly agentOrders: AgentOrders;
  readonly agentRollouts: AgentRolloutStore;
  readonly identities: IdentityStore;
  readonly apiKeys: ApiKeyStore;
  readonly recovery: RecoveryStore;
  readonly leases: LeaseStore;
  readonly replacements: ReplacementStore;
  /** Called after each COMMIT. */
  onCommit(listener: () => void): void;
  /** Reads through both pools, for readiness. @throws DATABASE_UNAVAILABLE, INTERNAL when the schema is missing */
  ping(): Promise<void>;
  close(): Promise<void>;
}

/** Opens no connection yet; the first call does. */
export function openDatabase(options: DatabaseOptions): Database {
  const log = options.log ?? silentLog;
  const transactions = createTransactions({
    app: createPool({ url: options.appUrl, name: 'nkudo-app', max: appConnections, log }),
    system: createPool({ url: options.systemUrl, name: 'nkudo-system', max: systemConnections, log }),
  });
  const deps = { transactions, ids: options.ids };
  return {
    leadership: createLeadershipStore(transactions),
    enrollment: createEnrollmentStore(deps),
    sites: createSiteStore(transactions),
    hosts: createHostStore(transactions),
    microvms: createMicroVMStore(deps),
    plans: createPlanStore(deps),
    dispatch: createDispatchStore(transactions),
    logs: createLogStore(transactions),
    logExports: createLogExportStore(transactions),
    evictions: createEvictionStore(deps),
    fleet: createFleetStore(transactions),
    changes: createChangeReader(transactions),
    mesh: createMeshStore(transactions),
    agentOrders: createAgentOrderStore(transactions),
    agentRollouts: createAgentRolloutStore(transactions),
    identities: createIdentityStore(transactions),
    apiKeys: createApiKeyStore(transactions),
    recovery: createRecoveryStore(transactions),
    leases: createLeaseStore(transactions),
    replacements: createReplacementStore(deps),
    onCommit: (listener) => transactions.onCommit(listener),
    ping: () => transactions.ping(),
    close: () => transactions.close(),
  };
}
