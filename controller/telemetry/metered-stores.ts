/** How long plans take, measured where they begin and where their end is seen: at the store that the reconcilers use. */
import { isTerminal } from '#api/model/plan.ts';
import type { MicroVMRecord, MicroVMStore } from '#controller/ports/microvm-store.ts';

/** Operations under way that are measured; above that the oldest are not. */
const measuredMax = 20_000;

export function meterPlans(store: MicroVMStore, monotonicMs: () => number, observe: (kind: string, outcome: string, seconds: number) => void): MicroVMStore {
  const startedAtMs = new Map<string, number>();
  const begin = (record: MicroVMRecord | null): void => {
    const operation = record?.newestOperation ?? null;
    if (operation === null || startedAtMs.has(operation.id)) return;
    const oldest = startedAtMs.size >= measuredMax ? startedAtMs.keys().next().value : undefined;
    if (oldest !== undefined) startedAtMs.delete(oldest);
    startedAtMs.set(operation.id, monotonicMs());
  };
  return {
    ...store,
    load: async (tenantId, microvmId) => {
      const record = await store.load(tenantId, microvmId);
      const operation = record?.newestOperation ?? null;
      if (operation !== null && isTerminal(operation.status)) {
        const at = startedAtMs.get(operation.id);
        if (startedAtMs.delete(operation.id) && at !== undefined) observe(operation.kind, operation.status, (monotonicMs() - at) / 1000);
      }
      return record;
    },
    publish: async (input, epoch, actor) => {
      const result = await store.publish(input, epoch, actor);
      if (result.outcome === 'published') begin(result.record);
      return result;
    },
    publishDeletion: async (input, epoch, actor) => {
      const record = await store.publishDeletion(input, epoch, actor);
      begin(record);
      return record;
    },
  };
}
