/** Facts about the machine, for the control plane and for people. */
import type { HostFacts } from '#api/model/host.ts';

export interface HostFactsSource {
  /** Looks anew; never fails: what can't be found out is empty, 0 or a problem in words. */
  read(signal: AbortSignal): Promise<HostFacts>;
}
