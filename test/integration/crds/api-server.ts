/**
 * The API server as these tests use it: objects are offered by dry run, and refusals come back as data.
 * Owns the unlocked copies of the CRDs and the mapping from causes to the messages of rules.
 */
import { isDeepStrictEqual } from 'node:util';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { groups, readCrds, unlocked, type Kind, type Variant } from './crd-source.ts';

export type Spec = Readonly<Record<string, unknown>>;

export interface Offer {
  readonly kind: Kind;
  readonly variant: Variant;
  readonly name?: string;
  readonly spec: unknown;
  /** The object as it exists before: the offer is then an update of it. */
  readonly before?: Spec;
  /** Status of the object as it exists before. */
  readonly statusBefore?: Spec;
}

export interface Cause {
  readonly field: string;
  readonly message: string;
}
/** An empty list means that the API server accepted the offer. */
export type Causes = readonly Cause[];

export interface CrdServer extends TestKubernetes {
  readonly namespace: string;
  /** Offers an object for creation, or for update when `before` is given. Nothing is stored but `before`. */
  offer(offer: Offer): Promise<Causes>;
  /** Offers a status by dry run for an object that is made from `spec`. */
  offerStatus(offer: { readonly kind: Kind; readonly spec: Spec; readonly status: unknown }): Promise<Causes>;
  collection(kind: Kind, variant?: Variant): string;
}

interface Stored {
  readonly metadata: { readonly name: string; readonly resourceVersion: string };
}

const plurals: Readonly<Record<Kind, string>> = {
  Site: 'sites',
  Host: 'hosts',
  MicroVM: 'microvms',
  EnrollmentToken: 'enrollmenttokens',
  APIKey: 'apikeys',
  MicroVMClass: 'microvmclasses',
  MicroVMSet: 'microvmsets',
  AgentRollout: 'agentrollouts',
};

/** The shared API server with a namespace of its own for the calling file. */
export async function useCrdServer(options: { readonly withUnlocked: boolean }): Promise<CrdServer> {
  const kubernetes = await useKubernetes();
  const { client } = kubernetes;
  if (options.withUnlocked) await installUnlocked(kubernetes);
  const namespace = await kubernetes.createNamespace('crds');
  const collection = (kind: Kind, variant: Variant = 'shipped'): string =>
    `/apis/${groups[variant]}/v1alpha1/namespaces/${namespace}/${plurals[kind]}`;
  let made = 0;

  const create = async (kind: Kind, variant: Variant, spec: Spec, status?: Spec): Promise<Stored> => {
    made += 1;
    const body = { apiVersion: `${groups[variant]}/v1alpha1`, kind, metadata: { name: `before-${made}` }, spec };
    const stored = expectStored(await client.request('POST', collection(kind, variant), body));
    if (status === undefined) return stored;
    const path = `${collection(kind, variant)}/${stored.metadata.name}/status`;
    return expectStored(await client.request('PUT', path, { ...body, metadata: stored.metadata, status }));
  };

  return {
    ...kubernetes,
    namespace,
    collection,
    offer: async ({ kind, variant, name = 'offered', spec, before, statusBefore }) => {
      const body = { apiVersion: `${groups[variant]}/v1alpha1`, kind, metadata: { name }, spec };
      if (before === undefined) {
        return causesOf(await client.request('POST', `${collection(kind, variant)}?dryRun=All&fieldValidation=Strict`, body));
      }
      const stored = await create(kind, variant, before, statusBefore);
      const path = `${collection(kind, variant)}/${stored.metadata.name}?dryRun=All&fieldValidation=Strict`;
      return causesOf(await client.request('PUT', path, { ...body, metadata: stored.metadata }));
    },
    offerStatus: async ({ kind, spec, status }) => {
      const stored = await create(kind, 'shipped', spec);
      const path = `${collection(kind)}/${stored.metadata.name}/status?dryRun=All&fieldValidation=Strict`;
      const body = { apiVersion: `${groups.shipped}/v1alpha1`, kind, metadata: stored.metadata, spec, status };
      return causesOf(await client.request('PUT', path, body));
    },
  };
}

async function installUnlocked({ client }: TestKubernetes): Promise<void> {
  for (const crd of readCrds()) {
    const name = `${crd.spec.names.plural}.${groups.unlocked}`;
    const path = `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${name}`;
    await client.apply(path, unlocked(crd));
    const watch = client.watch(path);
    try {
      await watch.waitFor(({ object }) => JSON.stringify(object['status'] ?? {}).includes('"InitialNamesAccepted"'));
    } finally {
      watch.stop();
    }
  }
  for (const plural of Object.values(plurals)) await untilServed({ client }, `/apis/${groups.unlocked}/v1alpha1/${plural}`);
}

const servedAttempts = 600;

/** An established CRD is served a moment later, and the API server has no event for that. */
async function untilServed({ client }: Pick<TestKubernetes, 'client'>, path: string): Promise<void> {
  for (let attempt = 0; attempt < servedAttempts; attempt += 1) {
    const { status } = await client.request('GET', path);
    if (status === 200) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${path} is not served`);
}

function expectStored({ status, body }: { readonly status: number; readonly body: unknown }): Stored {
  if (status !== 200 && status !== 201) throw new Error(`the base object was refused: ${JSON.stringify(body)}`);
  return body as Stored; // The API server answers with the stored object.
}

interface FailureStatus {
  readonly message?: string;
  readonly details?: { readonly causes?: readonly { readonly field?: string; readonly message?: string }[] };
}

function causesOf({ status, body }: { readonly status: number; readonly body: unknown }): Causes {
  if (status === 200 || status === 201) return [];
  const failure = body as FailureStatus; // meta/v1 Status, as for every refusal.
  if (status === 400) return [{ field: '', message: failure.message ?? '' }];
  if (status !== 422) throw new Error(`neither accepted nor invalid: ${status} ${JSON.stringify(body)}`);
  const causes = (failure.details?.causes ?? []).map(({ field = '', message = '' }) => ({ field, message }));
  return causes.filter((cause, index) => causes.findIndex((other) => isDeepStrictEqual(other, cause)) === index);
}
