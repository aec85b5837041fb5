/**
 * The reconcilers on a real API server and a real Postgres: from the object to the operation and from the
 * report to the status. Resync and polling are an hour apart, so every step here was moved by an event.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { until } from '#test/harness/until.ts';
import { describeConditions, messageOf, microvmSpec, siteName, startLeader, statusOf, type Leader } from './leader.ts';
import { enrollMachine, type Machine } from './machine.ts';

let leader: Leader;
let machine: Machine;

beforeAll(async () => {
  leader = await startLeader();
  await leader.apply('sites', siteName, {});
  await leader.waitForCondition('sites', siteName, 'Accepted=True');
  machine = await enrollMachine(leader, 'edge-1');
  await machine.connect();
  await leader.waitForCondition('hosts', 'edge-1', 'Ready=True');
  machine.obey();
});

const writesTo = (mark: number, path: string) =>
  leader.kubernetes.audit.writesSince(mark).filter((event) => event.requestURI.includes(path) && event.userAgent === 'nkudo-controller');

/** Transactions whose rows are in this database; the counters are those of the cluster, which other files write to meanwhile. */
async function writersSince(transactionId: number): Promise<number> {
  const tables = await leader.rows.query(`select relname from pg_class where relnamespace = 'nkudo'::regnamespace and relkind in ('r', 'p')`);
  const rows = tables.map(({ relname }) => `select xmin::text::bigint as writer from nkudo.${String(relname)}`).join(' union all ');
  const [counted] = await leader.rows.query(`select count(distinct writer)::int as writers from (${rows}) written where writer >= $1`, [transactionId]);
  return Number(counted?.['writers']);
}

describe('the life of a microVM', () => {
  it('goes from the object to Running in three writes and two events, and shows where it runs', async () => {
    const mark = leader.kubernetes.audit.mark();
    await leader.apply('microvms', 'web', microvmSpec());
    const object = await leader.waitForCondition('microvms', 'web', 'Running=True');
    expect(describeConditions(object)).toEqual([
      'Accepted=True/Accepted', 'CrashLooping=False/WithinLimit', 'ImagesReady=True/FilesPresent', 'Provisioned=True/Provisioned',
      'Reachable=True/HostConnected', 'Ready=True/NoProbe', 'RestartRequired=False/UpToDate', 'Running=True/Running', 'Scheduled=True/Bound',
    ]);
    expect(statusOf(object)).toMatchObject({
      printableStatus: 'Running', observedGeneration: 1, hostObservedGeneration: 1, restarts: { count: 0 }, plan: { status: 'Succeeded' },
      binding: { hostName: 'edge-1', hostID: machine.hostId },
    });
    await leader.waitFor('sites', siteName, 'one running', (site) => (statusOf(site)['microvms'] as { running: number }).running === 1);
    expect(writesTo(mark, '/microvms/web').map((event) => `${event.verb} ${event.requestURI.split('?')[0]?.replace(/.*microvms/, '')} ${event.responseStatus?.code}`)).toEqual([
      'patch /web 200', 'patch /web/status 200', 'patch /web/status 200',
    ]);
    // By what they are about: the Host's own first events may come in the same moment.
    const events = await leader.kubernetes.client.list(`/apis/events.k8s.io/v1/namespaces/${leader.namespace}/events`);
    expect(events.filter((event) => (event['regarding'] as { name?: string }).name === 'web').map((event) => event['reason'])).toEqual(expect.arrayContaining(['Scheduled', 'Started']));
    expect(events.filter((event) => (event['regarding'] as { name?: string }).name === 'web')).toHaveLength(2);
  });

  it('hands a change of the spec to the host as one operation, and shows the generation that the host has', async () => {
    await leader.kubernetes.client.request('PATCH', leader.path('microvms', 'web'), { spec: { runPolicy: 'Halted' } }, 'application/merge-patch+json');
    const halted = await leader.waitForCondition('microvms', 'web', 'Running=False/Halted');
    expect(statusOf(halted)).toMatchObject({ printableStatus: 'Stopped', hostObservedGeneration: 2 });
    const operations = await leader.rows.query('SELECT kind, generation FROM nkudo.operations WHERE microvm_id = $1 ORDER BY revision', [halted.metadata.uid]);
    expect(operations.map((row) => row['kind'])).toEqual(['Create', 'Stop']);
  });

  it('lets the object go only after the host confirmed the teardown, and frees its room', async () => {
    await leader.apply('microvms', 'leaving', microvmSpec());
    const object = await leader.waitForCondition('microvms', 'leaving', 'Running=True');
    await leader.remove('microvms', 'leaving');
    await leader.waitUntilGone('microvms', 'leaving');
    const [row] = await leader.rows.query(
      `SELECT (SELECT count(*) FROM nkudo.bindings WHERE microvm_id = $1 AND released_at IS NULL)::int AS bound,
              (SELECT string_agg(kind || ' ' || status, ', ' ORDER BY revision) FROM nkudo.operations WHERE microvm_id = $1) AS operations`,
      [object.metadata.uid],
    );
    expect(row).toEqual({ bound: 0, operations: 'Create Succeeded, Delete Succeeded' });
  });

  it('writes nothing more once everything is as it should be, also when every key is looked at again', async () => {
    await leader.waitFor('hosts', 'edge-1', 'one allocated', (host) => (statusOf(host)['allocated'] as { microvms: number }).microvms === 1);
    await leader.waitFor('sites', siteName, 'none running', (site) => (statusOf(site)['microvms'] as { running: number; total: number }).running === 0);
    const before = (await leader.rows.counters()).writeTransactions;
    const mark = leader.kubernetes.audit.mark();
    await leader.restart();
    // A key that comes after all others proves that those were looked at.
    await leader.apply('microvms', 'last', microvmSpec({ siteRef: { name: 'nowhere' } }));
    await leader.waitForCondition('microvms', 'last', 'Accepted=False/SiteNotFound');
    expect(leader.kubernetes.audit.writesSince(mark).filter((event) => !event.requestURI.includes('/microvms/last') && !event.requestURI.includes('/events')).map((event) => event.requestURI)).toEqual([]);
    // The new leadership epoch is the only write.
    expect(await writersSince(before)).toBeLessThanOrEqual(1);
    await leader.remove('microvms', 'last');
    await leader.waitUntilGone('microvms', 'last');
  });
});

