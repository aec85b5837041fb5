/**
 * What an order of somebody at the site does to the record of a microVM. Pure. An order is durable before its effect,
 * which the worker then brings about as it does any other intent: an override goes before the spec, and a start or a
 * restart is asked for once, as a change of restartNonce is, so that after a crash it is neither lost nor doubled.
 *
 * Nothing here ends an override by itself but a confirmed lease, which takes the reason of a start without one away.
 */
import type { ErrorCode } from '#api/model/error-codes.ts';
import type { DesiredMicroVM, ObservedState } from '#api/model/microvm.ts';
import { formatSiteOperator, siteOrdersMax, type SiteForce, type SiteOperator, type SiteOrder, type SiteOrderKind, type SiteOverride, type SiteVisitKind, siteVisitKinds } from '#api/model/site-orders.ts';
import type { LeaseView } from './lease.ts';
import type { MicroVMRecord, Now, RunRecord, SiteRecord } from './microvm-record.ts';
import { omit } from './omit.ts';
import { shouldRun } from './restart-policy.ts';

export interface SiteRequest extends SiteForce {
  readonly kind: SiteOrderKind;
  readonly by: SiteOperator;
}

/** What the worker saw last. */
export interface SiteView {
  readonly state: ObservedState;
  /** Undefined for a microVM that needs none. */
  readonly lease: LeaseView | undefined;
}

export type SiteDecision =
  /** To be made durable; then it takes effect. */
  | { readonly kind: 'take'; readonly record: MicroVMRecord; readonly order: SiteOrder; readonly message: string }
  /** It is so already: nothing is written. */
  | { readonly kind: 'already'; readonly message: string }
  | { readonly kind: 'refuse'; readonly code: ErrorCode; readonly message: string; readonly remedy: string };

const upStates: readonly ObservedState[] = ['preparing', 'booting', 'running', 'paused'];

export const emptySite: SiteRecord = { starts: 0, newest: 0, untold: [], lost: 0 };

export function decideSiteOrder(record: MicroVMRecord, request: SiteRequest, view: SiteView, now: Now): SiteDecision {
  const { desired } = record;
  if (record.isDeleting || record.isTombstone || desired === null) {
    return { kind: 'refuse', code: 'CONFLICT', message: 'it is being deleted', remedy: 'nothing: it goes; make it anew where its object is' };
  }
  switch (request.kind) {
    case 'Stop':
      return decideStop(record, desired, request, now);
    case 'Hold':
      return decideHold(record, request, now);
    case 'Release':
      return decideRelease(record, request, now);
    case 'Start':
    case 'Restart':
      return decideStart(record, desired, request, view, now);
  }
}

function decideStop(record: MicroVMRecord, desired: DesiredMicroVM, request: SiteRequest, now: Now): SiteDecision {
  const override = record.site?.override;
  if (override?.kind === 'Held') return { kind: 'already', message: `${describeOverride(override)}, which keeps it down` };
  if (override?.kind === 'Stopped') return { kind: 'already', message: describeOverride(override) };
  if (override === undefined && desired.runPolicy === 'Halted') return { kind: 'already', message: 'its spec says Halted, which keeps it down' };
  return take(record, request, now, 'Stopped', 'it is stopped until it is started here, or its spec asks anew for it to run');
}

function decideHold(record: MicroVMRecord, request: SiteRequest, now: Now): SiteDecision {
  const override = record.site?.override;
  if (override?.kind === 'Held') return { kind: 'already', message: describeOverride(override) };
  return take(record, request, now, 'Held', 'it is stopped and stays down until it is released here');
}

function decideRelease(record: MicroVMRecord, request: SiteRequest, now: Now): SiteDecision {
  if (record.site?.override === undefined) return { kind: 'already', message: 'nothing was ordered for it here: it goes by its spec' };
  return take(record, request, now, undefined, 'it goes by its spec again');
}

