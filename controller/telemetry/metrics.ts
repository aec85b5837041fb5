/**
 * All metrics of the controller with their names and labels. No label has a value per microVM or host:
 * the number of series must not grow with the fleet.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { createLeaderMetrics, type LeaderMetrics } from './leader-metrics.ts';
import { createMeshMetrics, type MeshMetrics } from './mesh-metrics.ts';

export interface GatewayMetrics {
  /** Open streams of hosts on this replica. */
  setSessions(count: number): void;
  countPush(): void;
  countBeats(count: number): void;
  countReports(executions: number, observations: number): void;
  countLogBytes(bytes: number): void;
}

/** What the leader knows of the audit chain. On a replica that does not lead they say nothing: see `nkudo_leading`. */
export interface AuditMetrics {
  setChaining(isChaining: boolean): void;
  setUnlinkedAgeMs(ageMs: number): void;
  countLinks(count: number): void;
  countCheckpoints(count: number): void;
}

export interface LogRetentionMetrics {
  setPartitionsAhead(days: number): void;
  setExecutionPartitionsAhead(months: number): void;
  countPartitionsDropped(count: number): void;
}

export interface RecoveryMetrics {
  setIncarnation(incarnation: number): void;
  countRecovery(): void;
  /** Hosts that have not reported since the last recovery; above 0, replacements are held. */
  setAwaitedHosts(count: number): void;
}

/** What the leader hands to a sink of logs. */
export interface LogExportMetrics {
  countExported(lines: number): void;
  countExportRefused(lines: number): void;
  countExportFailure(): void;
}

/** From a small microVM on an idle host to one that is out of reach for a day. */
const planBuckets = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600, 86_400];

export interface ControllerMetrics {
  readonly recovery: RecoveryMetrics;
  readonly leader: LeaderMetrics;
  /** From the commit of an operation to when the leader sees that it has ended. */
  observePlan(kind: string, outcome: string, seconds: number): void;
  countCommit(): void;
  readonly gateway: GatewayMetrics;
  readonly mesh: MeshMetrics;
  readonly audit: AuditMetrics;
  readonly logRetention: LogRetentionMetrics;
  readonly logExport: LogExportMetrics;
  /** By method and `OK` or a code of docs/errors.md. */
  readonly countCall: (path: string, code: string) => void;
  /** By route of the table, such as `GET /v1/namespaces/{namespace}/sites`, and `OK` or a code of docs/errors.md. */
  readonly countRequest: (route: string, code: string) => void;
  setLeading(isLeading: boolean): void;
  readonly registry: Registry;
}

