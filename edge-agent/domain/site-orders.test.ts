import { describe, expect, test } from 'vitest';
import type { DesiredMicroVM, ObservedState } from '#api/model/microvm.ts';
import { siteOrdersMax, type SiteOverride } from '#api/model/site-orders.ts';
import { testDesired, testNow, testOperation, testRecord } from '#test/builders/edge-microvm.ts';
import { decideAcceptance, decideCancellation } from './acceptance.ts';
import { askEveryMs, leaseTermsOf } from './lease.ts';
import { initialRun, type MicroVMRecord } from './microvm-record.ts';
import { applyNote } from './notes.ts';
import { isRestartAsked, shouldRun } from './restart-policy.ts';
import { consoleRefusal, decideSiteOrder, emptySite, endUnleased, forgetTold, keptDownBy, noteVisit, type SiteDecision, type SiteRequest } from './site-orders.ts';

const by = { user: 'alice', uid: 1001 };
const override = (kind: SiteOverride['kind'], change: Partial<SiteOverride> = {}): SiteOverride => ({ kind, number: 7, by, atMs: 1, ...change });
const recordOf = (desired: Partial<DesiredMicroVM>, standing?: SiteOverride): MicroVMRecord => ({
  ...testRecord({ desired: testDesired(desired), run: { ...initialRun, phase: 'started', incarnation: 1 } }),
  ...(standing === undefined ? {} : { site: { ...emptySite, newest: standing.number, override: standing } }),
});
const noLease = { mayStart: false, mustStop: true, stopsAtBootMs: null, endsAtBootMs: null };
const decide = (record: MicroVMRecord, request: Partial<SiteRequest>, state: ObservedState = 'stopped', lease?: typeof noLease): SiteDecision =>
  decideSiteOrder(record, { kind: 'Start', by, ...request }, { state, lease }, testNow);
const taken = (decision: SiteDecision): MicroVMRecord => {
  if (decision.kind !== 'take') throw new Error(`not taken: ${JSON.stringify(decision)}`);
  return decision.record;
};

