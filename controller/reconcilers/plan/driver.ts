/**
 * Which plans the leader looks at and when: those that the rows say are open, at the start of its term and at every
 * safety read; one that was just accepted, at its hint; one that waits for an object, when that object changes.
 */
import { planId, tenantId } from '#api/model/ids.ts';
import type { ChangeHint } from '#controller/ports/dispatch-store.ts';
import { formatKey, type ObjectKey } from '#controller/runtime/kubernetes-api.ts';
import { errorFields, type Log } from '#controller/runtime/log.ts';
import type { Time } from '#controller/runtime/time.ts';
import { createWorkQueue, type WorkQueue } from '#controller/runtime/work-queue.ts';
import { reconcilePlan, type PlanDeps } from './reconciler.ts';

/** A plan is mostly waiting for two servers. */
const planWorkers = 8;
/** Objects of a large plan change in bursts: one look for each burst. */
const objectDelayMs = 250;
/** Objects that plans wait for; beyond it the safety read finds them. */
const waitingMax = 50_000;

export interface PlanDriver {
  readonly queue: WorkQueue;
  onHint(hint: ChangeHint): void;
  onMicroVMChanged(key: ObjectKey): void;
  /** Reads which plans are open. Never throws. */
  readOpen(): Promise<void>;
  /** Found by the last reading. */
  keys(): readonly string[];
}

export function createPlanDriver(options: { readonly deps: Omit<PlanDeps, 'onWaiting'>; readonly time: Time; readonly log: Log }): PlanDriver {
  const { deps, time, log } = options;
  const waiting = new Map<string, Set<string>>();
  let open: readonly string[] = [];
  const queue = createWorkQueue({
    name: 'plans',
    concurrency: planWorkers,
    time,
    log,
    reconcile: async (key) => {
      const slash = key.indexOf('/');
      const onWaiting = (objects: readonly ObjectKey[]): void => {
        for (const object of objects) {
          const name = formatKey(object);
          const plans = waiting.get(name) ?? new Set<string>();
          if (waiting.size < waitingMax || waiting.has(name)) waiting.set(name, plans.add(key));
        }
      };
      return reconcilePlan(tenantId(key.slice(0, slash)), planId(key.slice(slash + 1)), { ...deps, onWaiting });
    },
  });
  return {
    queue,
    keys: () => open,
    onHint: (hint) => {
      if (hint.kind === 'plan') queue.add(`${hint.tenantId}/${hint.planId}`);
    },
    onMicroVMChanged: (object) => {
      const name = formatKey(object);
      const plans = waiting.get(name);
      if (plans === undefined) return;
      waiting.delete(name);
      // What a plan waits for is linked with the publication; this look only finds what else became of its objects.
      for (const key of plans) queue.addAfter(key, objectDelayMs);
    },
    readOpen: async () => {
      try {
        const known = new Set(open);
        open = (await deps.plans.listToDrive()).map((plan) => `${plan.tenantId}/${plan.planId}`);
        // What was known already waits for an object, or backs off.
        for (const key of open.filter((found) => !known.has(found))) queue.add(key);
      } catch (error) {
        log.warn(errorFields(error), 'open plans could not be read');
      }
    },
  };
}