export function createMetrics(): ControllerMetrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const calls = new Counter({ name: 'nkudo_grpc_calls_total', help: 'Ended gRPC calls', labelNames: ['method', 'code'], registers });
  const requests = new Counter({ name: 'nkudo_http_requests_total', help: 'Ended requests of the HTTPS API', labelNames: ['route', 'code'], registers });
  const sessions = new Gauge({ name: 'nkudo_host_sessions', help: 'Hosts connected to this replica', registers });
  const pushes = new Counter({ name: 'nkudo_operations_pushed_total', help: 'Operations written to the streams of hosts', registers });
  const beats = new Counter({ name: 'nkudo_beats_total', help: 'Heartbeats stored', registers });
  const executions = new Counter({ name: 'nkudo_execution_reports_total', help: 'Reports on executions stored', registers });
  const observations = new Counter({ name: 'nkudo_observations_total', help: 'Observations stored', registers });
  const batch = new Histogram({ name: 'nkudo_report_batch_items', help: 'Items in one report', buckets: [1, 4, 16, 64, 256, 512], registers });
  const logBytes = new Counter({ name: 'nkudo_log_bytes_total', help: 'Bytes of guests and VMMs received', registers });
  const leading = new Gauge({ name: 'nkudo_leading', help: '1 while this replica leads', registers });
  leading.set(0);
  const plans = new Histogram({ name: 'nkudo_plan_seconds', help: 'From the commit of an operation to its end as the leader sees it', labelNames: ['kind', 'outcome'], buckets: planBuckets, registers });
  const commits = new Counter({ name: 'nkudo_database_commits_total', help: 'Transactions of this replica that Postgres committed, those that only read included', registers });
  const incarnation = new Gauge({ name: 'nkudo_database_incarnation', help: 'Rises with every restore or lossy failover of the database', registers });
  const recoveries = new Counter({ name: 'nkudo_database_recoveries_total', help: 'Times that this replica found the database to be an older copy; more than 0 is an alarm', registers });
  const awaited = new Gauge({ name: 'nkudo_recovery_awaited_hosts', help: 'Hosts that have not reported since the last recovery; their sites replace nothing', registers });
  const chaining = new Gauge({ name: 'nkudo_audit_chaining', help: '1 while this replica leads and links audit rows', registers });
  chaining.set(0);
  const unlinkedAge = new Gauge({ name: 'nkudo_audit_unlinked_age_seconds', help: 'Age of the oldest audit row without a link; above 10 is an alarm', registers });
  const links = new Counter({ name: 'nkudo_audit_links_total', help: 'Audit rows linked', registers });
  const checkpoints = new Counter({ name: 'nkudo_audit_checkpoints_total', help: 'Audit checkpoints signed', registers });
  // Absent until it was counted: 0 would be an alarm.
  let partitionsAhead: Gauge | null = null;
  let monthsAhead: Gauge | null = null;
  const exported = new Counter({ name: 'nkudo_log_lines_exported_total', help: 'Log lines handed to the sink, or refused by it for good', labelNames: ['outcome'], registers });
  const exportFailures = new Counter({ name: 'nkudo_log_export_failures_total', help: 'Deliveries to the log sink that have to be tried again', registers });
  const partitionsDropped = new Counter({ name: 'nkudo_partitions_dropped_total', help: 'Partitions of logs and executions dropped by retention', registers });
  return {
    registry,
    mesh: createMeshMetrics(registry),
    leader: createLeaderMetrics(registry),
    observePlan: (kind, outcome, seconds) => plans.observe({ kind, outcome }, seconds),
    countCommit: () => commits.inc(),
    countCall: (method, code) => calls.inc({ method, code }),
    countRequest: (route, code) => requests.inc({ route, code }),
    setLeading: (isLeading) => leading.set(isLeading ? 1 : 0),
    recovery: {
      setIncarnation: (value) => incarnation.set(value),
      countRecovery: () => recoveries.inc(),
      setAwaitedHosts: (count) => awaited.set(count),
    },
    audit: {
      setChaining: (isChaining) => chaining.set(isChaining ? 1 : 0),
      setUnlinkedAgeMs: (ageMs) => unlinkedAge.set(ageMs / 1000),
      countLinks: (count) => links.inc(count),
      countCheckpoints: (count) => checkpoints.inc(count),
    },
    logExport: {
      countExported: (lines) => exported.inc({ outcome: 'delivered' }, lines),
      countExportRefused: (lines) => exported.inc({ outcome: 'refused' }, lines),
      countExportFailure: () => exportFailures.inc(),
    },
    logRetention: {
      setPartitionsAhead: (days) => {
        partitionsAhead ??= new Gauge({ name: 'nkudo_log_partitions_ahead', help: 'Daily log partitions for days to come; below 2 is an alarm', registers });
        partitionsAhead.set(days);
      },
      setExecutionPartitionsAhead: (months) => {
        monthsAhead ??= new Gauge({ name: 'nkudo_execution_partitions_ahead', help: 'Monthly execution partitions for months to come; below 2 is an alarm', registers });
        monthsAhead.set(months);
      },
      countPartitionsDropped: (count) => partitionsDropped.inc(count),
    },
    gateway: {
      setSessions: (count) => sessions.set(count),
      countPush: () => pushes.inc(),
      countBeats: (count) => beats.inc(count),
      countReports: (executionCount, observationCount) => {
        executions.inc(executionCount);
        observations.inc(observationCount);
        batch.observe(executionCount + observationCount);
      },
      countLogBytes: (bytes) => logBytes.inc(bytes),
    },
  };
}
