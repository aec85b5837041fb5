import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { encodeEnrollmentToken, parseEnrollmentToken } from '#api/codec/enrollment-token.ts';
import { until } from '#test/harness/until.ts';
import { createWorld, type TestHost, type World } from './world.ts';

let world: World;

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
});

async function enroll(machine: TestHost, token: string, name = machine.name): Promise<{ readonly code: number; readonly output: string }> {
  const tokenFile = join(machine.stateDirectory, '..', 'token');
  writeFileSync(tokenFile, token, { mode: 0o600 });
  return machine.command(['enroll', '--token-file', tokenFile, '--name', name]);
}

async function counts(): Promise<{ readonly hosts: number; readonly certificates: number }> {
  const [row] = await world.database.query('SELECT (SELECT count(*) FROM nkudo.hosts)::int AS hosts, (SELECT count(*) FROM nkudo.certificates)::int AS certificates');
  return row as { hosts: number; certificates: number }; // Two integers, by the query.
}

async function expectRefused(token: string, code: string): Promise<void> {
  const before = await counts();
  const objects = async (): Promise<number> => (await world.kubernetes.client.list(world.path('hosts'))).length;
  // The objects of machines that enrolled before may still be on their way.
  await until(async () => (await objects()) === before.hosts, 'an object for every enrolled machine');
  const answer = await enroll(world.createMachine('intruder'), token);
  expect(answer.code).not.toBe(0);
  expect(answer.output).toContain(code);
  expect(answer.output).not.toContain(token);
  expect(await counts()).toEqual(before);
  expect(await objects()).toBe(before.hosts);
}

describe('enrollment of real agents', () => {
  it('[S5] gives one certificate when two agents race for one token', async () => {
    const token = await world.createToken('raced');
    const before = await counts();
    const machines = [world.createMachine('racer-a'), world.createMachine('racer-b')];
    const answers = await Promise.all(machines.map((machine) => enroll(machine, token)));
    expect(answers.map((answer) => answer.code === 0).sort()).toEqual([false, true]);
    expect(answers.find((answer) => answer.code !== 0)?.output).toContain('TOKEN_USED');
    expect(await counts()).toEqual({ hosts: before.hosts + 1, certificates: before.certificates + 1 });
    await world.waitUntil('enrollmenttokens', 'raced', 'used', (object) => (object['status'] as { usedBy?: string } | undefined)?.usedBy !== undefined);
  });

  it('[S5] gives the same machine the same certificate when it repeats its request', async () => {
    const token = await world.createToken('repeated');
    const machine = world.createMachine('repeater');
    expect((await enroll(machine, token)).code).toBe(0);
    const before = await counts();
    await enroll(machine, token);
    expect(await counts()).toEqual(before);
  });

  it('[S5] refuses a token that was used', async () => {
    const token = await world.createToken('used');
    expect((await enroll(world.createMachine('first'), token)).code).toBe(0);
    await expectRefused(token, 'TOKEN_USED');
  });

  it('[S5] refuses a token that has expired', async () => {
    const token = await world.createToken('expired', { ttl: '1m' });
    // The row is what decides; its time is moved, past the triggers that keep it from being moved, instead of waiting.
    const secret = Buffer.from(parseEnrollmentToken(token).secret, 'base64url').toString('hex');
    await world.database.query(`SET session_replication_role = replica;
      UPDATE nkudo.enrollment_tokens SET expires_at = now() - interval '1 second' WHERE secret_hash = sha256('\\x${secret}')`);
    await expectRefused(token, 'TOKEN_EXPIRED');
  });

  it('[S5] refuses a tampered and a foreign token', async () => {
    const token = parseEnrollmentToken(await world.createToken('tampered'));
    const secret = Buffer.from(token.secret, 'base64url');
    secret[0] = (secret[0] ?? 0) ^ 1;
    await expectRefused(encodeEnrollmentToken({ ...token, secret: secret.toString('base64url') }), 'TOKEN_UNKNOWN');
    await expectRefused(`${encodeEnrollmentToken(token).slice(0, -12)}`, 'TOKEN_MALFORMED');
  });

  it('[S5] does not send the token to a control plane with another authority', async () => {
    const token = parseEnrollmentToken(await world.createToken('pinned'));
    const text = encodeEnrollmentToken({ ...token, pins: ['0'.repeat(64)] });
    await expectRefused(text, 'CA_PIN_MISMATCH');
    // The token was not consumed: the right pin still works.
    expect((await enroll(world.createMachine('honest'), encodeEnrollmentToken(token))).code).toBe(0);
  });

  it('[S5] binds a token to its host name', async () => {
    const token = await world.createToken('named', { hostName: 'till-7' });
    const answer = await enroll(world.createMachine('till-8'), token, 'till-8');
    expect(answer.code).not.toBe(0);
    expect(answer.output).toContain('TOKEN_HOST_MISMATCH');
  });
});
