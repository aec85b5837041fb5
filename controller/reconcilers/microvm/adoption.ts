/**
 * A MicroVM object whose name a microVM has that may still run under another UID: after the loss of a cluster the same
 * manifests make new objects, and a second copy beside the running one is what nobody wants. It is not placed until
 * somebody says which one it is.
 */
import { isUuid, microVMId, siteId } from '#api/model/ids.ts';
import type { Namesake } from '#controller/ports/identity-store.ts';
import { done, waiting, type Outcome } from '#controller/runtime/outcome.ts';
import { writeFinalizers } from '#controller/runtime/status-patch.ts';
import { writerFor } from '../deps.ts';
import { microvmFinalizer, microvmResource, parseMicroVM } from '../kinds.ts';
import type { MicroVMDeps, MicroVMScope, MicroVMStep } from './scope.ts';

/** Its value is the UID of the microVM that the object takes over, or {@link startAnew}. */
export const adoptAnnotation = 'nkudo.dev/adopt';
/** A copy beside whatever runs under that name is wanted. */
export const startAnew = 'none';

/** A rebind, or the release of the other one, is told by nobody. */
const lookAgainMs = 10_000;

/** Before the first row of a microVM only. */
export const resolveAdoption: MicroVMStep = async (scope, deps) => {
  if (scope.record !== null || deps.stores.identities === undefined) return null;
  const { namespace, name, annotations } = scope.object.metadata;
  const asked = annotations?.[adoptAnnotation];
  if (asked === startAnew) return null;
  const namesakes = (await deps.stores.identities.findNamesakes(namespace, name)).filter(
    // What a live object stands for is that object's own.
    ({ tenantId, microvmId }) => microvmId !== scope.id && (tenantId !== scope.tenantId || deps.caches.microvms.findByUid(microvmId) === undefined),
  );
  if (asked !== undefined) return adopt(scope, deps, { asked, namesakes });
  const [namesake] = namesakes;
  return namesake === undefined ? null : adoptionRequired(scope, describeNamesake(scope, namesake));
};

async function adopt(scope: MicroVMScope, deps: MicroVMDeps, found: { readonly asked: string; readonly namesakes: readonly Namesake[] }): Promise<Outcome | null> {
  const { asked } = found;
  const { object, tenantId, site } = scope;
  if (asked === scope.id || site === null || deps.stores.identities === undefined) return null;
  const lost = found.namesakes.find((namesake) => namesake.microvmId === asked);
  if (lost !== undefined && lost.tenantId !== tenantId) return adoptionRequired(scope, describeNamesake(scope, lost));
  const { uid, name } = object.metadata;
  const identity =
    lost === undefined || !isUuid(asked)
      ? null
      : await deps.stores.identities.adopt({ tenantId, microvmId: microVMId(asked), objectUid: uid, name, siteId: siteId(site.metadata.uid) }, deps.epoch, deps.actor);
  if (identity === null) return adoptionRequired(scope, `${adoptAnnotation} names ${asked}, and no microVM ${name} of that UID waits to be adopted at this Site; correct it, or start anew with ${adoptAnnotation}=${startAnew}`);
  deps.identities.add(identity);
  // Written and read again, it is in the cache as what it is now, and comes by with its rows.
  const kind = { resource: microvmResource, parse: parseMicroVM, cache: deps.caches.microvms };
  const adopted = { ...object, metadata: { ...object.metadata, uid: identity.uid } };
  await writeFinalizers(writerFor(deps, kind, 'k8s.finalizer.add'), adopted, [...(object.metadata.finalizers ?? []), microvmFinalizer]);
  scope.isReleased = true;
  return done();
}

function describeNamesake({ object, tenantId }: MicroVMScope, namesake: Namesake): string {
  const { namespace, name } = object.metadata;
  const adoptIt = `kubectl -n ${namespace} annotate --overwrite mvm ${name} ${adoptAnnotation}=${namesake.microvmId}`;
  const rest = `${adoptIt}; to start another one beside it: the same with ${adoptAnnotation}=${startAnew}`;
  return namesake.tenantId === tenantId
    ? `a microVM ${name} with UID ${namesake.microvmId} may still run and belongs to no object; take it over with ${rest}`
    : `a microVM ${name} with UID ${namesake.microvmId} may still run, of a namespace ${namespace} that is gone; bind its tenant to this one with nkudo-controller tenant rebind ${namespace}, then take it over with ${rest}`;
}

function adoptionRequired(scope: MicroVMScope, message: string): Outcome {
  scope.obstacle = { condition: 'Accepted', reason: 'AdoptionRequired', message };
  return waiting('AdoptionRequired', message, lookAgainMs);
}