describe('an order at the site', () => {
  test.each([
    ['Stop', {}, undefined, 'running', 'take'],
    ['Stop', {}, override('Stopped'), 'stopped', 'already'],
    ['Stop', {}, override('Held'), 'stopped', 'already'],
    ['Stop', { runPolicy: 'Halted' }, undefined, 'stopped', 'already'],
    ['Stop', { runPolicy: 'Halted' }, override('ForcedStart', { isAgainstSpec: true }), 'running', 'take'],
    ['Hold', {}, override('Stopped'), 'stopped', 'take'],
    ['Hold', {}, override('Held'), 'stopped', 'already'],
    ['Release', {}, undefined, 'running', 'already'],
    ['Release', {}, override('Held'), 'stopped', 'take'],
    ['Start', {}, undefined, 'running', 'already'],
    ['Start', {}, undefined, 'preparing', 'already'],
    ['Start', {}, undefined, 'backoff', 'take'],
    ['Start', {}, override('Stopped'), 'stopped', 'take'],
    ['Start', {}, override('Held'), 'stopped', 'HELD_AT_SITE'],
    ['Start', { runPolicy: 'Halted' }, undefined, 'stopped', 'CONFLICT'],
    ['Start', { lease: { stopOnHostAfterMs: 1 } }, undefined, 'stopped', 'WAITING_FOR_LEASE'],
    ['Restart', {}, undefined, 'running', 'take'],
    ['Restart', {}, override('Held'), 'stopped', 'HELD_AT_SITE'],
    ['Restart', { lease: { stopOnHostAfterMs: 1 } }, undefined, 'running', 'WAITING_FOR_LEASE'],
  ] as const)('%s on %j with %j while %s: %s', (kind, desired, standing, state, expected) => {
    const decision = decide(recordOf(desired, standing), { kind }, state, 'lease' in desired ? noLease : undefined);
    expect(decision.kind === 'refuse' ? decision.code : decision.kind).toBe(expected);
  });

  test('of a microVM that is being deleted is refused', () => {
    expect(decide({ ...recordOf({}), isDeleting: true }, { kind: 'Hold' })).toMatchObject({ kind: 'refuse', code: 'CONFLICT' });
  });

  test('goes before the spec, and a release leaves the spec alone', () => {
    const held = taken(decide(recordOf({}), { kind: 'Hold' }, 'running'));
    expect([shouldRun(recordOf({})), shouldRun(held), shouldRun(taken(decide(held, { kind: 'Release' })))]).toEqual([true, false, true]);
    expect(keptDownBy(held)?.kind).toBe('Held');
    expect(keptDownBy(taken(decide(recordOf({ runPolicy: 'Manual' }, undefined), { kind: 'Hold' }, 'running')))?.kind).toBe('Held');
    expect(keptDownBy({ ...held, desired: testDesired({ runPolicy: 'Halted' }) })).toBeUndefined();
  });

  test('a start is honoured by one run, and one that has not begun is over with the next order', () => {
    const idle = { ...recordOf({ runPolicy: 'Manual' }), run: initialRun };
    const asked = taken(decide(idle, { kind: 'Start' }));
    expect([shouldRun(idle), shouldRun(asked)]).toEqual([false, true]);
    const begun = applyNote(asked, { kind: 'runBegun' }, testNow);
    expect(isRestartAsked(begun)).toBe(false);
    expect(begun.run.restarts).toBe(0);
    const stopped = taken(decide(asked, { kind: 'Stop' }));
    expect(shouldRun(taken(decide(stopped, { kind: 'Release' })))).toBe(false);
  });

  test('numbers rise, also over a clock that went back, and the newest are kept until they are told', () => {
    let record = recordOf({});
    for (let count = 0; count < siteOrdersMax + 3; count += 1) record = taken(decideSiteOrder(record, { kind: count % 2 === 0 ? 'Hold' : 'Release', by }, { state: 'stopped', lease: undefined }, { ...testNow, wallMs: testNow.wallMs - count * 1_000 }));
    const numbers = record.site?.untold.map(({ number }) => number) ?? [];
    expect(numbers).toHaveLength(siteOrdersMax);
    expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
    expect(record.site?.lost).toBe(3);
    const newest = record.site?.newest ?? 0;
    expect(forgetTold(record, newest - 1).site).toMatchObject({ untold: [{ number: newest }], lost: 0 });
    expect(forgetTold(record, 1)).toBe(record);
  });
});

describe('a forced start', () => {
  const terms = { stopOnHostAfterMs: 8_000 };

  test('without a lease is under no lease, goes on asking for one, and ends with it', () => {
    const forced = taken(decide(recordOf({ lease: terms }), { acceptsTwoCopies: true }, 'stopped', noLease));
    expect(forced.site?.override).toMatchObject({ kind: 'ForcedStart', acceptsTwoCopies: true });
    expect([leaseTermsOf(forced), askEveryMs([forced])]).toEqual([undefined, 2_000]);
    const under = endUnleased(forced);
    expect(under.site?.override).toBeUndefined();
    expect(leaseTermsOf(under)).toEqual(terms);
  });

  test('is none where the flag was not needed', () => {
    const granted = { mayStart: true, mustStop: false, stopsAtBootMs: 1, endsAtBootMs: 2 };
    const record = taken(decideSiteOrder(recordOf({ lease: terms }), { kind: 'Start', by, acceptsTwoCopies: true, isAgainstSpec: true }, { state: 'stopped', lease: granted }, testNow));
    expect(record.site?.override).toBeUndefined();
  });

  test('against the spec survives a lease that came, and ends when its guest does', () => {
    const forced = taken(decide(recordOf({ lease: terms, runPolicy: 'Halted' }), { acceptsTwoCopies: true, isAgainstSpec: true }, 'stopped', noLease));
    expect(endUnleased(forced).site?.override).toMatchObject({ kind: 'ForcedStart', isAgainstSpec: true });
    const begun = applyNote(forced, { kind: 'runBegun' }, testNow);
    expect(shouldRun(begun)).toBe(true);
    const ended: MicroVMRecord = { ...begun, run: { ...begun.run, phase: 'ended', lastExit: { reason: 'GuestShutdown', atMs: 1 } } };
    expect(shouldRun(ended)).toBe(false);
  });
});

