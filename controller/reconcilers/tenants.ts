/**
 * Which tenant a namespace is: the UID of the Namespace. A namespace that was deleted and made again under
 * its name is another tenant, so an answer is remembered only together with the UID of a Site in it.
 */
import { tenantId, type TenantId } from '#api/model/ids.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { KubernetesApi } from '#controller/runtime/kubernetes-api.ts';
import { namespaceResource } from './kinds.ts';

/** Above the sites of a large installation; the oldest answers are asked again. */
const rememberedMax = 50_000;

export interface Tenants {
  /**
   * `siteUid`: of a live Site in the namespace, null when there is none.
   * @throws NOT_FOUND when the namespace is gone
   */
  of(namespace: string, siteUid: string | null): Promise<TenantId>;
}

export function createTenants(kube: KubernetesApi): Tenants {
  const remembered = new Map<string, TenantId>();
  return {
    of: async (namespace, siteUid) => {
      const key = `${namespace}/${siteUid ?? ''}`;
      const known = siteUid === null ? undefined : remembered.get(key);
      if (known !== undefined) return known;
      const object = await kube.get(namespaceResource, { namespace: '', name: namespace });
      if (object === null) throw new AppError('NOT_FOUND', `there is no namespace ${namespace}`);
      const tenant = tenantId(object.metadata.uid);
      if (siteUid !== null) {
        const oldest = remembered.size >= rememberedMax ? remembered.keys().next().value : undefined;
        if (oldest !== undefined) remembered.delete(oldest);
        remembered.set(key, tenant);
      }
      return tenant;
    },
  };
}
