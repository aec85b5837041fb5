import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hostId } from '#api/model/ids.ts';
import { breaksMax } from './advance-host.ts';
import { decideRollout } from './decide-rollout.ts';
import type { RolloutDecision, RolloutHost, RolloutRow, RolloutSituation, RolloutSpec } from './model.ts';

const [before, target] = ['0.4.0', '0.5.0'];
const minute = 60_000;
const spec: RolloutSpec = {
  rolloutId: 'rollout', version: target, nonce: 0, soakMs: 10 * minute, deadlineMs: 30 * minute, required: { kind: 'percent', value: 100 }, maxFailures: 0, onFailure: 'RollBackRing', isPaused: false, isRollBackAsked: false,
  rings: [
    { name: 'canary', sites: null, labels: { tier: 'canary' }, maxParallel: { kind: 'number', value: 10 } },
    { name: 'rest', sites: null, labels: {}, maxParallel: { kind: 'percent', value: 50 } },
  ],
};

const hostWith = (name: string, fields: Partial<RolloutHost> = {}): RolloutHost => ({
  hostId: hostId(`00000000-0000-4000-8000-${String(name.charCodeAt(0)).padStart(12, '0')}`), name, siteName: 'shop-1', labels: name < 'c' ? { tier: 'canary' } : {}, ringName: null, skipped: null, heldBack: null, health: 'able', healthProblem: '',
  runningVersion: before, order: null, report: null, isFollowedElsewhere: false, row: null, ...fields,
});
const row = (fields: Partial<RolloutRow> & { ageMs?: number } = {}): RolloutRow & { ageMs: number } => ({
  rolloutId: 'rollout', ring: 'canary', targetVersion: target, nonce: 0, fromVersion: before, order: { version: target, manifestUrl: `https://r/${target}` }, state: 'Ordered', isReturned: false, problem: '', breaks: 0, ageMs: 0, ...fields,
});
const situation = (hosts: readonly RolloutHost[], fields: Partial<RolloutSituation> = {}): RolloutSituation => ({ hosts, isWindowOpen: true, manifestUrlOf: (version) => `https://r/${version}`, ...fields });
const decide = (hosts: readonly RolloutHost[], changes: Partial<RolloutSpec> = {}, fields: Partial<RolloutSituation> = {}): RolloutDecision => decideRollout({ ...spec, ...changes }, situation(hosts, fields));
const told = (decision: RolloutDecision): string[] => decision.writes.map(({ name, state, isReturned, order }) => `${name} ${state}${isReturned ? ' returned' : ''} ${order?.version ?? 'none'}`);
const order = { version: target, manifestUrl: `https://r/${target}`, revision: 7 };
const settled = (name: string): RolloutHost => hostWith(name, { runningVersion: target, row: row({ state: 'Settled' }) });

