/** Shows what becomes true of an object while it happens. */
import type { KubernetesObject, Watch } from '../stack/kubernetes-client.ts';
import type { Screen } from './screen.ts';

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
}

/** Prints a line whenever a condition gets another status or reason. */
export function showConditions(watch: Watch, target: { readonly name: string; readonly screen: Screen }): void {
  const shown = new Map<string, string>();
  watch.onEvent(({ object }) => {
    for (const { type, status, reason, message } of readConditions(object)) {
      const state = `${status} ${reason}`;
      if (shown.get(type) !== state) {
        shown.set(type, state);
        target.screen.step(`${target.name}: ${type}=${status} (${reason}${status === 'True' || message === '' ? '' : `: ${message}`})`);
      }
    }
  });
}

/** Status of a condition, or null when there is none of that type. */
export function conditionStatus(object: KubernetesObject, type: string): string | null {
  return readConditions(object).find((condition) => condition.type === type)?.status ?? null;
}

function readConditions(object: KubernetesObject): readonly Condition[] {
  const status = object['status'];
  const conditions: unknown = typeof status === 'object' && status !== null && 'conditions' in status ? status.conditions : [];
  // Parsing boundary: the CRDs' schema makes these fields required strings.
  return Array.isArray(conditions) ? (conditions as Condition[]) : [];
}
