/**
 * [E10] `nkudo-edge vm console` in a real terminal, without any control plane: what is typed and printed, who may, every
 * way out, and that the terminal is afterwards as it was. On the simulator, and where it can be on a real Cloud Hypervisor.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { findOnPath, realObstacle } from '#hack/demo/hypervisor.ts';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from '../edge-agent/agent-fixture.ts';
import { openWatchedTerminal, type Terminal } from './terminal.ts';

const ctrl = (key: string): string => String.fromCharCode(key.charCodeAt(0) & 0x1f);
const alice = { SUDO_USER: 'alice', SUDO_UID: '1001' };
const bob = { SUDO_USER: 'bob', SUDO_UID: '1002' };

let fixture: AgentFixture;
const terminals: Terminal[] = [];

afterEach(async () => {
  for (const { close } of terminals.splice(0)) close();
  await fixture.close();
});

function terminal(words: readonly string[], who: Readonly<Record<string, string>> = alice): Terminal {
  const opened = openWatchedTerminal(fixture.stateDirectory, words, who);
  terminals.push(opened);
  return opened;
}

/** A guest that sends back what it gets. */
async function runEcho(real?: { readonly hypervisor: string; readonly guest: string }, change: Partial<DesiredMicroVM> = {}): Promise<{ readonly id: MicroVMId; readonly agent: RunningAgent }> {
  fixture = await createAgentFixture(real);
  const id = newMicroVM();
  fixture.seed(id, fixture.desired({ serialInteractive: true, boot: { kind: 'kernel', path: fixture.guestPath, cmdline: 'echo' }, ...change }));
  const agent = await fixture.start();
  const log = join(fixture.directory(id), 'run', 'serial.log');
  await fixture.until('the guest to listen', () => existsSync(log) && readFileSync(log, 'latin1').includes('NKUDO-IDLE'));
  return { id, agent };
}

let visits = 0;

/** In it, when what is typed comes back; each types something else, since the lines of earlier visits are shown at first. */
async function enter(words: readonly string[] = [], who = alice, proof = `knock ${(visits += 1)}.`): Promise<Terminal> {
  const opened = terminal(['vm', 'console', 'guest', ...words], who);
  await opened.shows('connected to the console of shop/guest');
  opened.type(proof);
  await opened.shows(proof);
  return opened;
}

async function pidIn(opened: Terminal): Promise<number> {
  await opened.shows('pid=');
  return Number(/pid=(\d+)\./.exec(opened.screen())?.[1]);
}

/** Also that the terminal is as it was. */
async function leftWith(opened: Terminal, code: number): Promise<string> {
  const { code: seen, text } = await opened.ended;
  const modes = text.match(/^(?:[0-9a-f]+:){5,}[0-9a-f]+$/gm) ?? [];
  expect(modes, text).toHaveLength(2);
  expect(modes[1]).toBe(modes[0]);
  expect(seen, text).toBe(code);
  return text;
}

const obstacle = realObstacle();
if (obstacle !== null) process.stdout.write(`skipped: the console of a real cloud-hypervisor: ${obstacle}\n`);
const targets = [['the simulator', false], ['a real cloud-hypervisor', true]] as const;

describe.each(targets)('on %s', (_name, isReal) => {
  const start = async () => runEcho(isReal ? { hypervisor: findOnPath('cloud-hypervisor') ?? '', guest: (await buildGuest()).guest64 } : undefined);

  test.skipIf(isReal && obstacle !== null)('[E10] vm console shows the newest lines and what follows, passes every key on, and Ctrl-] gives the terminal back', async () => {
    const { id } = await start();
    const pids = fixture.vmmPids(id);
    const opened = await enter([], alice, 'who is there');
    expect(opened.screen()).toContain('leave with Ctrl-]; the guest goes on');
    expect(opened.screen()).toMatch(/NKUDO-GUEST-READY[^]*NKUDO-IDLE[^]*who is there/);
    // Signals and lines of a terminal are the guest's as well.
    opened.type(`${ctrl('C')}${ctrl('Z')}${ctrl('D')}${ctrl('S')}x\r`);
    await opened.shows(`${ctrl('C')}${ctrl('Z')}${ctrl('D')}${ctrl('S')}x\r`);
    opened.type(`bye${ctrl(']')}`);
    const text = await leftWith(opened, 0);
    expect(text).toContain('left the console of shop/guest; it goes on');
    // The guest's own echo and no other.
    expect(text.match(/who is there/g)).toHaveLength(1);
    expect(fixture.vmmPids(id)).toEqual(pids);
    expect(fixture.record(id).site).toMatchObject({ starts: 0, untold: [{ kind: 'OpenConsole', by: { user: 'alice', uid: 1001 } }] });

    const again = await enter(['--history', '1', '--escape', '^A'], bob, 'once more');
    expect(again.screen()).not.toContain('NKUDO-GUEST-READY');
    again.type(`${ctrl(']')}${ctrl('A')}`);
    await leftWith(again, 0);
  });

  test.skipIf(isReal && obstacle !== null)('[E10] one types, others watch; the next one is refused, or takes over, and all of them are told of upward', async () => {
    const { id } = await start();
    const first = await enter();
    const refused = await leftWith(terminal(['vm', 'console', 'guest'], bob), 1);
    expect(refused).toMatch(/CONSOLE_IN_USE: alice \(uid 1001\) types at this console[^]*--read-only[^]*--take-over/);
    const watching = terminal(['vm', 'console', 'guest', '--read-only'], bob);
    await watching.shows('read only, leave with Ctrl-] or Ctrl-C');
    watching.type('not for the guest');
    first.type('seen by both');
    await watching.shows('seen by both');
    const second = await enter(['--take-over'], bob, 'my turn');
    expect(await leftWith(first, 1)).toContain('CONSOLE_IN_USE: bob (uid 1002) took this console over');
    await watching.shows('my turn');
    expect(watching.screen()).not.toContain('not for the guest');
    watching.type(ctrl('C'));
    second.type(ctrl(']'));
    await Promise.all([leftWith(watching, 0), leftWith(second, 0)]);
    expect(fixture.record(id).site?.untold.map(({ kind, by }) => `${kind} ${by.user}`)).toEqual(['OpenConsole alice', 'ReadConsole bob', 'TakeConsole bob']);
  });
});

