/**
 * The life of an APIKey on a real API server and Postgres: made by kubectl, read from its Secret, used, revoked. And what
 * a key must never be: in a row, a log, an answer, an object other than its Secret.
 */
import pino from 'pino';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseApiKey } from '#api/codec/api-key.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { startLeader, type Leader } from '../reconcilers/leader.ts';
import { dialGrpc, type GrpcClient } from './fleet-client.ts';
import { makeFleetWorld } from './fleet-server.ts';

const logged: string[] = [];
let leader: Leader;
let grpc: GrpcClient;
/** Answers and refusals that callers saw. */
const seen: string[] = [];

async function textOf(name: string): Promise<string> {
  await leader.waitForCondition('apikeys', name, 'Ready=True');
  const { stdout } = await leader.kubernetes.kubectl(['get', 'secret', `${name}-key`, '-o', 'jsonpath={.data.key}'], { namespace: leader.namespace });
  return Buffer.from(stdout, 'base64').toString();
}

async function read(text: string, site = ''): Promise<string> {
  const outcome = await grpc.call('GetStatus', { namespace: leader.namespace, site, pageSize: 0, pageToken: '' }, `Bearer ${text}`);
  seen.push(JSON.stringify(outcome));
  return outcome.code;
}

const watch = (text: string) => grpc.open('WatchStatus', { namespace: leader.namespace, site: '' }, `Bearer ${text}`);

beforeAll(async () => {
  const log = pino({ level: 'trace' }, { write: (line: string) => void logged.push(line) });
  log.info('what is logged is kept here');
  leader = await startLeader({ log });
  const world = await makeFleetWorld(leader);
  const server = await world.serve({ log });
  grpc = dialGrpc(server.grpc, world.pki.trustBundlePem());
  fileScope().defer(() => grpc.close());
});

