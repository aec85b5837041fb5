/** What a person at the site types, in a real terminal (a pty of `script`), without any control plane; on the simulator. */
import { spawn } from 'node:child_process';
import { appendFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { MicroVMId } from '#api/model/ids.ts';
import { openTerminal, type Terminal } from './terminal.ts';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from '../edge-agent/agent-fixture.ts';

let fixture: AgentFixture;
const terminals: (() => void)[] = [];

beforeEach(async () => {
  fixture = await createAgentFixture();
});

afterEach(async () => {
  for (const end of terminals.splice(0)) end();
  await fixture.close();
});

/** `nkudo-edge` with a terminal for its input and output. */
function terminal(args: readonly string[], environment: Readonly<Record<string, string>> = {}): Terminal {
  const opened = openTerminal(fixture.stateDirectory, args, environment);
  terminals.push(opened.close);
  return opened;
}

async function runOne(cmdline = 'idle'): Promise<{ readonly id: MicroVMId; readonly agent: RunningAgent }> {
  const id = newMicroVM();
  fixture.seed(id, fixture.desired({ boot: { kind: 'kernel', path: fixture.guestPath, cmdline } }));
  const agent = await fixture.start();
  await fixture.until('the guest to run', () => fixture.record(id).run.phase === 'started' && fixture.vmmPids(id).length === 1);
  return { id, agent };
}

test('[E10] status, vm ls and vm show in a terminal, with and without a running agent', async () => {
  const { id, agent } = await runOne();
  const pid = String(fixture.vmmPids(id)[0]);
  for (const isRunning of [true, false]) {
    if (!isRunning) await agent.kill('SIGKILL');
    const [status, list, shown] = await Promise.all([terminal(['status']).ended, terminal(['vm', 'ls']).ended, terminal(['vm', 'show', 'shop/guest']).ended]);
    expect(status).toMatchObject({ code: 0, text: expect.stringMatching(new RegExp(`agent +${isRunning ? 'running' : 'not running'}`)) });
    expect(list).toMatchObject({ code: 0, text: expect.stringMatching(new RegExp(`shop +guest +running +Always +${pid} `)) });
    expect(shown).toMatchObject({ code: 0, text: expect.stringMatching(new RegExp(`^pid +${pid}$`, 'm')) });
    expect(shown.text).toContain(id);
  }
  const asJson = await terminal(['vm', 'show', id, '--output', 'json']).ended;
  expect(JSON.parse(asJson.text)).toMatchObject({ microvmId: id, state: 'running', pid: Number(pid) });
});

test('[E10] a name that is nearly right is answered with the right one', async () => {
  await runOne();
  const shown = await terminal(['vm', 'show', 'gest']).ended;
  expect(shown).toMatchObject({ code: 1, text: expect.stringContaining('did you mean guest?') });
});

test('[E10] vm logs follows the console in a terminal until Ctrl-C, without an agent', async () => {
  const { id, agent } = await runOne();
  await agent.kill('SIGKILL');
  const file = join(fixture.directory(id), 'run', 'serial.log');
  appendFileSync(file, 'first line\n');
  const following = terminal(['vm', 'logs', 'guest', '--follow']);
  await following.shows('first line');
  appendFileSync(file, 'second line\n');
  await following.shows('second line');
  following.type('\u0003');
  expect((await following.ended).code).toBe(130);
  expect(await terminal(['vm', 'logs', 'guest']).ended).toMatchObject({ code: 0, text: expect.stringContaining('second line') });
});

test('[E10] check says what lacks and what to do, and ends with 1', async () => {
  const checked = await terminal(['check', '--hypervisor', '/nowhere/cloud-hypervisor']).ended;
  expect(checked.code).toBe(1);
  expect(checked.text).toMatch(/cloud-hypervisor +missing +\/nowhere\/cloud-hypervisor can not be run/);
  expect(checked.text).toContain('cloud-hypervisor: install cloud-hypervisor, or say where it is: --hypervisor');
  expect(checked.text).toContain('this host can not run microVMs yet');
});

test('[E10] config shows where each value came from; a wrong key or value is refused by every command', async () => {
  const file = join(fixture.stateDirectory, '..', 'config.yaml');
  writeFileSync(file, `logLevel: warn\nallowPaths: [/srv/images]\nstateDir: /elsewhere\n`);
  const shown = await terminal(['config', '--config', file, '--netbird', '/opt/netbird']).ended;
  expect(shown.code).toBe(0);
  expect(shown.text).toMatch(new RegExp(`logLevel +warn +file ${file}`));
  expect(shown.text).toMatch(new RegExp(`allowPaths +/srv/images +file ${file}`));
  expect(shown.text).toMatch(new RegExp(`stateDir +${fixture.stateDirectory} +environment NKUDO_EDGE_STATE_DIR`));
  expect(shown.text).toMatch(/netbird +\/opt\/netbird +flag --netbird/);
  expect(shown.text).toMatch(/runtimeDir +\/run\/nkudo-edge +default/);

  writeFileSync(file, 'logLevl: warn\n');
  const commands = [['config'], ['status'], ['check'], ['run'], ['renew'], ['unenroll'], ['guard'], ['support-bundle'], ['vm', 'ls'], ['vm', 'show', 'guest'], ['vm', 'logs', 'guest'], ['vm', 'console', 'guest'], ...['start', 'stop', 'restart', 'hold', 'release'].map((order) => ['vm', order, 'guest']), ['enroll', '--token-file', '/nowhere']];
  const refused = await Promise.all(commands.map((words) => terminal([...words, '--config', file]).ended));
  expect(refused.map(({ code }) => code)).toEqual(commands.map(() => 2));
  for (const { text } of refused) expect(text).toContain('did you mean logLevel?');
  for (const [content, sentence] of [['a: [', 'is no YAML: line 1'], ['logLevel: &a info\nhypervisor: *a\n', 'YAML aliases']] as const) {
    writeFileSync(file, content);
    expect(await terminal(['config', '--config', file]).ended).toMatchObject({ code: 2, text: expect.stringContaining(sentence) });
  }
  expect(await terminal(['config', '--config', `${file}.gone`]).ended).toMatchObject({ code: 2, text: expect.stringContaining('can not be read (ENOENT)') });
});

test('[E10] a support bundle holds no key, token, spec or console output', async () => {
  const canary = 'CANARY5d81c0';
  const { id, agent } = await runOne(`idle db.password=${canary}1 ${canary}2`);
  await agent.kill('SIGKILL');
  // A live VMM writes at its own place in the log, over what is appended here.
  for (const pid of fixture.vmmPids(id)) process.kill(pid, 'SIGKILL');
  await fixture.until('the end of the VMM', () => !fixture.isDirectoryInUse(id));
  mkdirSync(join(fixture.stateDirectory, 'identity'), { mode: 0o700, recursive: true });
  writeFileSync(join(fixture.stateDirectory, 'identity', 'host.key'), `-----BEGIN PRIVATE KEY-----\n${canary}3\n-----END PRIVATE KEY-----\n`);
  appendFileSync(join(fixture.directory(id), 'run', 'serial.log'), `${canary}4\n`);
  const vmmLog = join(fixture.directory(id), 'run', 'vmm.log');
  const keyLine = `${canary}${'A'.repeat(54)}`;
  const leaks = [keyLine, `Authorization: Basic ${canary}0`, `Authorization: Bearer ${canary}5`, `nkudo1.${canary}6`, `{"token": "${canary}7"}`, `https://user:${canary}8@example/`, `NB_SETUP_KEY=${canary}9`, `-----BEGIN EC PRIVATE KEY-----\n${canary}10`];
  appendFileSync(vmmLog, `the VMM said this\n${leaks.join('\n')}\n`);
  const bundle = join(fixture.stateDirectory, '..', 'bundle.tar.gz');
  const written = await terminal(['support-bundle', '--file', bundle]).ended;
  expect(written).toMatchObject({ code: 0, text: expect.stringContaining(`wrote ${bundle}`) });
  expect(statSync(bundle).mode & 0o777).toBe(0o600);
  const content = gunzipSync(readFileSync(bundle)).toString();
  expect(content).toContain(id);
  expect(content).toContain('the VMM said this');
  expect(content).not.toContain(canary);
  expect(content).toContain('basic programs');
  const names = await new Promise<string>((resolve) => {
    const child = spawn('tar', ['-tzf', bundle], { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    child.once('close', (code) => resolve(`${code}\n${text}`));
  });
  expect(names.trim().split('\n').sort()).toEqual(['0', ...['check.json', 'config.json', 'machine.json', 'status.json', `vmm/${id}.log`, 'vms.json'].map((name) => `nkudo-support/${name}`)].sort());
  expect(await terminal(['support-bundle', '--file', bundle]).ended).toMatchObject({ code: 1, text: expect.stringContaining('is there already') });
});