describe('a rollout', () => {
  it('tells the hosts of its first ring only, with what they go back to', () => {
    const decision = decide([hostWith('a'), hostWith('b'), hostWith('x')]);
    expect(told(decision)).toEqual([`a Ordered ${target}`, `b Ordered ${target}`]);
    expect(decision.writes[0]).toMatchObject({ fromVersion: before, ring: 'canary', order: { manifestUrl: `https://r/${target}` } });
    expect(decision).toMatchObject({ reason: 'RingUnderWay', ring: 'canary', nextLookMs: 30 * minute });
  });

  it('goes on with the next ring when every host soaked, and settles the first', () => {
    const soaked = (name: string, ageMs: number): RolloutHost => hostWith(name, { runningVersion: target, row: row({ state: 'Soaking', ageMs }) });
    const waits = decide([soaked('a', 10 * minute), soaked('b', 9 * minute), hostWith('x')]);
    expect(told(waits)).toEqual([`a Passed ${target}`]);
    expect(waits.nextLookMs).toBe(minute);
    const goesOn = decide([hostWith('a', { runningVersion: target, row: row({ state: 'Passed' }) }), soaked('b', 10 * minute), hostWith('x'), hostWith('y'), hostWith('z')]);
    expect(told(goesOn)).toEqual([`a Settled ${target}`, `b Settled ${target}`, `x Ordered ${target}`, `y Ordered ${target}`]);
    expect(goesOn.rings.map(({ name, phase }) => `${name} ${phase}`)).toEqual(['canary Passed', 'rest Progressing']);
  });

  it('is complete when every ring is, and tells a host that joins later', () => {
    const all = [settled('a'), hostWith('x', { runningVersion: target, row: row({ ring: 'rest', state: 'Settled' }) })];
    expect(decide(all)).toMatchObject({ writes: [], reason: 'AllRingsPassed', ring: null, nextLookMs: null });
    expect(told(decide([...all, hostWith('z')]))).toEqual([`z Ordered ${target}`]);
  });

  it('stops when the version fails in a ring, gives it back there, and never touches the next one', () => {
    const report = { phase: 'RolledBack', runningVersion: before, previousVersion: '', orderRevision: 7, errorCode: 'UPDATE_FAILED', problem: '0.5.0 ended 3 times' } as const;
    const hosts = [hostWith('a', { order, report, row: row({ ageMs: 1 }) }), hostWith('b', { runningVersion: target, order, row: row({ state: 'Soaking', ageMs: 1 }) }), hostWith('x')];
    const decision = decide(hosts);
    expect(told(decision)).toEqual([`a Failed returned ${before}`, `b Soaking returned ${before}`]);
    expect(decision).toMatchObject({ reason: 'Stopped', ring: 'canary', failures: [{ host: 'a', message: '0.5.0 ended 3 times' }], returning: [{ host: 'b' }] });
    expect(decision.rings).toMatchObject([{ phase: 'Failed', failed: 1, returned: 2 }, { phase: 'Pending', waiting: 1 }]);
    expect(told(decide(hosts, { onFailure: 'RollBackFailed' }))).toEqual([`a Failed returned ${before}`]);
  });

  it('gives the rings before back as well, or all that was asked for', () => {
    const failed = hostWith('x', { row: row({ ring: 'rest', ageMs: 30 * minute }) });
    expect(told(decide([settled('a'), failed]))).toEqual([`x Failed returned ${before}`]);
    expect(told(decide([settled('a'), failed], { onFailure: 'RollBackAll' }))).toEqual([`a Settled returned ${before}`, `x Failed returned ${before}`]);
    expect(told(decide([settled('a'), hostWith('x')], { isRollBackAsked: true }))).toEqual([`a Settled returned ${before}`]);
  });

  it('withdraws the order where nobody knows what ran before', () => {
    expect(told(decide([hostWith('a', { row: row({ fromVersion: '', ageMs: 30 * minute }) })]))).toEqual(['a Failed returned none']);
  });

  it('takes a host that is late for failed, and says what it was', () => {
    const silent = hostWith('a', { health: 'unable', healthProblem: 'the host is silent', row: row({ ageMs: 29 * minute }) });
    expect(decide([silent])).toMatchObject({ writes: [], nextLookMs: minute });
    const late = decide([{ ...silent, row: row({ ageMs: 30 * minute }) }]);
    expect(late.failures).toEqual([{ host: 'a', message: 'it was not healthy in time: it runs 0.4.0 and the host is silent' }]);
    expect(decide([hostWith('a', { runningVersion: target, health: 'unable', healthProblem: 'the host is silent', row: row({ ageMs: 30 * minute }) })]).failures[0]?.message).toBe('it was not healthy in time: the host is silent');
  });

  it('begins the soak time anew after each break, and a host that breaks again and again failed', () => {
    const broken = (breaks: number): RolloutDecision => decide([hostWith('a', { runningVersion: target, health: 'unable', healthProblem: 'the host is silent', row: row({ state: 'Soaking', breaks, ageMs: 9 * minute }) })]);
    expect(broken(0).writes).toMatchObject([{ state: 'Ordered', breaks: 1 }]);
    expect(broken(breaksMax).writes).toMatchObject([{ state: 'Failed', isReturned: true }]);
  });

  it('judges no host while it is not known whether it is heard', () => {
    for (const state of ['Ordered', 'Soaking'] as const) expect(decide([hostWith('a', { health: 'undecided', row: row({ state, ageMs: 60 * minute }) })]).writes).toEqual([]);
    expect(decide([hostWith('a', { health: 'undecided' })]).writes).toEqual([]);
  });

  it('takes no report on an earlier order for one on this', () => {
    const refused = { phase: 'Refused', runningVersion: before, previousVersion: '', orderRevision: 6, errorCode: 'RELEASE_OLDER', problem: 'older' } as const;
    expect(decide([hostWith('a', { order, report: refused, row: row({ ageMs: 1 }) })]).writes).toEqual([]);
    expect(decide([hostWith('a', { order: { ...order, version: before }, report: { ...refused, orderRevision: 7 }, row: row({ ageMs: 1 }) })]).writes).toEqual([]);
    expect(decide([hostWith('a', { order, report: { ...refused, orderRevision: 7 }, row: row({ ageMs: 1 }) })]).failures).toEqual([{ host: 'a', message: 'older' }]);
  });

  it('goes on with as many failures as may be, and needs so many healthy ones as are asked for', () => {
    const hosts = [hostWith('a', { row: row({ state: 'Failed', isReturned: true, problem: 'x', order: { version: before, manifestUrl: `https://r/${before}` } }) }), hostWith('b', { runningVersion: target, row: row({ state: 'Passed' }) }), hostWith('x')];
    expect(told(decide(hosts, { maxFailures: 1 }))).toEqual([`b Settled ${target}`, `x Ordered ${target}`]);
    expect(decide(hosts).reason).toBe('Stopped');
    const silent = hostWith('a', { health: 'unable', healthProblem: 'the host is silent' });
    expect(decide([silent, hosts[1] ?? silent, hostWith('x')])).toMatchObject({ writes: [], reason: 'HostsUnavailable', waitsFor: [{ host: 'a', problem: 'the host is silent' }] });
    expect(told(decide([silent, hosts[1] ?? silent, hostWith('x')], { required: { kind: 'percent', value: 50 } }))).toEqual([`b Settled ${target}`, `x Ordered ${target}`]);
  });

  it('gives a host that joined a ring which is over back alone', () => {
    const late = hostWith('b', { row: row({ ageMs: 30 * minute }) });
    const decision = decide([settled('a'), late, hostWith('x')]);
    expect(told(decision)).toEqual([`b Failed returned ${before}`, `x Ordered ${target}`]);
    expect(decision.reason).toBe('RingUnderWay');
  });

  it('tells nobody while it is paused, outside its windows, at a Site on hold, or without a release; what was begun goes on', () => {
    const hosts = [hostWith('a', { runningVersion: target, row: row({ state: 'Soaking', ageMs: 10 * minute }) }), hostWith('b')];
    for (const [reason, changes, fields] of [['Paused', { isPaused: true }, {}], ['OutsideWindow', {}, { isWindowOpen: false }], ['ReleaseUnknown', {}, { manifestUrlOf: () => null }]] as const) {
      const decision = decide(hosts, changes, fields);
      expect(told(decision), reason).toEqual([`a Passed ${target}`]);
      expect(decision.reason).toBe(reason);
    }
    expect(decide([hostWith('a', { heldBack: 'SiteHold' })])).toMatchObject({ writes: [], reason: 'SiteHold' });
    expect(decide([hostWith('a', { heldBack: 'OutsideWindow' })])).toMatchObject({ writes: [], reason: 'OutsideWindow' });
  });

  it('leaves alone who is pinned, and says that a ring is empty', () => {
    const decision = decide([hostWith('a', { skipped: 'Pinned' })]);
    expect(decision).toMatchObject({ writes: [], reason: 'RingEmpty', ring: 'canary' });
    expect(decision.rings[0]).toMatchObject({ hosts: 0, skipped: 1 });
  });

  it('puts a host into the ring that it names, or the first that selects it, and keeps it there', () => {
    const rings = [{ name: 'named', sites: null, labels: null, maxParallel: { kind: 'number', value: 9 } }, { name: 'site', sites: ['shop-2'], labels: null, maxParallel: { kind: 'number', value: 9 } }] as const;
    const hosts = [hostWith('a', { ringName: 'named', siteName: 'shop-2' }), hostWith('b', { siteName: 'shop-2' }), hostWith('c')];
    const decision = decide(hosts, { rings });
    expect(decision.rings.map(({ name, hosts: count }) => `${name} ${count}`)).toEqual(['named 1', 'site 1']);
    const moved = decide([hostWith('b', { ringName: 'named', siteName: 'shop-2', row: row({ ring: 'site' }) })], { rings });
    expect(moved.rings.map(({ hosts: count }) => count)).toEqual([0, 1]);
  });

  it('tells the same version again after another nonce, once the host’s own row has taken in what it was told before', () => {
    const failed = row({ state: 'Failed', isReturned: true, order: { version: before, manifestUrl: `https://r/${before}` } });
    expect(decide([hostWith('a', { order, row: failed })], { nonce: 1 }).writes).toEqual([]);
    expect(told(decide([hostWith('a', { order: { ...order, version: before }, row: failed })], { nonce: 1 }))).toEqual([`a Ordered ${target}`]);
  });

  it('goes back to what was proven, not to what failed', () => {
    const stillBad = hostWith('a', { runningVersion: target, order: { ...order, version: before }, row: row({ state: 'Failed', isReturned: true, order: { version: before, manifestUrl: `https://r/${before}` } }) });
    expect(decide([stillBad], { version: '0.6.0' }).writes).toMatchObject([{ targetVersion: '0.6.0', fromVersion: before }]);
    expect(decide([hostWith('a', { runningVersion: target, order, row: row({ state: 'Settled' }) })], { version: '0.6.0' }).writes).toMatchObject([{ fromVersion: target }]);
  });

  it('waits for a host on which another rollout is under way', () => {
    const taken = hostWith('a', { isFollowedElsewhere: true, order: { ...order, version: '0.4.9' }, row: row({ rolloutId: 'other', targetVersion: '0.4.9', order: { version: '0.4.9', manifestUrl: 'https://r/0.4.9' } }) });
    expect(decide([taken])).toMatchObject({ writes: [], waitsFor: [{ host: 'a', problem: 'another rollout is not done with it' }] });
    // One that is gone or goes on to something else never is.
    expect(told(decide([{ ...taken, isFollowedElsewhere: false }]))).toEqual([`a Ordered ${target}`]);
  });

  it('finishes what it began on a host that a newer rollout selects, and begins nothing there', () => {
    expect(told(decide([hostWith('a', { skipped: 'NewerRollout', runningVersion: target, row: row({ state: 'Soaking', ageMs: 10 * minute }) })]))).toEqual([`a Settled ${target}`]);
    expect(decide([hostWith('a', { skipped: 'NewerRollout' })]).writes).toEqual([]);
  });

  it('goes over to another version at once, also on hosts that it has just told the one before', () => {
    const begun = hostWith('a', { order, row: row({ ageMs: minute }) });
    expect(decide([begun], { version: '0.6.0' }).writes).toMatchObject([{ targetVersion: '0.6.0', fromVersion: before, state: 'Ordered' }]);
    expect(decide([{ ...begun, runningVersion: target }], { version: '0.6.0' }).writes).toMatchObject([{ targetVersion: '0.6.0', fromVersion: before }]);
  });
});

