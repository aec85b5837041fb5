/** What the parts of a running controller share, made once by `serve.ts`. */
import type { Logger } from 'pino';
import type { KubernetesClient } from './adapters/kubernetes/kubernetes-client.ts';
import type { ServeConfig } from './config.ts';
import type { ProcessFaultPoints } from './fault-points.ts';
import type { MeshFaultPoints } from './mesh-fault-points.ts';
import type { Pki } from './pki/pki.ts';
import type { ApiKeyStore } from './ports/api-key-store.ts';
import type { AuditChainStore } from './ports/audit-chain.ts';
import type { DispatchStore } from './ports/dispatch-store.ts';
import type { EnrollmentStore } from './ports/enrollment-store.ts';
import type { EvictionStore } from './ports/eviction-store.ts';
import type { FleetStore } from './ports/fleet-store.ts';
import type { ChangeReader, HintBus } from './ports/hints.ts';
import type { HostStore } from './ports/host-store.ts';
import type { LeaseStore, ReplacementStore } from './ports/lease-store.ts';
import type { IdentityStore } from './ports/identity-store.ts';
import type { LeadershipStore } from './ports/leadership-store.ts';
import type { LogExportStore, LogSink } from './ports/log-sink.ts';
import type { LogStore } from './ports/log-store.ts';
import type { MaintenanceStore } from './ports/maintenance.ts';
import type { OpenMeshAccount } from './ports/mesh.ts';
import type { AgentOrders } from './ports/agent-orders.ts';
import type { AgentRolloutStore } from './ports/agent-rollout-store.ts';
import type { MeshStore } from './ports/mesh-store.ts';
import type { MicroVMStore } from './ports/microvm-store.ts';
import type { PlanStore } from './ports/plan-store.ts';
import type { RecoveryStore } from './ports/recovery.ts';
import type { SiteStore } from './ports/site-store.ts';
import type { Time } from './runtime/time.ts';
import type { ControllerMetrics } from './telemetry/metrics.ts';
import type { Tracing } from './telemetry/tracing.ts';

/** All that is kept in the database, by its ports. */
export interface Stores {
  readonly leadership: LeadershipStore;
  readonly enrollment: EnrollmentStore;
  readonly sites: SiteStore;
  readonly hosts: HostStore;
  readonly microvms: MicroVMStore;
  readonly plans: PlanStore;
  readonly dispatch: DispatchStore;
  readonly logs: LogStore;
  readonly logExports: LogExportStore;
  readonly fleet: FleetStore;
  readonly changes: ChangeReader;
  readonly agentOrders: AgentOrders;
  readonly agentRollouts: AgentRolloutStore;
  readonly mesh: MeshStore;
  readonly identities: IdentityStore;
  readonly apiKeys: ApiKeyStore;
  readonly recovery: RecoveryStore;
  readonly leases: LeaseStore;
  readonly replacements: ReplacementStore;
  readonly evictions: EvictionStore;
}

export interface Core {
  readonly config: ServeConfig;
  readonly log: Logger;
  readonly time: Time;
  readonly database: Stores;
  readonly maintenance: MaintenanceStore;
  /** Null when its role can't be reached by any setting: audit rows are then written and not linked. */
  readonly auditChain: AuditChainStore | null;
  /** Null: logs stay in Postgres. */
  readonly logSink: LogSink | null;
  readonly hints: HintBus;
  readonly kubernetes: KubernetesClient;
  readonly pki: Pki;
  readonly metrics: ControllerMetrics;
  readonly tracing: Tracing;
  readonly faults: ProcessFaultPoints;
  readonly meshFaults: MeshFaultPoints;
  readonly openMeshAccount: OpenMeshAccount;
  /** Addresses that agents dial. */
  readonly endpoints: () => readonly string[];
}
