/** Bounds the streams that one tenant holds open on this replica, whichever front door they came through. */
import { AppError } from '#api/model/error-codes.ts';
import type { TenantId } from '#api/model/ids.ts';

/** Each open stream reads the tenant's rows now and then; a dashboard opens a handful. */
export const streamsPerTenantMax = 256;

export interface StreamSlots {
  /** Gives what frees the slot; calling that twice frees it once. @throws TOO_MANY_STREAMS */
  take(tenantId: TenantId): () => void;
}

export function createStreamSlots(max: number = streamsPerTenantMax): StreamSlots {
  const open = new Map<TenantId, number>();
  return {
    take: (tenantId) => {
      const count = open.get(tenantId) ?? 0;
      if (count >= max) throw new AppError('TOO_MANY_STREAMS', `this tenant has ${count} streams open on this replica, which is the most`);
      open.set(tenantId, count + 1);
      let isFree = false;
      return () => {
        if (isFree) return;
        isFree = true;
        const left = (open.get(tenantId) ?? 1) - 1;
        if (left === 0) open.delete(tenantId);
        else open.set(tenantId, left);
      };
    },
  };
}
