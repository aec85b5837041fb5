/**
 * Whether a maintenance window of a Site is open, and when the next one opens. Windows begin at a local time of the
 * Site; luxon knows its daylight-saving rules. A start that a change of the clock leaves out is as many minutes after
 * the change as it would have been after the hour before; one that comes twice is the first. A duration is elapsed time.
 *
 * Invariant: pure; an unknown time zone has no window, so that nothing is disturbed by a typing error.
 */
import { DateTime, IANAZone } from 'luxon';
import type { SiteMaintenanceWindow } from '#crds/gen/site.ts';
import { parseDurationMs } from '#crds/scalar-values.ts';

export type WindowState =
  | { readonly kind: 'open'; readonly name: string; readonly closesAtMs: number }
  /** `next` null: there is none, or the time zone is not known. */
  | { readonly kind: 'closed'; readonly next: { readonly name: string; readonly opensAtMs: number } | null };

export const defaultTimeZone = 'UTC';

/** By the number that ISO 8601 gives them, Monday first. */
const weekdays = ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'] as const;
/** A window of yesterday may still be open; the next one of a weekly window is at most a week and a day away. */
const daysAround = { before: 2, after: 8 } as const;

export function isTimeZoneKnown(timeZone: string): boolean {
  return IANAZone.isValidZone(timeZone);
}

export function decideWindow(windows: readonly SiteMaintenanceWindow[], timeZone: string, nowMs: number): WindowState {
  if (!isTimeZoneKnown(timeZone)) return { kind: 'closed', next: null };
  const spans = windows.flatMap((window) => spansOf(window, timeZone, nowMs)).toSorted((left, right) => left.opensAtMs - right.opensAtMs || (left.name < right.name ? -1 : 1));
  const open = spans.filter(({ opensAtMs, closesAtMs }) => opensAtMs <= nowMs && nowMs < closesAtMs).toSorted((left, right) => right.closesAtMs - left.closesAtMs)[0];
  if (open !== undefined) return { kind: 'open', name: open.name, closesAtMs: open.closesAtMs };
  const next = spans.find(({ opensAtMs }) => opensAtMs > nowMs);
  return { kind: 'closed', next: next === undefined ? null : { name: next.name, opensAtMs: next.opensAtMs } };
}

interface Span {
  readonly name: string;
  readonly opensAtMs: number;
  readonly closesAtMs: number;
}

function spansOf({ name, days, start, duration }: SiteMaintenanceWindow, zone: string, nowMs: number): readonly Span[] {
  const durationMs = parseDurationMs(duration) ?? 0;
  const [hour = 0, minute = 0] = start.split(':').map(Number);
  const today = DateTime.fromMillis(nowMs, { zone });
  const spans: Span[] = [];
  for (let offset = -daysAround.before; offset <= daysAround.after; offset += 1) {
    const { year, month, day, weekday } = today.plus({ days: offset });
    const dayName = weekdays[weekday - 1];
    if (days !== undefined && days.length > 0 && (dayName === undefined || !days.includes(dayName))) continue;
    const opensAtMs = earliest(DateTime.fromObject({ year, month, day, hour, minute }, { zone }));
    spans.push({ name, opensAtMs, closesAtMs: opensAtMs + durationMs });
  }
  return spans;
}

/** Of the two moments that one local time can be. */
function earliest(time: DateTime): number {
  return Math.min(...time.getPossibleOffsets().map((moment) => moment.toMillis()));
}
