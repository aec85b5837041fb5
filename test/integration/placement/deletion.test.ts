/**
 * Deletion of Hosts and Sites with live microVMs, and the brake on mass deletion, on a real API server with the shipped
 * admission policies and a real Postgres.
 */
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { until } from '#test/harness/until.ts';
import { hostNameOf, messageOf, siteName, startPlacementSite, statusOf, type PlacementSite } from './site.ts';
import { describeConditions, type Plural } from '../reconcilers/leader.ts';

let site: PlacementSite;

beforeAll(async () => {
  site = await startPlacementSite();
  await site.addMachine('edge-1');
});

const remove = (plural: Plural, name: string) => site.kubernetes.client.request('DELETE', site.path(plural, name));
const uidOf = async (plural: Plural, name: string): Promise<string> => (await site.kubernetes.client.get(site.path(plural, name))).metadata.uid ?? '';
const messageIn = (answer: { readonly body: unknown }): string => String((answer.body as { message?: string }).message);

const countIn = (message: string): number => Number(/nkudo\.dev\/confirm-delete=(\d+)/.exec(message)?.[1] ?? 0);

/** The server takes a policy up some moments after it was applied; a dry run tells when it has. */
async function awaitPolicies(plural: Plural, name: string): Promise<void> {
  await until(async () => (await site.kubernetes.client.request('DELETE', `${site.path(plural, name)}?dryRun=All`)).status === 403, 'the policies to be in force');
}

describe('[C8] deletion of a Host and of a Site with live microVMs', () => {
  it('is refused with what to do, and leaves everything as it is', async () => {
    await site.makeMicroVM('web');
    await site.hostOf('web');
    await site.waitFor('hosts', 'edge-1', 'one bound', (host) => (statusOf(host)['allocated'] as { microvms: number }).microvms === 1);
    await site.waitFor('sites', siteName, 'one microVM', (object) => (statusOf(object)['microvms'] as { total: number }).total === 1);
    await awaitPolicies('hosts', 'edge-1');
    await awaitPolicies('sites', siteName);
    const [host, whole] = [await remove('hosts', 'edge-1'), await remove('sites', siteName)];
    expect([host.status, whole.status]).toEqual([403, 403]);
    expect(messageIn(host)).toContain(`1 microVMs are bound to host edge-1: drain it (spec.drain) or delete them first; when its machine is lost for good, annotate it with nkudo.dev/force-delete=${await uidOf('hosts', 'edge-1')}`);
    expect(messageIn(whole)).toContain('1 microVMs are at site shop-1: delete them first');
    for (const [plural, name] of [['hosts', 'edge-1'], ['sites', siteName]] as const) expect((await site.kubernetes.client.get(site.path(plural, name))).metadata.deletionTimestamp).toBeUndefined();
    // An annotation that was copied from another object is no force.
    await site.patch('hosts', 'edge-1', { metadata: { annotations: { 'nkudo.dev/force-delete': await uidOf('microvms', 'web') } } });
    expect((await remove('hosts', 'edge-1')).status).toBe(403);
  });

  it('goes through once the host is empty, which moving its microVMs makes it', async () => {
    await site.addMachine('edge-2');
    await site.patch('microvms', 'web', { spec: { evictionStrategy: 'Move' } });
    await site.patch('hosts', 'edge-1', { spec: { drain: { mode: 'Evict' } }, metadata: { annotations: { 'nkudo.dev/force-delete': null } } });
    await site.waitForHost('web', 'edge-2');
    await site.waitForCondition('hosts', 'edge-1', 'Drained=True/Empty');
    await until(async () => (await remove('hosts', 'edge-1')).status < 300, 'the last figures to be shown');
    await site.waitUntilGone('hosts', 'edge-1');
    expect(await site.hostOf('web')).toBe('edge-2');
  });

  it('gives a machine that is lost up by force: its microVMs are tombstones, and both are audited', async () => {
    // It never answers again: nobody plays it.
    const lost = await site.addMachine('edge-3', { isObedient: false });
    await site.makeMicroVM('stranded', { placement: { hostName: 'edge-3' } });
    const stranded = await site.waitFor('microvms', 'stranded', 'bound', (object) => hostNameOf(object) === 'edge-3');
    await site.waitFor('hosts', 'edge-3', 'one bound', (host) => (statusOf(host)['allocated'] as { microvms: number }).microvms === 1);
    expect((await remove('hosts', 'edge-3')).status).toBe(403);
    await site.patch('hosts', 'edge-3', { metadata: { annotations: { 'nkudo.dev/force-delete': await uidOf('hosts', 'edge-3') } } });
    expect((await remove('hosts', 'edge-3')).status).toBe(200);
    await site.waitUntilGone('microvms', 'stranded');
    await site.waitUntilGone('hosts', 'edge-3');
    const [row] = await site.rows.query('select tombstoned_at is not null as is_tombstone, (select revoked_at is not null from nkudo.hosts where id = $2) as is_revoked from nkudo.microvms where id = $1', [stranded.metadata.uid, lost.hostId]);
    expect(row).toEqual({ is_tombstone: true, is_revoked: true });
    const audit = await site.rows.query(`select action from nkudo.audit_events where (subject_id = $1 and action = 'forceDeleted') or (subject_id = $2 and action = 'revoked' and subject_kind = 'host')`, [stranded.metadata.uid, lost.hostId]);
    expect(audit.map(({ action }) => action).toSorted()).toEqual(['forceDeleted', 'revoked']);
    expect(await site.hostOf('web')).toBe('edge-2');
  });
});

