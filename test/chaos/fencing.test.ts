/**
 * Fencing in virtual time: random schedules of cuts, crashes, suspends and clocks that jump, decided by the product's own
 * functions; each schedule from a seed that is printed. And the proof that the verdict can be red: with one thing taken
 * away at a time, it is. The same with processes is in fencing-processes.test.ts, but for what no process of a test can
 * have of its own: the clock of Postgres jumps here only, and a boot clock leaps here only, as it does in a suspend.
 */
import { globSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { simulate, type Defect, type Disturbance, type Verdict } from './fencing/simulate.ts';
import { isFullRun, testSeed } from './seed.ts';

const seed = testSeed();
const schedules = isFullRun ? 500 : 60;
/** Schedules within which a defect has to show; each shows in at least one of a hundred. */
const searchMax = 800;

const defects: readonly { readonly defect: Defect; readonly kinds: readonly Disturbance[] }[] = [
  { defect: 'noGuard', kinds: ['agentKilledBehindCut'] },
  { defect: 'uncommittedGrants', kinds: ['replicaWithoutDatabase', 'cut'] },
  { defect: 'countsTooFast', kinds: ['cut', 'agentKilledBehindCut'] },
  { defect: 'grantsWhileDisplaced', kinds: ['suspend', 'cut'] },
  { defect: 'wallClock', kinds: ['databaseClock', 'cut'] },
  { defect: 'noRecovery', kinds: ['failover', 'agentKilledBehindCut', 'cut'] },
];

function describeVerdict(at: number, { overlaps, log }: Verdict): string {
  return `NKUDO_TEST_SEED=${at}: ${overlaps.join('; ')}\n${log.join('\n')}`;
}

describe('fencing in virtual time', () => {
  it(`[C9] no microVM lives twice in ${schedules} random schedules, all run again afterwards, and with the default nothing moves`, () => {
    const sum = { replacements: 0, grants: 0, vmms: 0 };
    for (let at = seed; at < seed + schedules; at += 1) {
      const verdict = simulate(at);
      expect(verdict.overlaps, describeVerdict(at, verdict)).toEqual([]);
      expect(verdict.isServing, describeVerdict(at, verdict)).toBe(true);
      expect(verdict.plainHosts, describeVerdict(at, verdict)).toBe(1);
      sum.replacements += verdict.replacements;
      sum.grants += verdict.grants;
      sum.vmms += verdict.vmms;
    }
    console.log(`[C9] seed ${seed}: ${schedules} schedules, ${sum.replacements} replacements, ${sum.grants} grants, ${sum.vmms} VMMs, none beside another of its microVM`);
    expect(sum.replacements).toBeGreaterThan(schedules / 5);
  });

  it.each(defects)('[C9] is red with the defect $defect', ({ defect, kinds }) => {
    let tried = 0;
    const found = Array.from({ length: searchMax }, (_, n) => seed + n).find((at) => {
      tried += 1;
      return simulate(at, { defect, kinds }).overlaps.length > 0;
    });
    console.log(`[C9] ${defect}: two VMMs of one microVM in schedule ${tried}, seed ${found}`);
    expect(found).toBeDefined();
  });
});

/** Everything that decides on a lease, gives one, keeps one or ends a VMM for the want of one. */
const leasePath = [
  'controller/domain/leases/*.ts', 'controller/edge-gateway/{beats,lease-grants}.ts', 'controller/reconcilers/replacement/*.ts',
  'edge-agent/domain/lease.ts', 'edge-agent/supervisor/{beats,lease-keeper}.ts', 'edge-agent/adapters/guard/*.ts',
];
/** Readings of a wall clock: of the language, of the ports, of the shell. A moment that is only written as text is none. */
const wallClock = /\bDate\.now\b|\bnew Date\(\s*\)|(?<!new )\bDate\(|\bwallMs\b|\.nowMs\b|\bserverTime|\$\(date\b|\bEPOCHSECONDS\b/;

describe('the wall clock', () => {
  it('[C9] is read by nothing on the path of a lease', () => {
    const root = new URL('../../', import.meta.url).pathname;
    const files = globSync(leasePath, { cwd: root }).filter((file) => !file.endsWith('.test.ts')).toSorted();
    const readings = files.flatMap((file) =>
      readFileSync(`${root}${file}`, 'utf8').split('\n').flatMap((line, at) => (wallClock.test(line) ? [`${file}:${at + 1}: ${line.trim()}`] : [])),
    );
    expect(readings).toEqual([]);
    // Each pattern finds files: one that was moved away is missed here.
    for (const pattern of leasePath) expect(globSync(pattern, { cwd: root }), pattern).not.toEqual([]);
    expect(files.length).toBeGreaterThanOrEqual(15);
  });
});
