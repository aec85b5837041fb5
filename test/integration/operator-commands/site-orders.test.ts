/**
 * [E10] Orders of a person at the site, typed in a real terminal, without any control plane, on the simulator: what they
 * do, what is refused and why, and that they outlive the agent and a power cut.
 */
import { existsSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import { createAgentFixture, newMicroVM, type AgentFixture } from '../edge-agent/agent-fixture.ts';
import { openTerminal, type Terminal } from './terminal.ts';

let fixture: AgentFixture;
const terminals: Terminal[] = [];

beforeEach(async () => {
  fixture = await createAgentFixture();
});

afterEach(async () => {
  for (const { close } of terminals.splice(0)) close();
  await fixture.close();
});

function type(...words: string[]): Promise<{ readonly code: number | null; readonly text: string }> {
  const terminal = openTerminal(fixture.stateDirectory, words, { SUDO_USER: 'alice', SUDO_UID: '1001' });
  terminals.push(terminal);
  return terminal.ended;
}

function seed(change: Partial<DesiredMicroVM> = {}): MicroVMId {
  const id = newMicroVM();
  fixture.seed(id, fixture.desired(change));
  return id;
}

const runs = (id: MicroVMId): boolean => fixture.record(id).run.phase === 'started' && fixture.vmmPids(id).length === 1;
const isDown = (id: MicroVMId): boolean => fixture.vmmPids(id).length === 0 && !fixture.isDirectoryInUse(id);

test('[E10] stop, start, restart, hold and release in a terminal, each with who did it', async () => {
  const id = seed();
  await fixture.start();
  await fixture.until('the guest to run', () => runs(id));
  expect(await type('vm', 'start', 'guest')).toMatchObject({ code: 0, text: expect.stringContaining('shop/guest: it runs') });

  expect(await type('vm', 'stop', 'guest')).toMatchObject({ code: 0, text: expect.stringMatching(/it is stopped until it is started here.*\nshop\/guest: stopped/) });
  expect(isDown(id)).toBe(true);
  const [list, shown, again] = await Promise.all([type('vm', 'ls'), type('vm', 'show', 'guest'), type('vm', 'stop', 'guest')]);
  expect(list.text).toMatch(/shop +guest +stopped \(stopped here\) +Always/);
  expect(shown.text).toMatch(/ordered here +Stopped, by alice \(uid 1001\) since 20/);
  expect(again).toMatchObject({ code: 0, text: expect.stringContaining('stopped at the site by alice (uid 1001)') });
  expect(fixture.record(id).site?.untold).toHaveLength(1);

  expect(await type('vm', 'start', 'guest')).toMatchObject({ code: 0, text: expect.stringContaining('shop/guest: running') });
  const [before] = fixture.vmmPids(id);
  expect(await type('vm', 'restart', 'guest')).toMatchObject({ code: 0, text: expect.stringMatching(/stopped and started again\nshop\/guest: running/) });
  expect(fixture.vmmPids(id)).toHaveLength(1);
  expect(fixture.vmmPids(id)[0]).not.toBe(before);

  expect(await type('vm', 'hold', 'guest')).toMatchObject({ code: 0, text: expect.stringContaining('stays down until it is released here') });
  expect(isDown(id)).toBe(true);
  for (const refused of await Promise.all(['start', 'restart'].map((order) => type('vm', order, 'guest')))) {
    expect(refused).toMatchObject({ code: 1, text: expect.stringMatching(/HELD_AT_SITE: held at the site by alice[^]*nkudo-edge vm release guest/) });
  }
  expect(await type('vm', 'release', 'guest')).toMatchObject({ code: 0, text: expect.stringContaining('shop/guest: running') });
  expect(await type('vm', 'release', 'guest')).toMatchObject({ code: 0, text: expect.stringContaining('it goes by its spec') });
  expect(fixture.record(id).site?.untold.map(({ kind }) => kind)).toEqual(['Stop', 'Start', 'Restart', 'Hold', 'Release']);
  const numbers = fixture.record(id).site?.untold.map(({ number }) => number) ?? [];
  expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
  expect(new Set(numbers).size).toBe(5);
});

test('[E4] a stop and a hold at the site outlive kill -9 of the agent and a power cut; others start again', async () => {
  const names = ['stopped', 'held', 'other'] as const;
  const [stopped, held, other] = [seed({ name: names[0] }), seed({ name: names[1] }), seed({ name: names[2] })];
  const agent = await fixture.start();
  for (const id of [stopped, held, other]) await fixture.until('the guests to run', () => runs(id));
  expect((await Promise.all([type('vm', 'stop', 'stopped'), type('vm', 'hold', 'held')])).map(({ code }) => code)).toEqual([0, 0]);
  await agent.kill('SIGKILL');
  const [pid] = fixture.vmmPids(other);
  const second = await fixture.start();
  await fixture.until('the look at all of them', () => (second.log().match(/"msg":"converged"/g) ?? []).length === 3);
  expect([isDown(stopped), isDown(held), fixture.vmmPids(other)]).toEqual([true, true, [pid]]);

  // Power: everything dies, and the next boot finds what was durable.
  await second.kill('SIGKILL');
  for (const vmm of fixture.vmmPids(other)) process.kill(vmm, 'SIGKILL');
  await fixture.until('the VMMs to be gone', () => isDown(other));
  const third = await fixture.start();
  await fixture.until('the other one to run again', () => runs(other));
  await fixture.until('the look at all of them', () => (third.log().match(/"msg":"converged"/g) ?? []).length === 3);
  expect([isDown(stopped), isDown(held)]).toEqual([true, true]);
  expect((await Promise.all([type('vm', 'start', 'stopped'), type('vm', 'release', 'held')])).map(({ code }) => code)).toEqual([0, 0]);
  expect([runs(stopped), runs(held)]).toEqual([true, true]);
});

test('[E10] a start is one explicit start of a microVM that is run by hand, and a stop ends it', async () => {
  const id = seed({ runPolicy: 'Manual' });
  await fixture.start();
  expect(await type('vm', 'start', 'guest')).toMatchObject({ code: 0, text: expect.stringContaining('shop/guest: running') });
  expect((await type('vm', 'stop', 'guest')).code).toBe(0);
  expect(isDown(id)).toBe(true);
  expect(await type('vm', 'release', 'guest')).toMatchObject({ code: 0, text: expect.stringContaining('shop/guest: stopped') });
  expect(isDown(id)).toBe(true);
});

test('[E10] what is Halted is started only against its spec, which is kept as a forced start', async () => {
  const id = seed({ runPolicy: 'Halted' });
  await fixture.start();
  const refused = await type('vm', 'start', 'guest');
  expect(refused).toMatchObject({ code: 1, text: expect.stringMatching(/CONFLICT: its spec says that it must not run \(runPolicy: Halted\)[^]*--against-spec/) });
  expect(fixture.record(id).site).toBeUndefined();
  expect(await type('vm', 'start', 'guest', '--against-spec')).toMatchObject({ code: 0, text: expect.stringContaining('shop/guest: running') });
  expect(fixture.record(id).site?.override).toMatchObject({ kind: 'ForcedStart', isAgainstSpec: true, by: { user: 'alice', uid: 1001 } });
  expect((await type('vm', 'ls')).text).toMatch(/running \(forced here\)/);
  expect((await type('vm', 'release', 'guest')).code).toBe(0);
  expect(isDown(id)).toBe(true);
});

test('[E10] what may be replaced elsewhere is not started without a lease, unless two copies are accepted', async () => {
  const id = seed({ lease: { stopOnHostAfterMs: 60_000 } });
  await fixture.start();
  const refused = await type('vm', 'start', 'guest');
  expect(refused).toMatchObject({ code: 1, text: expect.stringMatching(/WAITING_FOR_LEASE: it may be replaced on another host[^]*--i-accept-two-copies/) });
  expect(isDown(id)).toBe(true);
  const forced = await type('vm', 'start', 'guest', '--i-accept-two-copies');
  expect(forced).toMatchObject({ code: 0, text: expect.stringMatching(/without a lease until one is confirmed\nshop\/guest: running/) });
  expect(fixture.record(id).site).toMatchObject({ override: { kind: 'ForcedStart', acceptsTwoCopies: true }, untold: [{ kind: 'Start', acceptsTwoCopies: true }] });
  // The guard must not end what somebody let run.
  expect(existsSync(join(fixture.directory(id), 'vmm.watch'))).toBe(false);
});

test('[E10] without a running agent an order says so and how to start it; a left socket is no agent', async () => {
  seed();
  expect(await type('vm', 'stop', 'guest')).toMatchObject({ code: 3, text: expect.stringContaining('AGENT_NOT_RUNNING') });
});

test('[E10] the control socket is for the user of the agent only, and goes with it', async () => {
  seed();
  const agent = await fixture.start();
  const socket = join(fixture.stateDirectory, 'control.sock');
  expect(statSync(socket).mode & 0o777).toBe(0o600);
  await agent.kill('SIGTERM');
  expect(existsSync(socket)).toBe(false);
  rmSync(socket, { force: true });
});

test('[E10] a wrong command, option or value is answered with the nearest valid one and exit code 2', async () => {
  const wrong = await Promise.all([type('vm', 'strat', 'guest'), type('statsu'), type('vm', 'stop', 'guest', '--wiat', '1'), type('vm', 'stop', 'guest', '--wait', 'long'), type('vm', 'ls', '--output', 'xml'), type('vm', 'stop')]);
  expect(wrong.map(({ code }) => code)).toEqual([2, 2, 2, 2, 2, 2]);
  expect(wrong[0]?.text).toContain('Did you mean start?');
  expect(wrong[1]?.text).toContain('Did you mean status?');
  expect(wrong[2]?.text).toContain('Did you mean --wait?');
  expect(wrong[3]?.text).toContain('It must be a whole number');
  expect(wrong[4]?.text).toContain('Allowed choices are table, json');
  expect(wrong[5]?.text).toContain("missing required argument 'name'");
});