// Any history: hosts come and go, versions work or not, time passes, the controller is killed between any two writes.
const anyHost = fc.record({ isCanary: fc.boolean(), behaviour: fc.constantFrom('good', 'refuses', 'silent', 'goes back'), isHeard: fc.boolean() });
describe('any rollout', () => {
  it('asks for nothing more once its rows are stored, comes to an end, and never tells a later ring after a failure', () => {
    fc.assert(
      fc.property(fc.array(anyHost, { minLength: 1, maxLength: 8 }), fc.integer({ min: 1, max: 3 }), fc.integer({ min: 0, max: 2 }), fc.constantFrom('RollBackRing', 'RollBackAll', 'RollBackFailed'), fc.infiniteStream(fc.boolean()), (plan, parallel, maxFailures, onFailure, crashes) => {
        const tried: RolloutSpec = { ...spec, maxFailures, onFailure, rings: spec.rings.map((ring) => ({ ...ring, maxParallel: { kind: 'number', value: parallel } })) };
        let hosts = plan.map(({ isCanary, isHeard }, index) => hostWith(String.fromCharCode(97 + index), { labels: isCanary ? { tier: 'canary' } : {}, health: isHeard ? 'able' : 'unable', healthProblem: isHeard ? '' : 'the host is silent' }));
        let revision = 0;
        let isStopped = false;
        for (let turn = 0; turn < 200; turn += 1) {
          const decision = decideRollout(tried, situation(hosts));
          const again = decideRollout(tried, situation(hosts.map((host) => stored(host, decision))));
          expect(again.writes).toEqual([]);
          // Those that were told before are still followed.
          const isNew = (name: string): boolean => hosts.find((host) => host.name === name)?.row === null;
          if (isStopped) expect(decision.writes.filter(({ name }) => isNew(name))).toEqual([]);
          isStopped ||= decision.reason === 'Stopped';
          for (const ring of decision.rings.slice(decision.rings.findIndex(({ phase }) => phase !== 'Passed') + 1)) if (decision.ring !== null) expect(ring.updating + ring.soaking).toBe(0);
          for (const ring of decision.rings) expect(ring.updating + ring.soaking).toBeLessThanOrEqual(parallel);
          if (decision.writes.length === 0 && decision.nextLookMs === null) return;
          // A crash loses what was not stored yet: all of it, as it is one transaction.
          const isCrashed = crashes.next().value === true;
          hosts = hosts.map((host, index) => live(isCrashed ? host : stored(host, decision), plan[index]?.behaviour ?? 'good', () => (revision += 1)));
        }
        throw new Error('it came to no end');
      }),
      { numRuns: 300 },
    );
  });
});