describe('[C8] the brake on mass deletion', () => {
  const names = Array.from({ length: 14 }, (_, index) => `fleet-${String(index).padStart(2, '0')}`);
  afterEach(async () => {
    await site.waitFor('sites', siteName, 'no confirmation left', (object) => object.metadata.annotations?.['nkudo.dev/confirm-delete'] === undefined);
  });

  it('holds what is deleted beyond a fifth and at least ten, until the number is confirmed', async () => {
    await Promise.all(names.map((name) => site.makeMicroVM(name)));
    await Promise.all(names.map((name) => site.hostOf(name)));
    // At once, as a mistaken selector does it.
    const answer = await site.kubernetes.client.request('DELETE', `${site.path('microvms')}?labelSelector=${encodeURIComponent('!spared')}&fieldSelector=${encodeURIComponent('metadata.name!=web')}`);
    expect(answer.status).toBe(200);
    await site.waitForCondition('sites', siteName, 'DeletionHeld=True/ConfirmationNeeded');
    // The first nine may have gone before it was a mass; the last one was deleted when it was.
    const last = names.at(-1) ?? '';
    const one = await site.waitForCondition('microvms', last, 'DeletionBlocked=True/DeletionHeld');
    expect(messageOf(one, 'DeletionBlocked')).toContain('nkudo.dev/confirm-delete=');
    // It runs on, and nothing was ordered.
    expect(describeConditions(one)).toContain('Running=True/Running');
    expect(await site.rows.query('select is_deleting from nkudo.microvms where id = $1', [one.metadata.uid])).toEqual([{ is_deleting: false }]);
    // A number that is too small confirms nothing.
    await site.patch('sites', siteName, { metadata: { annotations: { 'nkudo.dev/confirm-delete': '1' } } });
    await site.waitForCondition('sites', siteName, 'DeletionHeld=True');
    // The number that it asks for, once it has seen all of them; from here on they only become fewer.
    let asked = 0;
    await until(async () => {
      const [object, objects] = await Promise.all([site.kubernetes.client.get(site.path('sites', siteName)), site.kubernetes.client.list(site.path('microvms'))]);
      asked = countIn(messageOf(object, 'DeletionHeld'));
      return asked >= objects.filter(({ metadata }) => metadata.deletionTimestamp !== undefined).length;
    }, 'the Site to count all of them');
    await site.patch('sites', siteName, { metadata: { annotations: { 'nkudo.dev/confirm-delete': String(asked) } } });
    for (const name of names) await site.waitUntilGone('microvms', name);
    await site.waitForCondition('sites', siteName, 'DeletionHeld=False/WithinLimit');
    expect(await site.hostOf('web')).toBe('edge-2');
  });

  it('is off with massDeletionGuard: Disabled', async () => {
    await site.patch('sites', siteName, { spec: { massDeletionGuard: 'Disabled' } });
    await Promise.all(names.map((name) => site.makeMicroVM(name)));
    await Promise.all(names.map((name) => site.hostOf(name)));
    await Promise.all(names.map((name) => site.remove('microvms', name)));
    for (const name of names) await site.waitUntilGone('microvms', name);
    await site.patch('sites', siteName, { spec: { massDeletionGuard: 'Enabled' } });
  });
});

describe('[C8] a namespace that is deleted', () => {
  it('waits for a confirmation, then ends microVMs, Hosts and Site in that order', async () => {
    const namespacePath = `/api/v1/namespaces/${site.namespace}`;
    await site.kubernetes.client.request('DELETE', namespacePath);
    const gone: string[] = [];
    const watches = (['microvms', 'hosts', 'sites'] as const).map(async (plural) => {
      const [name = ''] = (await site.kubernetes.client.list(site.path(plural))).map(({ metadata }) => metadata.name);
      await site.waitUntilGone(plural, name);
      gone.push(plural);
    });
    // What the namespace controller does, in the order that is hardest for us. The policies let it through.
    for (const plural of ['sites', 'hosts', 'microvms'] as const) {
      const answer = await site.kubernetes.client.request('DELETE', site.path(plural));
      expect(answer.status, messageIn(answer)).toBe(200);
    }
    await site.waitForCondition('microvms', 'web', 'DeletionBlocked=True/DeletionHeld');
    expect(messageOf(await site.waitForCondition('sites', siteName, 'DeletionHeld=True/ConfirmationNeeded'), 'DeletionHeld')).toContain('the namespace is being deleted');
    await site.patch('sites', siteName, { metadata: { annotations: { 'nkudo.dev/confirm-delete': '1' } } });
    await Promise.all(watches);
    expect(gone).toEqual(['microvms', 'hosts', 'sites']);
  });
});
