/** What the gateway needs from the rest of the controller, and its settings. */
import type { Logger } from 'pino';
import type { AgentOrders } from '#controller/ports/agent-orders.ts';
import type { Clock } from '#controller/ports/clock.ts';
import type { DispatchStore } from '#controller/ports/dispatch-store.ts';
import type { EnrollmentStore } from '#controller/ports/enrollment-store.ts';
import type { GuestSecrets } from '#controller/ports/guest-secrets.ts';
import type { HintBus } from '#controller/ports/hints.ts';
import type { HostStore } from '#controller/ports/host-store.ts';
import type { IdSource } from '#controller/ports/ids.ts';
import type { MeshOrders, MeshReports } from '#controller/ports/mesh-orders.ts';
import type { LeaseStore } from '#controller/ports/lease-store.ts';
import type { LogStore } from '#controller/ports/log-store.ts';
import type { RecoveryStore } from '#controller/ports/recovery.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { ControllerFaultPoints } from '#controller/fault-points.ts';
import type { Pki } from '#controller/pki/pki.ts';
import type { GatewayMetrics } from '#controller/telemetry/metrics.ts';

export interface GatewaySettings {
  /** Time between beats that hosts are told, milliseconds; beats are flushed to the database a few times as often. */
  readonly heartbeatIntervalMs: number;
  /** Time between safety reads: undelivered operations and the identity of open streams, milliseconds. */
  readonly pollIntervalMs: number;
  /** So long after its expiry a certificate can be recovered by a proof of its key, milliseconds. */
  readonly recoveryWindowMs: number;
  /** Name of this replica, as sessions record it. */
  readonly replica: string;
  /** Addresses `host:port` that agents are to use; read when they are told, as a port may be bound late. */
  readonly endpoints: () => readonly string[];
}

export interface GatewayDeps {
  readonly log: Logger;
  readonly clock: Clock;
  readonly ids: IdSource;
  readonly pki: Pki;
  readonly enrollments: EnrollmentStore;
  readonly hosts: Pick<HostStore, 'openSession' | 'closeSession' | 'saveFacts' | 'flushBeats'>;
  readonly dispatch: DispatchStore;
  readonly leases: Pick<LeaseStore, 'grant'>;
  /** Absent: no host is asked to report again after a restore of the database. */
  readonly recovery?: Pick<RecoveryStore, 'listAllAwaited'>;
  readonly guestSecrets: GuestSecrets;
  readonly logs: Pick<LogStore, 'appendAll'>;
  /** Absent: reports on the mesh are dropped, and no order is sent. */
  readonly mesh?: (MeshOrders & MeshReports) | undefined;
  /** Absent: no agent is ordered a version. */
  readonly agents?: AgentOrders | undefined;
  readonly hints: Pick<HintBus, 'publish' | 'onHint' | 'onRemoteChange'>;
  readonly faults: ControllerFaultPoints;
  readonly metrics: GatewayMetrics;
  readonly settings: GatewaySettings;
  /** Called after bytes were stored, so that followers in this process read at once. */
  readonly onLogStored: (microvmId: MicroVMId) => void;
}
