/** Shows what becomes true of an object while it happens. */
import type { KubernetesObject, Watch } from '../stack/kubernetes-client.ts';
import type { Screen } from './screen.ts';

interface Condition {
  readonly type: string;
  readonly status: string;
}

/** In the order in which they come about; others follow. */
const lifeOrder = ['Accepted', 'Scheduled', 'Reachable', 'ImagesReady', 'Provisioned', 'Running', 'Ready'];

/** Prints one line for each change: the printable status, and the conditions that became true with it. */
export function showProgress(watch: Watch, target: { readonly name: string; readonly screen: Screen }): void {
  const shown = new Set<string>();
  let shownStatus = '';
  watch.onEvent(({ object }) => {
    const nowTrue = readConditions(object).filter(({ status }) => status === 'True').map(({ type }) => type);
    const added = nowTrue.filter((type) => !shown.has(type)).sort((left, right) => rank(left) - rank(right));
    const status = printableStatus(object);
    if (added.length > 0 || status !== shownStatus) {
      target.screen.step(`${target.name}: ${status === '' ? 'created' : status}${added.length === 0 ? '' : ` (${added.join(', ')})`}`);
    }
    added.forEach((type) => shown.add(type));
    shownStatus = status;
  });
}

function rank(type: string): number {
  const index = lifeOrder.indexOf(type);
  return index === -1 ? lifeOrder.length : index;
}

/** Status of a condition, or null when there is none of that type. */
export function conditionStatus(object: KubernetesObject, type: string): string | null {
  return readConditions(object).find((condition) => condition.type === type)?.status ?? null;
}

function printableStatus(object: KubernetesObject): string {
  const status = object['status'];
  const text: unknown = typeof status === 'object' && status !== null && 'printableStatus' in status ? status.printableStatus : '';
  return typeof text === 'string' ? text : '';
}

function readConditions(object: KubernetesObject): readonly Condition[] {
  const status = object['status'];
  const conditions: unknown = typeof status === 'object' && status !== null && 'conditions' in status ? status.conditions : [];
  // Parsing boundary: the CRDs' schema makes these fields required strings.
  return Array.isArray(conditions) ? (conditions as Condition[]) : [];
}
