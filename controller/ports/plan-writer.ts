/** What a plan's action does to its object, as a server-side dry run: everything is checked, nothing is stored. */
import type { TenantId } from '#api/model/ids.ts';
import type { PlanError, RequestedAction } from './plan-store.ts';

export interface PlanTarget {
  readonly tenantId: TenantId;
  readonly namespace: string;
  readonly siteName: string;
  readonly isForced: boolean;
}

export type DryRunOutcome =
  | { readonly outcome: 'wouldWrite' }
  /** The object is as the action wants it. */
  | { readonly outcome: 'wouldChangeNothing' }
  | { readonly outcome: 'refused'; readonly error: PlanError };

export interface PlanDryRun {
  /** @throws UNAVAILABLE, DEADLINE_EXCEEDED when the API server gives no verdict */
  dryRun(target: PlanTarget, action: RequestedAction): Promise<DryRunOutcome>;
}