describe('an APIKey', () => {
  it('is made by kubectl apply before there is a Site, and its key is in the Secret and works', async () => {
    await leader.apply('apikeys', 'ci', { role: 'operate' });
    const text = await textOf('ci');
    expect(text).toMatch(/^nkudok1_[A-Za-z0-9_-]{71}$/);
    await until(async () => (await read(text)) === 'OK', 'the key to be known');
    await leader.apply('sites', 'shop-1', {});
    await until(async () => (await read(text)) === 'OK' && (seen.at(-1) ?? '').includes('shop-1'), 'the site to be known');
    const object = await leader.waitFor('apikeys', 'ci', 'its status', ({ status }) => (status as { printableStatus?: string } | undefined)?.printableStatus === 'Active');
    expect(object['status']).toMatchObject({ secretName: 'ci-key' });
  });

  it('is good for its site only when it names one', async () => {
    await leader.apply('apikeys', 'of-site', { role: 'read', siteRef: { name: 'shop-1' } });
    const text = await textOf('of-site');
    await until(async () => (await read(text, 'shop-1')) === 'OK', 'the key to be known');
    expect(await read(text, 'shop-2')).toBe('PERMISSION_DENIED');
    expect(await read(text)).toBe('PERMISSION_DENIED');
  });

  it('works on when its Secret was deleted, and is not written a second time', async () => {
    await leader.apply('apikeys', 'copied', { role: 'read' });
    const text = await textOf('copied');
    await leader.kubernetes.kubectl(['delete', 'secret', 'copied-key'], { namespace: leader.namespace });
    await leader.restart();
    await until(async () => (await read(text)) === 'OK', 'the key to be known');
    expect((await leader.kubernetes.kubectl(['get', 'secret', 'copied-key'], { namespace: leader.namespace, mayFail: true })).code).not.toBe(0);
  });

  it('is revoked by spec.revoked: its open streams end, its calls are refused, its Secret is gone', async () => {
    await leader.apply('apikeys', 'revoked', { role: 'read' });
    const text = await textOf('revoked');
    await until(async () => (await read(text)) === 'OK', 'the key to be known');
    const stream = watch(text);
    await stream.first;
    await leader.apply('apikeys', 'revoked', { role: 'read', revoked: true });
    expect(await stream.ended).toBe('UNAUTHENTICATED');
    expect(await read(text)).toBe('UNAUTHENTICATED');
    await leader.waitForCondition('apikeys', 'revoked', 'Ready=False/KeyRevoked');
    expect((await leader.kubernetes.kubectl(['get', 'secret', 'revoked-key'], { namespace: leader.namespace, mayFail: true })).code).not.toBe(0);
  });

  it('is revoked by its deletion, with an audit row for each change', async () => {
    await leader.apply('apikeys', 'deleted', { role: 'admin' });
    const text = await textOf('deleted');
    const id = parseApiKey(text)?.keyId;
    await until(async () => (await read(text)) === 'OK', 'the key to be known');
    const stream = watch(text);
    await stream.first;
    await leader.remove('apikeys', 'deleted');
    expect(await stream.ended).toBe('UNAUTHENTICATED');
    await leader.waitUntilGone('apikeys', 'deleted');
    const audit = await leader.rows.query(`select action from nkudo.audit_events where subject_kind = 'apiKey' and subject_id = $1 order by id`, [id]);
    expect(audit.map((row) => row['action'])).toEqual(['registered', 'revoked']);
  });

  it('notes its use to the hour: many calls make one write', async () => {
    await leader.apply('apikeys', 'counted', { role: 'read' });
    const text = await textOf('counted');
    const id = parseApiKey(text)?.keyId;
    const row = async () => (await leader.rows.query('select last_used_at, xmin::text as version from nkudo.api_keys where id = $1', [id]))[0];
    await until(async () => (await read(text)) === 'OK' && (await row())?.['last_used_at'] !== null, 'the first use to be noted');
    const noted = await row();
    for (let call = 0; call < 30; call += 1) expect(await read(text)).toBe('OK');
    expect(await row()).toEqual(noted);
    await leader.rows.query(`update nkudo.api_keys set last_used_at = last_used_at - interval '2 hours' where id = $1`, [id]);
    const older = await row();
    await until(async () => (await read(text)) === 'OK' && (await row())?.['version'] !== older?.['version'], 'a use an hour later to be noted');
    // The status follows with the next look.
    await leader.restart();
    await leader.waitFor('apikeys', 'counted', 'its last use', ({ status }) => (status as { lastUsedTime?: string } | undefined)?.lastUsedTime !== undefined);
  });

  it('can not be made by somebody who lacks the rights that it has', async () => {
    const { kubernetes, namespace } = leader;
    const rule = (verbs: string, resources: string, name: string): readonly string[] => ['create', 'role', name, `--verb=${verbs}`, ...resources.split(',').map((resource) => `--resource=${resource}`)];
    await kubernetes.kubectl(rule('get,list,watch', 'microvms.nkudo.dev,microvms.nkudo.dev/log', 'readers'), { namespace });
    await kubernetes.kubectl(rule('create,get,patch', 'apikeys.nkudo.dev', 'key-makers'), { namespace });
    for (const role of ['readers', 'key-makers']) await kubernetes.kubectl(['create', 'rolebinding', role, `--role=${role}`, '--user=ann'], { namespace });
    const make = (role: string) =>
      kubernetes.kubectl(['create', '-f', '-'], {
        namespace, mayFail: true, actAs: { user: 'ann', groups: ['system:authenticated'] },
        input: JSON.stringify({ apiVersion: 'nkudo.dev/v1alpha1', kind: 'APIKey', metadata: { name: `of-ann-${role}` }, spec: { role } }),
      });
    await until(async () => (await make('read')).code === 0 || (await make('read')).stderr.includes('already exists'), 'a key with rights that she has');
    expect((await make('operate')).stderr).toContain('needs its rights, and you may not create microvms in this namespace');
    await kubernetes.kubectl(rule('create,patch,delete', 'microvms.nkudo.dev', 'operators'), { namespace });
    await kubernetes.kubectl(['create', 'rolebinding', 'operators', '--role=operators', '--user=ann'], { namespace });
    await until(async () => (await make('operate')).code === 0, 'a key with the rights that she has now');
    expect((await make('admin')).stderr).toContain('needs its rights, and you may not force microvms in this namespace');
  });

  it('is in no row, no log line, no answer and no object but its Secret', async () => {
    await leader.apply('apikeys', 'canary', { role: 'admin' });
    const text = await textOf('canary');
    await until(async () => (await read(text)) === 'OK', 'the key to be known');
    // Also where it goes wrong.
    for (const bad of [`${text}x`, text.slice(0, -1), text.toUpperCase(), `nkudok2_${text.slice(8)}`]) expect(await read(bad)).toBe('UNAUTHENTICATED');
    const secret = Buffer.from(parseApiKey(text)?.secret ?? []);
    const forms = [text, text.slice(8, -6).slice(22), secret.toString('base64'), secret.toString('hex'), Buffer.from(text).toString('base64')];
    const tables = await leader.rows.query(`select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'nkudo' and c.relkind in ('r', 'p') and not c.relispartition`);
    const places: [string, string][] = [['log', logged.join('')], ['answers', seen.join('')]];
    for (const { name } of tables) places.push([`table ${String(name)}`, JSON.stringify(await leader.rows.query(`select t::text from nkudo.${String(name)} t`))]);
    for (const kind of ['apikeys', 'events', 'configmaps', 'sites']) places.push([kind, (await leader.kubernetes.kubectl(['get', kind, '-A', '-o', 'json'])).stdout]);
    expect(logged.length).toBeGreaterThan(0);
    expect(places.filter(([, content]) => forms.some((form) => content.includes(form))).map(([place]) => place)).toEqual([]);
    // The search finds what is there.
    const { stdout } = await leader.kubernetes.kubectl(['get', 'secrets', '-A', '-o', 'json']);
    expect(forms.some((form) => stdout.includes(form))).toBe(true);
  });
});