function stored(host: RolloutHost, { writes }: RolloutDecision): RolloutHost {
  const write = writes.find(({ name }) => name === host.name);
  if (write === undefined) return host;
  const { hostId: _, name: _name, ...content } = write;
  const isNew = host.row?.state !== content.state || host.row.isReturned !== content.isReturned;
  return { ...host, row: { ...content, ageMs: isNew ? 0 : (host.row?.ageMs ?? 0) } };
}

/** Fifteen minutes of a host. */
function live(host: RolloutHost, behaviour: string, nextRevision: () => number): RolloutHost {
  if (host.row === null) return host;
  const aged = { ...host, row: { ...host.row, ageMs: host.row.ageMs + 15 * minute } };
  const wanted = aged.row.order;
  if (wanted === null) return { ...aged, order: null };
  const isCopied = aged.order?.version === wanted.version;
  const taken = isCopied ? aged : { ...aged, order: { ...wanted, revision: nextRevision() } };
  if (wanted.version !== target) return { ...taken, runningVersion: wanted.version };
  const report = { phase: 'RolledBack', runningVersion: before, previousVersion: '', orderRevision: taken.order?.revision ?? 0, errorCode: 'UPDATE_FAILED', problem: 'it ended' } as const;
  if (behaviour === 'refuses') return { ...taken, report };
  if (behaviour === 'silent') return taken;
  if (behaviour === 'goes back' && taken.row.state === 'Soaking') return { ...taken, runningVersion: before, report };
  return { ...taken, runningVersion: target };
}