describe('an operation', () => {
  const held = recordOf({}, override('Held'));
  const lifting = (number: number) => testOperation({ id: 'bbbbbbbb-0000-4000-8000-000000000002' as ReturnType<typeof testOperation>['id'], revision: 2, desired: testDesired({ overruledSiteOrder: number }) }); // A literal of the builders' shape.
  const accepted = (number: number): MicroVMRecord => {
    const decision = decideAcceptance(lifting(number), held, null, testNow);
    if (decision.kind !== 'accept') throw new Error('not accepted');
    return decision.record;
  };

  test('lifts the order that it names, and no other', () => {
    expect(accepted(7).site?.override).toBeUndefined();
    expect(accepted(6).site?.override).toEqual(override('Held'));
  });

  test('that is dropped before it began gives the order back', () => {
    const decision = decideCancellation(accepted(7), lifting(7).id);
    expect(decision.kind === 'dropped' ? decision.record.site?.override : null).toEqual(override('Held'));
  });

  test('that makes a microVM anew finds no order of the one that is gone, and the numbers go on', () => {
    const decision = decideAcceptance(testOperation({ revision: 2 }), { ...held, isTombstone: true }, null, testNow);
    expect(decision.kind === 'accept' ? decision.record.site : null).toMatchObject({ newest: 7, starts: 0 });
    expect(decision.kind === 'accept' ? decision.record.site?.override : null).toBeUndefined();
  });
});

describe('a visit at the console', () => {
  test('is told as an order is, and changes nothing of the microVM', () => {
    const held = recordOf({}, override('Held'));
    const visited = noteVisit(held, { kind: 'OpenConsole', by }, testNow);
    expect(visited.site).toMatchObject({ override: { kind: 'Held', number: 7 }, untold: [{ kind: 'OpenConsole', by, atMs: testNow.wallMs }] });
    expect(visited.run).toBe(held.run);
    expect(visited.site?.newest).toBe(visited.site?.untold[0]?.number);
  });

  test('pushes no order out, however often somebody looks', () => {
    let record = taken(decideSiteOrder(recordOf({}), { kind: 'Stop', by }, { state: 'running', lease: undefined }, testNow));
    for (let count = 0; count < siteOrdersMax + 3; count += 1) record = noteVisit(record, { kind: 'ReadConsole', by }, testNow);
    expect(record.site?.untold.map(({ kind }) => kind)).toEqual(['Stop', ...Array.from({ length: siteOrdersMax - 1 }, () => 'ReadConsole')]);
    expect(record.site?.lost).toBe(4);
  });

  test.each([
    [{}, 'stopped', /does not run/, /vm start/],
    [{}, 'booting', /just being started/, /repeat/],
    [{ serialLog: true }, 'running', /takes no input/, /console\.serial: Interactive.*vm logs/],
    [{ serialLog: false }, 'running', /is off/, /console\.serial: Interactive/],
    [{ serialLog: true, serialInteractive: true }, 'running', /before its spec said/, /vm restart/],
  ] as const)('that can not be made says why and what to do: %j, %s', (desired, state, message, remedy) => {
    const refusal = consoleRefusal(recordOf(desired), state, true);
    expect(refusal.message).toMatch(message);
    expect(refusal.remedy).toMatch(remedy);
  });
});