test('[E10] whichever way it ends, the terminal is as it was: signals, an agent that ends or is killed, a microVM that is stopped', async () => {
  const { id, agent } = await runEcho();
  for (const [signal, code] of [['SIGTERM', 143], ['SIGHUP', 129], ['SIGINT', 130], ['SIGQUIT', 131]] as const) {
    const opened = await enter();
    process.kill(await pidIn(opened), signal);
    expect(await leftWith(opened, code)).toContain(`left the console of shop/guest: ${signal}`);
  }
  const asked = await enter();
  await agent.kill('SIGTERM');
  expect(await leftWith(asked, 3)).toContain('AGENT_NOT_RUNNING: the agent ended; the microVM goes on');
  const second = await fixture.start();
  const cut = await enter();
  await second.kill('SIGKILL');
  expect(await leftWith(cut, 3)).toContain('AGENT_NOT_RUNNING: the agent ended; the microVM goes on');
  await fixture.start();
  const last = await enter();
  expect((await fixture.run('vm', 'stop', 'guest', '--state-dir', fixture.stateDirectory)).code).toBe(0);
  expect(await leftWith(last, 0)).toContain('the console of shop/guest has ended: the microVM was stopped, or started anew');
  expect(fixture.record(id).site?.override).toMatchObject({ kind: 'Stopped' });
});

test('[E10] a terminal that is taken away leaves nobody at the console, and what a guest did to the screen is undone', async () => {
  await runEcho();
  const lost = await enter();
  const pid = await pidIn(lost);
  lost.close();
  await fixture.until('the command to end', () => !existsSync(`/proc/${pid}`));
  // Nobody types there any more.
  const opened = await enter([], bob, 'free again');
  opened.type('\u001b[?1049h\u001b[?25l\u001b[31m.done');
  await opened.shows('.done');
  opened.type(ctrl(']'));
  const { raw } = await opened.ended;
  expect(raw).toContain('\u001b[0m\u001b(B\u000f\u001b[?1049l\u001b[?25h');
});

test('[E10] a console that can not be had says why and what to do', async () => {
  const { agent } = await runEcho(undefined, { name: 'guest' });
  const [piped, unknown, wrongKey, wrongLines, both] = await Promise.all([
    fixture.run('vm', 'console', 'guest', '--state-dir', fixture.stateDirectory),
    terminal(['vm', 'console', 'gest']).ended,
    terminal(['vm', 'console', 'guest', '--escape', '^C']).ended,
    terminal(['vm', 'console', 'guest', '--history', 'all']).ended,
    terminal(['vm', 'console', 'guest', '--read-only', '--take-over']).ended,
  ]);
  expect(piped).toMatchObject({ code: 2, err: expect.stringMatching(/a console needs a terminal[^]*ssh -t[^]*vm logs guest --follow/) });
  expect(unknown).toMatchObject({ code: 1, text: expect.stringContaining('did you mean guest?') });
  expect(wrongKey).toMatchObject({ code: 2, text: expect.stringContaining('which people type') });
  expect(wrongLines).toMatchObject({ code: 2, text: expect.stringContaining('It must be a whole number from 0 to 1000') });
  expect(both).toMatchObject({ code: 2, text: expect.stringContaining("'--read-only' cannot be used with option '--take-over'") });

  expect((await fixture.run('vm', 'stop', 'guest', '--state-dir', fixture.stateDirectory)).code).toBe(0);
  expect(await leftWith(terminal(['vm', 'console', 'guest']), 1)).toMatch(/CONSOLE_UNAVAILABLE: it does not run \(stopped\)[^]*nkudo-edge vm start guest/);
  await agent.kill('SIGTERM');
  const logged = newMicroVM();
  fixture.seed(logged, fixture.desired({ name: 'logged' }));
  expect(await leftWith(terminal(['vm', 'console', 'logged']), 3)).toContain('AGENT_NOT_RUNNING');
  await fixture.start();
  await fixture.until('the guest to run', () => fixture.record(logged).run.phase === 'started' && fixture.vmmPids(logged).length === 1);
  expect(await leftWith(terminal(['vm', 'console', 'logged']), 1)).toMatch(/CONSOLE_UNAVAILABLE: its console takes no input \(console\.serial: Log\)[^]*vm logs logged --follow/);
});