function decideStart(record: MicroVMRecord, desired: DesiredMicroVM, request: SiteRequest, { state, lease }: SiteView, now: Now): SiteDecision {
  const override = record.site?.override;
  if (override?.kind === 'Held') {
    return { kind: 'refuse', code: 'HELD_AT_SITE', message: describeOverride(override), remedy: `ask ${override.by.user}, then release it: nkudo-edge vm release ${desired.name}` };
  }
  const isAgainstSpec = override?.isAgainstSpec === true || request.isAgainstSpec === true;
  if (desired.runPolicy === 'Halted' && !isAgainstSpec) {
    return {
      kind: 'refuse',
      code: 'CONFLICT',
      message: 'its spec says that it must not run (runPolicy: Halted)',
      remedy: 'change runPolicy in its spec; or let it run against its spec, which is told to the control plane: --against-spec',
    };
  }
  const isWithoutLease = lease?.mayStart === false;
  const acceptsTwoCopies = override?.acceptsTwoCopies === true || request.acceptsTwoCopies === true;
  if (isWithoutLease && !acceptsTwoCopies) {
    return {
      kind: 'refuse',
      code: 'WAITING_FOR_LEASE',
      message: 'it may be replaced on another host, and this host has no live lease for it: a copy of it may run elsewhere',
      remedy: 'bring the connection to the control plane back, then it starts by itself; or, where two copies do no harm, start it all the same, which is told to the control plane: --i-accept-two-copies',
    };
  }
  const force: SiteForce = {
    ...(desired.runPolicy === 'Halted' ? { isAgainstSpec: true } : {}),
    ...(isWithoutLease ? { acceptsTwoCopies: true } : {}),
  };
  const isForced = Object.keys(force).length > 0;
  const isUp = upStates.includes(state) && record.run.stop === undefined && shouldRun(record);
  if (request.kind === 'Start' && isUp) return { kind: 'already', message: state === 'running' || state === 'paused' ? 'it runs' : 'it is being started' };
  const what = isUp && request.kind === 'Restart' ? 'it is stopped and started again' : 'it is started';
  const until = force.isAgainstSpec === true ? ', and runs against its spec until that changes' : force.acceptsTwoCopies === true ? ', without a lease until one is confirmed' : '';
  return take(record, { ...request, ...force }, now, isForced ? 'ForcedStart' : undefined, `${what}${until}`);
}

/** Somebody is at the console: told as an order is, and without any effect on the microVM. */
export function noteVisit(record: MicroVMRecord, { kind, by }: { readonly kind: SiteVisitKind; readonly by: SiteOperator }, now: Now): MicroVMRecord {
  const site = record.site ?? emptySite;
  const number = nextNumber(site, now);
  return { ...record, site: { ...site, newest: number, ...keepUntold(site, { number, kind, by, atMs: now.wallMs }) } };
}

function nextNumber(site: SiteRecord, now: Now): number {
  return Math.max(site.newest + 1, Math.floor(now.wallMs), 1);
}

/** Who looks at a console many times while the control plane is away pushes no order out. */
function keepUntold(site: SiteRecord, order: SiteOrder): Pick<SiteRecord, 'untold' | 'lost'> {
  const untold = [...site.untold, order];
  if (untold.length <= siteOrdersMax) return { untold, lost: site.lost };
  const oldestVisit = untold.findIndex(({ kind }) => siteVisitKinds.some((visit) => visit === kind));
  return { untold: untold.toSpliced(Math.max(0, oldestVisit), 1), lost: site.lost + 1 };
}

function take(record: MicroVMRecord, request: SiteRequest, now: Now, overrideKind: SiteOverride['kind'] | undefined, message: string): SiteDecision {
  const site = record.site ?? emptySite;
  const { kind, by, acceptsTwoCopies, isAgainstSpec } = request;
  const number = nextNumber(site, now);
  const force: SiteForce =
    kind === 'Start' || kind === 'Restart'
      ? { ...(acceptsTwoCopies === true ? { acceptsTwoCopies } : {}), ...(isAgainstSpec === true ? { isAgainstSpec } : {}) }
      : {};
  const order: SiteOrder = { number, kind, by, atMs: now.wallMs, ...force };
  const isStart = kind === 'Start' || kind === 'Restart';
  const starts = site.starts + (isStart ? 1 : 0);
  return {
    kind: 'take',
    order,
    message,
    record: {
      ...record,
      site: {
        ...(overrideKind === undefined ? {} : { override: { kind: overrideKind, number, by, atMs: now.wallMs, ...force } }),
        starts,
        newest: number,
        ...keepUntold(site, order),
      },
      run: isStart ? omit(record.run, 'restartDue') : withoutAskedStart(omit(record.run, 'restartDue'), starts),
    },
  };
}

