/** Metrics of the mesh. No label has a value per site, host or account: the number of series must not grow with the fleet. */
import { Counter, Histogram, type Registry } from 'prom-client';

export interface MeshMetrics {
  /** `kind`: `list` or the kind of a change; `outcome`: `OK` or a code of docs/errors.md. */
  countCall(kind: string, outcome: string, seconds: number): void;
  /** Setup keys that hosts asked for; `outcome`: `OK`, `NotNow` or a code of docs/errors.md. */
  countKey(outcome: string): void;
  /** Sites whose mesh was given up at their deletion. */
  countAbandoned(): void;
}

/** Registers them; once for each registry. */
export function createMeshMetrics(registry: Registry): MeshMetrics {
  const registers = [registry];
  const calls = new Counter({ name: 'nkudo_mesh_calls_total', help: 'Calls to management APIs of meshes', labelNames: ['kind', 'outcome'], registers });
  const seconds = new Histogram({ name: 'nkudo_mesh_call_seconds', help: 'Duration of calls to management APIs of meshes', buckets: [0.05, 0.2, 1, 5, 20, 60], registers });
  const keys = new Counter({ name: 'nkudo_mesh_keys_total', help: 'Setup keys that hosts asked for', labelNames: ['outcome'], registers });
  const abandoned = new Counter({ name: 'nkudo_mesh_abandoned_total', help: 'Sites deleted without their objects in the mesh account', registers });
  return {
    countCall: (kind, outcome, duration) => {
      calls.inc({ kind, outcome });
      seconds.observe(duration);
    },
    countKey: (outcome) => keys.inc({ outcome }),
    countAbandoned: () => abandoned.inc(),
  };
}
