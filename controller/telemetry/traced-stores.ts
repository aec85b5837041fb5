/**
 * The stores and the Kubernetes API with a span for each step of an operation. They add no step and change no answer; the
 * parts that call them know nothing of traces.
 */
import type { Clock } from '#controller/ports/clock.ts';
import type { DispatchStore } from '#controller/ports/dispatch-store.ts';
import type { MicroVMRecord, MicroVMStore } from '#controller/ports/microvm-store.ts';
import type { KubernetesApi } from '#controller/runtime/kubernetes-api.ts';
import type { Tracing } from './tracing.ts';

type Wall = Pick<Clock, 'nowMs'>;

/** MicroVMs whose newest operation is remembered for the write of their status. */
const rememberedMax = 10_000;

/** For the gateway: hand-over, receipt, and what the host reports. */
export function traceDispatch(store: DispatchStore, tracing: Tracing, clock: Wall): DispatchStore {
  return {
    ...store,
    claim: async (input) => {
      const startMs = clock.nowMs();
      const operations = await store.claim(input);
      for (const { id, kind } of operations) tracing.record({ name: 'hand over', operationId: id, startMs, endMs: clock.nowMs(), attributes: { 'nkudo.operation.kind': kind, 'nkudo.host.id': input.hostId } });
      return operations;
    },
    recordReceipt: async (input, actor) => {
      const startMs = clock.nowMs();
      const changed = await store.recordReceipt(input, actor);
      const code = input.error?.code;
      tracing.record({ name: 'accepted by host', operationId: input.operationId, startMs, endMs: clock.nowMs(), attributes: { 'nkudo.disposition': input.disposition }, ...(code === undefined ? {} : { errorCode: code }) });
      return changed;
    },
    recordReports: async (input, actor) => {
      const startMs = clock.nowMs();
      const outcome = await store.recordReports(input, actor);
      for (const report of input.executions) {
        if (report.finishedAtMs === undefined) continue;
        const errorCode = report.error?.code;
        tracing.record({
          name: 'executed by host', operationId: report.operationId, startMs: report.startedAtMs, endMs: report.finishedAtMs,
          attributes: { 'nkudo.execution.id': report.executionId, 'nkudo.execution.attempt': report.attempt, 'nkudo.execution.status': report.status, 'nkudo.host.id': input.hostId },
          ...(errorCode === undefined ? {} : { errorCode }),
        });
        tracing.record({ name: 'store report', operationId: report.operationId, startMs, endMs: clock.nowMs() });
      }
      return outcome;
    },
  };
}

/** For the leader: the publication that begins the trace, and the status that ends it. */
export function traceReconcilers(parts: { readonly microvms: MicroVMStore; readonly kube: KubernetesApi }, tracing: Tracing, clock: Wall): { readonly microvms: MicroVMStore; readonly kube: KubernetesApi } {
  const { microvms, kube } = parts;
  const newest = new Map<string, string>();
  const remember = (record: MicroVMRecord | null): void => {
    const operation = record?.newestOperation ?? null;
    if (record === null || operation === null) return;
    newest.delete(record.microvmId); // The one that was looked at last is the youngest.
    newest.set(record.microvmId, operation.id);
    const [oldest] = newest.keys();
    if (newest.size > rememberedMax && oldest !== undefined) newest.delete(oldest);
  };
  const published = (record: MicroVMRecord | null, startMs: number): void => {
    remember(record);
    const operation = record?.newestOperation ?? null;
    if (record === null || operation === null) return;
    tracing.record({
      name: 'publish', operationId: operation.id, startMs, endMs: clock.nowMs(),
      attributes: { 'nkudo.operation.kind': operation.kind, 'nkudo.microvm.id': record.microvmId, 'nkudo.plan.id': operation.planId, 'nkudo.generation': operation.generation },
    });
  };
  return {
    microvms: {
      ...microvms,
      load: async (tenantId, microvmId) => {
        const record = await microvms.load(tenantId, microvmId);
        remember(record);
        return record;
      },
      publish: async (input, epoch, actor) => {
        const startMs = clock.nowMs();
        const result = await microvms.publish(input, epoch, actor);
        if (result.outcome === 'published') published(result.record, startMs);
        return result;
      },
      publishDeletion: async (input, epoch, actor) => {
        const startMs = clock.nowMs();
        const record = await microvms.publishDeletion(input, epoch, actor);
        published(record, startMs);
        return record;
      },
    },
    kube: {
      ...kube,
      patch: async (resource, key, body, options) => {
        const startMs = clock.nowMs();
        const object = await kube.patch(resource, key, body, options);
        const operationId = resource.plural === 'microvms' && options.subresource === 'status' ? newest.get(object.metadata.uid) : undefined;
        if (operationId !== undefined) tracing.record({ name: 'write status', operationId, startMs, endMs: clock.nowMs() });
        return object;
      },
    },
  };
}
