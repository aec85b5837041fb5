/**
 * Figures of the reconcilers, read when they are asked for: queues, how long a reconcile takes, and what the watches of the
 * API server see. On a replica that does not lead they are absent or stand still: see `nkudo_leading`.
 */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { ReflectorFigures } from '#controller/runtime/reflector.ts';
import type { WorkQueueFigures } from '#controller/runtime/work-queue.ts';

export interface LeaderFigures {
  figures(): Readonly<Record<string, WorkQueueFigures>>;
  watchFigures(): Readonly<Record<string, ReflectorFigures>>;
}

export interface LeaderMetrics {
  /** Null: this replica does not lead any more. */
  setSource(source: LeaderFigures | null): void;
  observeReconcile(queue: string, outcome: string, seconds: number): void;
}

/** From one read and no write to a slow API server. */
const reconcileBuckets = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10];

export function createLeaderMetrics(registry: Registry): LeaderMetrics {
  const registers = [registry];
  let source: LeaderFigures | null = null;
  const queueGauge = (name: string, help: string, read: (figures: WorkQueueFigures) => number): Gauge =>
    new Gauge({
      name, help, labelNames: ['queue'], registers,
      collect() {
        this.reset();
        for (const [queue, figures] of Object.entries(source?.figures() ?? {})) this.set({ queue }, read(figures));
      },
    });
  const watchGauge = (name: string, help: string, read: (figures: ReflectorFigures) => number): Gauge =>
    new Gauge({
      name, help, labelNames: ['resource'], registers,
      collect() {
        this.reset();
        for (const [resource, figures] of Object.entries(source?.watchFigures() ?? {})) this.set({ resource }, read(figures));
      },
    });
  queueGauge('nkudo_queue_waiting', 'Keys that wait for a worker', (figures) => figures.waiting);
  queueGauge('nkudo_queue_delayed', 'Keys that are looked at again later', (figures) => figures.delayed);
  queueGauge('nkudo_queue_running', 'Reconciles under way', (figures) => figures.running);
  watchGauge('nkudo_watch_objects', 'Objects known from the API server', (figures) => figures.objects);
  watchGauge('nkudo_watch_failing', '1 while a kind can be neither listed nor watched; nothing is deleted for it', (figures) => (figures.isFailing ? 1 : 0));
  watchGauge('nkudo_watch_failures_total', 'Lists and watches that failed in this term', (figures) => figures.failures);
  watchGauge('nkudo_lists_emptied_total', 'Lists without an object where there were some before, in this term; more than 0 is an alarm', (figures) => figures.emptied);
  const reconciles = new Counter({ name: 'nkudo_reconciles_total', help: 'Ended reconciles', labelNames: ['queue', 'outcome'], registers });
  const seconds = new Histogram({ name: 'nkudo_reconcile_seconds', help: 'Time of one reconcile', labelNames: ['queue'], buckets: reconcileBuckets, registers });
  return {
    setSource: (next) => {
      source = next;
    },
    observeReconcile: (queue, outcome, taken) => {
      reconciles.inc({ queue, outcome });
      seconds.observe({ queue }, taken);
    },
  };
}
