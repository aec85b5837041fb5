/** When a running microVM is restarted so that a change takes effect which it can not take over while it runs. Pure. */
import type { SiteSpec } from '#crds/gen/site.ts';
import { decideWindow, defaultTimeZone } from './windows.ts';

export type UpdateStrategy = 'OnRestart' | 'Recreate' | 'Window';

export type UpdateDecision =
  /** Somebody restarts it in his own time. */
  | { readonly action: 'leave' }
  | { readonly action: 'restart' }
  | { readonly action: 'hold'; readonly reason: 'SiteHold' }
  /** `untilMs` null: no window is to come. */
  | { readonly action: 'hold'; readonly reason: 'OutsideWindow'; readonly windowName: string | null; readonly untilMs: number | null };

export function decideUpdate(strategy: UpdateStrategy, site: Pick<SiteSpec, 'hold' | 'timeZone' | 'maintenanceWindows'> | null, nowMs: number): UpdateDecision {
  if (strategy === 'OnRestart') return { action: 'leave' };
  if (site?.hold === true) return { action: 'hold', reason: 'SiteHold' };
  if (strategy === 'Recreate') return { action: 'restart' };
  const window = decideWindow(site?.maintenanceWindows ?? [], site?.timeZone ?? defaultTimeZone, nowMs);
  if (window.kind === 'open') return { action: 'restart' };
  return { action: 'hold', reason: 'OutsideWindow', windowName: window.next?.name ?? null, untilMs: window.next?.opensAtMs ?? null };
}
