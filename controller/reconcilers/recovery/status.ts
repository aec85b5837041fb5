/** What Sites and Hosts show of a recovery of the database. There is nothing of it where none ever was. Pure. */
import type { DerivedCondition } from '#controller/runtime/status-patch.ts';
import { confirmAnnotation, describeAwaited } from './hold.ts';

type Shown = readonly { readonly type: string }[] | undefined;

export interface SiteRecovery {
  readonly awaited: readonly string[];
  readonly incarnation: number;
}

export function deriveSiteRecovery({ awaited, incarnation }: SiteRecovery, shown: Shown): readonly DerivedCondition[] {
  if (awaited.length > 0) return [{ type: 'RecoveryUnderWay', status: 'True', reason: 'HostsAwaited', message: describeAwaited(awaited, incarnation) }];
  if (!isShown(shown, 'RecoveryUnderWay')) return [];
  return [{ type: 'RecoveryUnderWay', status: 'False', reason: 'HostsReported', message: 'every host has reported since the database was restored' }];
}

export interface HostRecovery {
  readonly isAwaited: boolean;
  readonly incarnation: number;
}

export function deriveHostRecovery({ isAwaited, incarnation }: HostRecovery, shown: Shown): readonly DerivedCondition[] {
  if (isAwaited) {
    const message = `the database was restored and the host has not reported since; when nothing of before runs there, annotate it with ${confirmAnnotation}=${incarnation}`;
    return [{ type: 'ReportAwaited', status: 'True', reason: 'NotReported', message }];
  }
  if (!isShown(shown, 'ReportAwaited')) return [];
  return [{ type: 'ReportAwaited', status: 'False', reason: 'Reported', message: 'it has reported since the database was restored, or an operator confirmed it' }];
}

function isShown(conditions: Shown, type: string): boolean {
  return conditions?.some((condition) => condition.type === type) ?? false;
}
