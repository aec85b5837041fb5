/** The dry run of one action: the same decision and the same write as of a real one, stored by nobody. */
import type { PlanStore } from '#controller/ports/plan-store.ts';
import type { PlanDryRun } from '#controller/ports/plan-writer.ts';
import type { KubernetesApi } from '#controller/runtime/kubernetes-api.ts';
import { microvmResource, parseMicroVM } from '../kinds.ts';
import { decideWrite, planError } from './decide-write.ts';
import { performWrite } from './perform-write.ts';
import { hashSpec } from './spec-hash.ts';

/** A dry run reads again so often when somebody else writes. */
const attemptsMax = 3;

export function createPlanDryRun(deps: { readonly kube: KubernetesApi; readonly restoredRunPolicy: PlanStore['lastRunPolicy'] }): PlanDryRun {
  return {
    dryRun: async ({ tenantId, namespace, siteName, isForced }, action) => {
      const key = { namespace, name: action.name };
      const restored = action.kind === 'Start' && action.uid !== null ? await deps.restoredRunPolicy(tenantId, action.uid) : null;
      for (let attempt = 1; attempt <= attemptsMax; attempt += 1) {
        const object = await deps.kube.get(microvmResource, key);
        const live = object === null ? null : parseMicroVM(object);
        const decision = decideWrite({ planId: null, namespace, siteName, action, live, attempted: null, hash: hashSpec, restoredRunPolicy: restored });
        if (decision.write === 'none') {
          const error = 'end' in decision ? decision.end : null;
          return error === null ? { outcome: 'wouldChangeNothing' } : { outcome: 'refused', error };
        }
        const result = await performWrite(deps.kube, key, decision, { isForced, isDryRun: true });
        if (result.result === 'written') return { outcome: 'wouldWrite' };
        if (result.result === 'refused') return { outcome: 'refused', error: result.error };
      }
      return { outcome: 'refused', error: planError('CONFLICT') };
    },
  };
}
