/**
 * Since when this process knows that a host follows the terms of a microVM. A microVM that ran already when it became
 * replaceable has until its first lease what its terms give from the moment its host took them over, and nobody else
 * knows that moment: whoever decides counts from when he first saw it confirmed.
 */
import type { MicroVMId } from '#api/model/ids.ts';

export interface TermsMemory {
  /**
   * Milliseconds since these terms were first seen, and seen confirmed by the host if they are now. Other terms, another
   * binding, and the first confirmation begin anew; a newer intent of the same terms that is on its way does not.
   */
  knownForMs(microvmId: MicroVMId, terms: { readonly epoch: number; readonly stopOnHostAfterMs: number; readonly isConfirmed: boolean }): number;
  forget(microvmId: MicroVMId): void;
}

export function createTermsMemory(monotonicMs: () => number): TermsMemory {
  const seen = new Map<MicroVMId, { readonly key: string; readonly isConfirmed: boolean; readonly sinceMs: number }>();
  return {
    knownForMs: (microvmId, { epoch, stopOnHostAfterMs, isConfirmed }) => {
      const key = `${epoch}/${stopOnHostAfterMs}`;
      const known = seen.get(microvmId);
      if (known?.key === key && (known.isConfirmed || !isConfirmed)) return monotonicMs() - known.sinceMs;
      seen.set(microvmId, { key, isConfirmed, sinceMs: monotonicMs() });
      return 0;
    },
    forget: (microvmId) => void seen.delete(microvmId),
  };
}
