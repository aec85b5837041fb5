/** mock-netbird itself: that it judges what it sends, and that its `netbird` command is as the real one was measured. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { buildMockNetbird } from '#hack/build-mock-netbird.ts';
import { startMockNetbird } from '#test/simulators/mock-netbird/server.ts';
import { raw, rawId } from './raw-api.ts';

const token = 'nbp_simulator';
const simulator = await startMockNetbird({ tokens: [token] });
const { netbird } = await buildMockNetbird();
const directories: string[] = [];
const target = { managementUrl: simulator.managementUrl, token };
/** Kills a command that is made to hang. */
const hangMs = 2_000;
/** Only turns a hang that nobody expects into a failure. */
const limitMs = 30_000;

let state = '';
beforeEach(async () => {
  state = await mkdtemp(join(tmpdir(), 'mock-netbird-'));
  directories.push(state);
});
afterAll(async () => {
  await simulator.close();
  await Promise.all(directories.map((directory) => rm(directory, { recursive: true, force: true })));
});

interface Run {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const run = (...args: readonly string[]): Promise<Run> => execute(args, limitMs);

function execute(args: readonly string[], timeout: number): Promise<Run> {
  return new Promise((resolve) => {
    const child = execFile(netbird, args, { env: { MOCK_NETBIRD_STATE: state }, timeout, killSignal: 'SIGKILL' }, (_error, stdout, stderr) => resolve({ code: child.exitCode, stdout, stderr }));
  });
}

async function status(): Promise<Record<string, unknown>> {
  return JSON.parse((await run('status', '--json')).stdout) as Record<string, unknown>; // The test looks at each field.
}

async function keyFile(): Promise<{ readonly file: string; readonly group: string; readonly id: string; readonly value: string }> {
  const group = await rawId(target, '/api/groups', { name: `group-${state}` });
  const key = await raw(target, 'POST', '/api/setup-keys', { name: 'k', type: 'one-off', expires_in: 60, auto_groups: [group], usage_limit: 1 });
  const value = String(key.body['key']);
  await writeFile(join(state, 'key'), `${value}\n`, { mode: 0o600 });
  return { file: join(state, 'key'), group, id: String(key.body['id']), value };
}

const up = (file: string, timeout = limitMs): Promise<Run> =>
  execute(['up', '--setup-key-file', file, '--management-url', simulator.managementUrl, '--hostname', 'edge-1', '--disable-dns', '--no-browser'], timeout);

describe('mock-netbird', () => {
  it('sends no answer that is not as described: it is a 500 and a violation', async () => {
    simulator.faults.replace([{ path: '/api/groups', do: 'wrong', count: 1 }]);
    expect((await raw(target, 'GET', '/api/groups')).status).toBe(500);
    expect(simulator.violations().join()).toContain('answer GET /api/groups 200');
    expect((await raw(target, 'POST', '/api/networks', { title: 'x' })).status).toBe(500);
    expect(simulator.violations().join()).toContain('request POST /api/networks');
  });

  it('lets one POST /api/setup through on a fresh server', async () => {
    const fresh = await startMockNetbird({ tokens: [] });
    const body = { email: 'a@example.com', password: 'password', name: 'a', create_pat: true, pat_expire_in: 1 };
    expect((await raw({ managementUrl: fresh.managementUrl, token: '' }, 'GET', '/api/instance')).body).toEqual({ setup_required: true });
    const answer = await raw({ managementUrl: fresh.managementUrl, token: '' }, 'POST', '/api/setup', body);
    expect(answer.status).toBe(200);
    expect((await raw({ managementUrl: fresh.managementUrl, token: '' }, 'POST', '/api/setup', body)).status).toBe(412);
    expect((await raw({ managementUrl: fresh.managementUrl, token: String(answer.body['personal_access_token']) }, 'GET', '/api/users/current')).body).toMatchObject({ is_current: true });
    await fresh.close();
  });
});

describe('its netbird command', () => {
  it('joins with a key, says so twice, and has the status of the real one', async () => {
    const { file, group, value } = await keyFile();
    expect(await status()).toMatchObject({ daemonStatus: 'NeedsLogin', management: { connected: false } });
    expect(await up(file)).toMatchObject({ code: 0, stdout: 'Connected\n' });
    expect(await up(file)).toMatchObject({ code: 0, stdout: 'Already connected\n' });
    const seen = await status();
    const peer = [...simulator.account.peers.values()].find(({ publicKey }) => publicKey === seen['publicKey']);
    expect(seen).toMatchObject({ daemonStatus: 'Connected', management: { connected: true, error: '' }, signal: { connected: true }, netbirdIp: `${peer?.ip ?? ''}/16`, fqdn: 'edge-1.netbird.selfhosted', networks: null, usesKernelInterface: false });
    expect(simulator.account.group(group).peers).toEqual([peer?.id]);
    expect(peer?.name).toBe('edge-1');
    const runs = await readFile(join(state, 'runs.jsonl'), 'utf8');
    expect(runs).not.toContain(value);
    expect((await run('status', '--check', 'startup')).code).toBe(0);
  });

  it('refuses a used key with rc 1 and hangs on an unknown one, while the daemon says LoginFailed', async () => {
    const { file } = await keyFile();
    await up(file);
    await rm(join(state, 'daemon.json'));
    expect(await up(file)).toMatchObject({ code: 1, stderr: expect.stringContaining('setup key is invalid') as string });
    await writeFile(file, 'UNKNOWN\n');
    expect((await up(file, hangMs)).code).toBeNull();
    expect(await status()).toMatchObject({ daemonStatus: 'LoginFailed' });
  });

  it('says SessionExpired after its peer was deleted, Idle after down, and is live in both', async () => {
    const { file } = await keyFile();
    await up(file);
    const peer = simulator.account.peerByPublicKey(String((await status())['publicKey']));
    await raw(target, 'DELETE', `/api/peers/${peer?.id ?? ''}`);
    expect(await status()).toMatchObject({ daemonStatus: 'SessionExpired', management: { connected: false, error: expect.stringContaining('PermissionDenied') as string } });
    expect((await run('status', '--check', 'live')).code).toBe(0);
    expect((await run('status', '--check', 'ready')).code).toBe(1);
    await rm(join(state, 'daemon.json'));
    const again = await keyFileAgain();
    await up(again);
    expect(await run('down')).toMatchObject({ code: 0, stdout: 'Disconnected\n' });
    expect(await status()).toMatchObject({ daemonStatus: 'Idle' });
    expect((await run('status', '--check', 'ready')).code).toBe(0);
    expect((await run('status', '--check', 'startup')).code).toBe(1);

    async function keyFileAgain(): Promise<string> {
      const key = await raw(target, 'POST', '/api/setup-keys', { name: 'k', type: 'one-off', expires_in: 60, auto_groups: [], usage_limit: 1 });
      await writeFile(file, String(key.body['key']));
      return file;
    }
  });

  it('takes its peer away with deregister', async () => {
    const { file } = await keyFile();
    await up(file);
    const key = String((await status())['publicKey']);
    expect(await run('deregister')).toMatchObject({ code: 0, stdout: 'Deregistered successfully\n' });
    expect(simulator.account.peerByPublicKey(key)).toBeNull();
    expect(await status()).toMatchObject({ daemonStatus: 'NeedsLogin' });
  });

  it('fails on demand: no daemon, another state and fields, text that is no JSON, a hang, an unreachable server', async () => {
    const faults = (list: readonly object[]): Promise<void> => writeFile(join(state, 'faults.json'), JSON.stringify(list));
    await faults([{ on: '*', do: 'no-daemon' }]);
    expect(await run('status', '--json')).toMatchObject({ code: 1, stderr: expect.stringContaining('failed to connect to daemon error') as string });
    await faults([{ on: 'status', do: 'state', state: 'Hibernating' }, { on: 'status', do: 'fields', fields: { later: { a: 1 } } }]);
    expect(await status()).toMatchObject({ daemonStatus: 'Hibernating', later: { a: 1 } });
    await faults([{ on: 'status', do: 'text', text: 'panic: runtime error' }]);
    expect((await run('status', '--json')).stdout).toBe('panic: runtime error');
    await faults([{ on: 'up', do: 'hang', once: true }, { on: 'up', do: 'dial-timeout', ms: 1 }]);
    expect((await execute(['up'], hangMs)).code).toBeNull();
    expect(await status()).toMatchObject({ daemonStatus: 'NeedsLogin' });
    expect(await run('up', '--management-url', 'http://127.0.0.1:9')).toMatchObject({ code: 1 });
    await faults([{ on: 'deregister', do: 'unknown-command' }]);
    expect(await run('deregister')).toMatchObject({ code: 1, stderr: expect.stringContaining('unknown command') as string });
  });
});