/** A start that was asked for and had not begun is over with the next order. */
function withoutAskedStart(run: RunRecord, starts: number): RunRecord {
  return starts === 0 ? run : { ...run, appliedSiteStarts: starts };
}

/** The override that keeps it down although its spec would have it run; undefined: none does. */
export function keptDownBy(record: MicroVMRecord): SiteOverride | undefined {
  const override = record.site?.override;
  if (override === undefined || override.kind === 'ForcedStart') return undefined;
  return shouldRun({ ...record, site: omit(record.site ?? emptySite, 'override') }) ? override : undefined;
}

/** Why an operation that wants it to run ends without that. */
export function keptDownProblem(override: SiteOverride): { readonly code: ErrorCode; readonly message: string } {
  return {
    code: override.kind === 'Held' ? 'HELD_AT_SITE' : 'STOPPED_AT_SITE',
    message: `${describeOverride(override)}: the host has taken the change over, and carries it out when that ends`,
  };
}

/** The newest desired state says that an order holds no longer: the one that it names, and no later one. */
export function liftOverruled(site: SiteRecord | undefined, desired: DesiredMicroVM | null): SiteRecord | undefined {
  if (site?.override === undefined || desired?.overruledSiteOrder !== site.override.number) return site;
  return omit(site, 'override');
}

/** A live lease takes the reason of a start without one away. */
export function endUnleased(record: MicroVMRecord): MicroVMRecord {
  const { site } = record;
  if (site?.override?.acceptsTwoCopies !== true) return record;
  const override = omit(site.override, 'acceptsTwoCopies');
  return { ...record, site: override.isAgainstSpec === true ? { ...site, override } : omit(site, 'override') };
}

/** Forgets orders that the control plane has. */
export function forgetTold(record: MicroVMRecord, upTo: number): MicroVMRecord {
  const { site } = record;
  if (site === undefined || !site.untold.some(({ number }) => number <= upTo)) return record;
  return { ...record, site: { ...site, untold: site.untold.filter(({ number }) => number > upTo), lost: 0 } };
}

export function describeOverride({ kind, by, atMs }: SiteOverride): string {
  const what = { Stopped: 'stopped', Held: 'held', ForcedStart: 'started by force' }[kind];
  return `${what} at the site by ${formatSiteOperator(by)} since ${new Date(atMs).toISOString()}`;
}

/** Why nobody can come to its console. */
export function consoleRefusal({ desired, isDeleting }: MicroVMRecord, state: ObservedState, types: boolean): { readonly message: string; readonly remedy: string } {
  const name = desired?.name ?? 'NAME';
  const logs = `what it prints: nkudo-edge vm logs ${name} --follow`;
  if (state !== 'running' && state !== 'paused') {
    const isComing = state === 'preparing' || state === 'booting';
    return {
      message: isComing ? `it is just being started (${state}), and has no console yet` : `it does not run (${state})`,
      remedy: isComing ? 'repeat the command in a moment' : isDeleting ? 'nothing: it goes' : `start it: nkudo-edge vm start ${name}; what it printed last: nkudo-edge vm logs ${name}`,
    };
  }
  if (desired?.serialInteractive !== true) {
    return {
      message: desired?.serialLog === true ? 'its console takes no input (console.serial: Log)' : 'its console is off (console.serial: Off)',
      remedy: `write console.serial: Interactive in its spec and restart it${desired?.serialLog === true ? `; ${logs}` : ''}`,
    };
  }
  return { message: 'it was started before its spec said console.serial: Interactive, or its console was closed', remedy: `restart it: nkudo-edge vm restart ${name}${types ? '' : `; ${logs}`}` };
}
