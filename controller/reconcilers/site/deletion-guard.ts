/**
 * What the brake on mass deletion says of a Site now: from the objects that are being deleted, those that went within
 * this leadership, the Site's own annotation and what it showed last. Holds nothing itself.
 */
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { Site } from '#crds/gen/site.ts';
import { decideDeletionHold, deletionLimits, type Deletion, type DeletionHold } from '#controller/domain/deletion-guard.ts';
import type { KubernetesApi } from '#controller/runtime/kubernetes-api.ts';
import type { Reflector } from '#controller/runtime/reflector.ts';
import type { Time } from '#controller/runtime/time.ts';
import { isForced, namespaceResource } from '../kinds.ts';

/** On a Site: the number of deletions that are meant. It is taken off when they are done. */
export const confirmDeleteAnnotation = 'nkudo.dev/confirm-delete';

/** Deletions that went and are remembered; older ones are outside the window long before. */
const goneMax = 20_000;

export interface DeletionGuard {
  of(site: Site): Promise<DeletionHold>;
}

export function createDeletionGuard(deps: { readonly kube: Pick<KubernetesApi, 'get'>; readonly microvms: Reflector<MicroVM>; readonly time: Pick<Time, 'nowMs'> }): DeletionGuard {
  let gone: (Deletion & { readonly site: string })[] = [];
  const asking = new Map<string, Promise<boolean>>();
  deps.microvms.onChange(({ before, after }) => {
    if (after !== undefined || before?.metadata.deletionTimestamp === undefined) return;
    const oldestMs = deps.time.nowMs() - deletionLimits.windowMs;
    if (gone.length >= goneMax) gone = gone.filter(({ deletedAtMs }) => deletedAtMs >= oldestMs).slice(1);
    gone.push({ site: siteOf(before), ...deletionOf(before, before.metadata.deletionTimestamp) });
  });
  /** Asked anew each time, since it may have begun a moment ago; those who ask at once share the answer. */
  const isNamespaceGoing = (name: string): Promise<boolean> => {
    const asked = asking.get(name);
    if (asked !== undefined) return asked;
    const answer = deps.kube
      .get(namespaceResource, { namespace: '', name })
      .then((object) => object?.metadata.deletionTimestamp !== undefined)
      .finally(() => asking.delete(name));
    asking.set(name, answer);
    return answer;
  };
  return {
    of: async (site) => {
      const { namespace, name } = site.metadata;
      const present = deps.microvms.list(namespace).filter((microvm) => microvm.spec.siteRef.name === name);
      const pending = present.flatMap((microvm) => (microvm.metadata.deletionTimestamp === undefined ? [] : [deletionOf(microvm, microvm.metadata.deletionTimestamp)]));
      const oldestMs = deps.time.nowMs() - deletionLimits.windowMs;
      const key = `${namespace}/${name}`;
      return decideDeletionHold({
        isEnabled: site.spec.massDeletionGuard !== 'Disabled' && !(site.metadata.deletionTimestamp !== undefined && isForced(site)),
        isNamespaceGoing: pending.length > 0 && (await isNamespaceGoing(namespace)),
        present: present.length,
        pending,
        gone: gone.filter((deletion) => deletion.site === key && deletion.deletedAtMs >= oldestMs),
        confirmed: confirmedOf(site),
        wasHeld: site.status?.conditions?.find(({ type }) => type === 'DeletionHeld')?.status === 'True',
      });
    },
  };
}

function deletionOf({ metadata }: MicroVM, deletedAt: string): Deletion {
  return { createdAtMs: Date.parse(metadata.creationTimestamp), deletedAtMs: Date.parse(deletedAt) };
}

function siteOf({ metadata, spec }: MicroVM): string {
  return `${metadata.namespace}/${spec.siteRef.name}`;
}

function confirmedOf(site: Site): number | null {
  const text = site.metadata.annotations?.[confirmDeleteAnnotation];
  return text !== undefined && /^\d{1,6}$/.test(text) ? Number(text) : null;
}

/** What both a Site and its microVMs say while they wait. */
export function describeHold(hold: Extract<DeletionHold, { readonly isHeld: true }>): string {
  const why = hold.cause === 'NamespaceDeleted' ? 'the namespace is being deleted' : 'very many microVMs were deleted at once';
  return `${why}, and ${hold.deleting} of ${hold.present} wait: if that is meant, annotate the Site with ${confirmDeleteAnnotation}=${hold.deleting}`;
}