describe('what can not be placed', () => {
  it('says which host is missing, and counts why no host fits', async () => {
    await leader.apply('microvms', 'lost', microvmSpec({ placement: { hostName: 'nowhere' } }));
    expect(messageOf(await leader.waitForCondition('microvms', 'lost', 'Scheduled=False/HostNotFound'), 'Scheduled')).toContain('nowhere');
    await leader.apply('microvms', 'huge', microvmSpec({ memory: { size: '4Ti' } }));
    expect(messageOf(await leader.waitForCondition('microvms', 'huge', 'Scheduled=False/NoHostFits'), 'Scheduled')).toBe('0 of 1 host fits: 1 lacks memory');
    await leader.apply('microvms', 'classy', microvmSpec({ className: 'gold' }));
    await leader.waitForCondition('microvms', 'classy', 'Accepted=False/ClassNotFound');
    for (const name of ['lost', 'huge', 'classy']) {
      await leader.remove('microvms', name);
      await leader.waitUntilGone('microvms', name);
    }
  });

  it('goes on by itself when a host with room appears', async () => {
    await leader.apply('microvms', 'patient', microvmSpec({ placement: { hostSelector: { matchLabels: { zone: 'b' } } } }));
    await leader.waitForCondition('microvms', 'patient', 'Scheduled=False/NoHostFits');
    await leader.kubernetes.client.request('PATCH', leader.path('hosts', 'edge-1'), { metadata: { labels: { zone: 'b' } } }, 'application/merge-patch+json');
    await leader.waitForCondition('microvms', 'patient', 'Running=True');
    await leader.remove('microvms', 'patient');
    await leader.waitUntilGone('microvms', 'patient');
  });
});

describe('tokens', () => {
  it('shows who used the token and takes its Secret away', async () => {
    const token = await leader.waitForCondition('enrollmenttokens', 'for-edge-1', 'Used=True');
    expect(statusOf(token)).toMatchObject({ printableStatus: 'Used', usedBy: 'edge-1' });
    expect(await leader.kubernetes.client.find(`/api/v1/namespaces/${leader.namespace}/secrets/for-edge-1-token`)).toBeNull();
  });

  it('revokes the hash and deletes the Secret when an unused token is deleted', async () => {
    await leader.apply('enrollmenttokens', 'unused', { siteRef: { name: siteName } });
    await leader.waitForCondition('enrollmenttokens', 'unused', 'Ready=True');
    await leader.remove('enrollmenttokens', 'unused');
    await leader.waitUntilGone('enrollmenttokens', 'unused');
    expect(await leader.kubernetes.client.find(`/api/v1/namespaces/${leader.namespace}/secrets/unused-token`)).toBeNull();
  });
});

describe('taking a site apart', () => {
  it('keeps Site and Host while a microVM is there, says so, and lets them go in order', async () => {
    // What holds beneath the policies, which a status that lags could let pass.
    for (const name of ['nkudo-host-deletion', 'nkudo-site-deletion']) {
      await leader.kubernetes.client.request('DELETE', `/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/${name}`);
    }
    await until(async () => (await leader.kubernetes.client.request('DELETE', leader.path('sites', siteName))).status < 300, 'the policies to be gone');
    expect(messageOf(await leader.waitForCondition('sites', siteName, 'DeletionBlocked=True/MicroVMsPresent'), 'DeletionBlocked')).toContain('1 microVMs');
    await leader.remove('hosts', 'edge-1');
    await leader.waitForCondition('hosts', 'edge-1', 'DeletionBlocked=True/MicroVMsBound');
    await leader.remove('microvms', 'web');
    await leader.waitUntilGone('microvms', 'web');
    await leader.waitUntilGone('hosts', 'edge-1');
    await leader.waitUntilGone('sites', siteName);
    const [host] = await leader.rows.query('SELECT revoked_at IS NOT NULL AS revoked FROM nkudo.hosts WHERE id = $1', [machine.hostId]);
    expect(host).toEqual({ revoked: true });
  });
});
