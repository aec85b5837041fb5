/** The kinds that are reconciled here, and the one place where the API server's JSON becomes their type. */
import type { AgentRollout } from '#crds/gen/agentrollout.ts';
import type { APIKey } from '#crds/gen/apikey.ts';
import type { EnrollmentToken } from '#crds/gen/enrollmenttoken.ts';
import type { Host } from '#crds/gen/host.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { MicroVMClass } from '#crds/gen/microvmclass.ts';
import type { MicroVMSet } from '#crds/gen/microvmset.ts';
import type { Site } from '#crds/gen/site.ts';
import { guestLabel } from '#controller/ports/guest-secrets.ts';
import type { KubernetesObject, Resource } from '#controller/runtime/kubernetes-api.ts';

const custom = (kind: string, plural: string): Resource => ({ group: 'nkudo.dev', version: 'v1alpha1', plural, kind, isNamespaced: true });

export const siteResource = custom('Site', 'sites');
export const hostResource = custom('Host', 'hosts');
export const microvmResource = custom('MicroVM', 'microvms');
export const tokenResource = custom('EnrollmentToken', 'enrollmenttokens');
export const apiKeyResource = custom('APIKey', 'apikeys');
export const classResource = custom('MicroVMClass', 'microvmclasses');
export const microvmSetResource = custom('MicroVMSet', 'microvmsets');
export const agentRolloutResource = custom('AgentRollout', 'agentrollouts');
export const secretResource: Resource = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', isNamespaced: true };
/** Names and versions of the Secrets that guests may have; never their values. */
export const guestSecretResource: Resource = { ...secretResource, labelSelector: `${guestLabel}=true`, isMetadataOnly: true };
export const namespaceResource: Resource = { group: '', version: 'v1', plural: 'namespaces', kind: 'Namespace', isNamespaced: false };

/** The API server checked spec and status against the CRD; an object without a spec is from before it. */
function parse<Type extends KubernetesObject>(object: KubernetesObject): Type | null {
  return 'spec' in object && typeof object.spec === 'object' && object.spec !== null ? (object as unknown as Type) : null;
}

export const parseSite = (object: KubernetesObject): Site | null => parse(object);
export const parseHost = (object: KubernetesObject): Host | null => parse(object);
export const parseMicroVM = (object: KubernetesObject): MicroVM | null => parse(object);
export const parseClass = (object: KubernetesObject): MicroVMClass | null => parse(object);
export const parseMicroVMSet = (object: KubernetesObject): MicroVMSet | null => parse(object);
export const parseAgentRollout = (object: KubernetesObject): AgentRollout | null => parse(object);
export const parseToken = (object: KubernetesObject): EnrollmentToken | null => parse(object);
export const parseApiKeyObject = (object: KubernetesObject): APIKey | null => parse(object);

/** Nothing else of it is kept, whatever a server sent. */
export const parseGuestSecret = ({ metadata }: KubernetesObject): KubernetesObject => {
  const { name, namespace = '', uid, resourceVersion, creationTimestamp } = metadata;
  return { metadata: { name, namespace, uid, resourceVersion, creationTimestamp } };
};

export const siteFinalizer = 'nkudo.dev/site-cleanup';
export const hostFinalizer = 'nkudo.dev/host-cleanup';
export const microvmFinalizer = 'nkudo.dev/microvm-teardown';
export const tokenFinalizer = 'nkudo.dev/token-revocation';
export const apiKeyFinalizer = 'nkudo.dev/key-revocation';
export const microvmSetFinalizer = 'nkudo.dev/set-cleanup';
export const agentRolloutFinalizer = 'nkudo.dev/rollout-cleanup';

/** Its value is the number of the order at the site that holds no longer, as the condition SiteOverride tells it. */
export const overrideHoldAnnotation = 'nkudo.dev/override-hold';

/** Null: none, or one that is no number. */
export function overruledNumber({ metadata }: KubernetesObject): number | null {
  const number = Number(metadata.annotations?.[overrideHoldAnnotation] ?? Number.NaN);
  return Number.isSafeInteger(number) && number > 0 ? number : null;
}

/** Its value is the UID of the object that may go without its host's confirmation. */
export const forceDeleteAnnotation = 'nkudo.dev/force-delete';

/** Its value is the id of the claim to a quarantined identity that is to be let in again. */
export const acceptClaimAnnotation = 'nkudo.dev/accept-claim';
/** Its value is the identity (`status.hostID`) that is to be withdrawn; a later one of the same Host is not meant by it. */
export const revokeAnnotation = 'nkudo.dev/revoke';

/** True when a person asked to give this very object up. */
export function isForced(object: KubernetesObject): boolean {
  return object.metadata.annotations?.[forceDeleteAnnotation] === object.metadata.uid;
}
