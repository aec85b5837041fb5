/**
 * All metrics of the controller with their names and labels. No label has a value per microVM or host:
 * the number of series must not grow with the fleet.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';

export interface GatewayMetrics {
  /** Open streams of hosts on this replica. */
  setSessions(count: number): void;
  countPush(): void;
  countBeats(count: number): void;
  countReports(executions: number, observations: number): void;
  countLogBytes(bytes: number): void;
}

export interface ControllerMetrics {
  readonly gateway: GatewayMetrics;
  /** By method and `OK` or a code of docs/errors.md. */
  readonly countCall: (path: string, code: string) => void;
  setLeading(isLeading: boolean): void;
  readonly registry: Registry;
}

export function createMetrics(): ControllerMetrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const calls = new Counter({ name: 'nkudo_grpc_calls_total', help: 'Ended gRPC calls', labelNames: ['method', 'code'], registers });
  const sessions = new Gauge({ name: 'nkudo_host_sessions', help: 'Hosts connected to this replica', registers });
  const pushes = new Counter({ name: 'nkudo_operations_pushed_total', help: 'Operations written to the streams of hosts', registers });
  const beats = new Counter({ name: 'nkudo_beats_total', help: 'Heartbeats stored', registers });
  const executions = new Counter({ name: 'nkudo_execution_reports_total', help: 'Reports on executions stored', registers });
  const observations = new Counter({ name: 'nkudo_observations_total', help: 'Observations stored', registers });
  const batch = new Histogram({ name: 'nkudo_report_batch_items', help: 'Items in one report', buckets: [1, 4, 16, 64, 256, 512], registers });
  const logBytes = new Counter({ name: 'nkudo_log_bytes_total', help: 'Bytes of guests and VMMs received', registers });
  const leading = new Gauge({ name: 'nkudo_leading', help: '1 while this replica leads', registers });
  leading.set(0);
  return {
    registry,
    countCall: (method, code) => calls.inc({ method, code }),
    setLeading: (isLeading) => leading.set(isLeading ? 1 : 0),
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
