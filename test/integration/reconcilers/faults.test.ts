/**
 * The reconcilers when something around them is away: a host that falls silent, a cut connection to the API
 * server, a database that does not answer. Nothing is deleted or called failed for it, and all goes on afterwards.
 */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { beforeAll, describe, expect, it } from 'vitest';
import { AppError } from '#api/model/error-codes.ts';
import { loadConnection } from '#controller/adapters/kubernetes/connection.ts';
import { createKubernetesClient } from '#controller/adapters/kubernetes/kubernetes-client.ts';
import { missedBeatsMax } from '#controller/domain/silence.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { describeConditions, messageOf, microvmSpec, siteName, startLeader, statusOf, time, type Leader } from './leader.ts';
import { enrollMachine, type Machine } from './machine.ts';

const heartbeatIntervalMs = 250;

interface Proxy {
  readonly port: number;
  /** Ends every connection and refuses new ones. */
  cut(): void;
  heal(): void;
  accepted(): number;
}

async function startProxy(target: URL): Promise<Proxy> {
  const sockets = new Set<Socket>();
  let isCut = false;
  let accepted = 0;
  const server = createServer((client) => {
    if (isCut) return void client.destroy();
    accepted += 1;
    const upstream = connect(Number(target.port), target.hostname);
    for (const [socket, other] of [[client, upstream], [upstream, client]] as const) {
      sockets.add(socket);
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  fileScope().defer(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return {
    port: (server.address() as AddressInfo).port, // It listens on TCP.
    cut: () => {
      isCut = true;
      for (const socket of sockets) socket.destroy();
    },
    heal: () => void (isCut = false),
    accepted: () => accepted,
  };
}

let leader: Leader;
let machine: Machine;
let proxy: Proxy;
let stopBeating: () => void;
let cutLink: () => void;
let isDatabaseAway = false;
let refusedPublications = 0;

beforeAll(async () => {
  let target: URL | null = null;
  // The proxy's port is known only after it listens; the first request waits for that.
  const port = Promise.withResolvers<number>();
  leader = await startLeader({
    settings: { heartbeatIntervalMs },
    kube: (access) => {
      target = new URL(access.server);
      const own = loadConnection(access.kubeconfig);
      void startProxy(target).then((made) => {
        proxy = made;
        port.resolve(made.port);
      });
      const connection = {
        server: own.server,
        credentials: async () => ({ ...(await own.credentials()), port: await port.promise }),
      };
      return createKubernetesClient({ connection, fieldManager: 'nkudo-controller', userAgent: 'nkudo-controller', time });
    },
    stores: (stores) => ({
      ...stores,
      microvms: {
        ...stores.microvms,
        publish: (...args) => {
          if (!isDatabaseAway) return stores.microvms.publish(...args);
          refusedPublications += 1;
          return Promise.reject(new AppError('DATABASE_UNAVAILABLE'));
        },
      },
    }),
  });
  await leader.apply('sites', siteName, {});
  await leader.waitForCondition('sites', siteName, 'Accepted=True');
  machine = await enrollMachine(leader, 'edge-1');
  await machine.connect();
  stopBeating = machine.startBeating(heartbeatIntervalMs);
  await leader.waitForCondition('hosts', 'edge-1', 'Ready=True');
  cutLink = machine.obey();
  await leader.apply('microvms', 'web', microvmSpec());
  await leader.waitForCondition('microvms', 'web', 'Running=True');
});

async function beatAgeMs(): Promise<number> {
  const [row] = await leader.rows.query('SELECT (extract(epoch from now() - last_beat_at) * 1000)::int AS age FROM nkudo.host_liveness WHERE host_id = $1', [machine.hostId]);
  return Number(row?.['age']);
}

describe('a cut connection to the API server', () => {
  it('is opened again by itself, loses no change and deletes nothing', async () => {
    const before = proxy.accepted();
    expect(before).toBeGreaterThan(0);
    const mark = leader.kubernetes.audit.mark();
    proxy.cut();
    await leader.apply('microvms', 'meanwhile', microvmSpec());
    proxy.heal();
    await leader.waitForCondition('microvms', 'meanwhile', 'Running=True');
    expect(proxy.accepted()).toBeGreaterThan(before);
    expect(leader.kubernetes.audit.writesSince(mark).filter((event) => event.verb === 'delete')).toEqual([]);
    expect(describeConditions(await leader.kubernetes.client.get(leader.path('microvms', 'web')))).toContain('Running=True/Running');
  });
});

describe('a database that does not answer', () => {
  it('leaves the object as it was, and the microVM runs once it answers', async () => {
    isDatabaseAway = true;
    await leader.apply('microvms', 'delayed', microvmSpec());
    const held = await leader.waitFor('microvms', 'delayed', 'held by the finalizer', (object) => (object.metadata.finalizers ?? []).length > 0);
    expect(held['status']).toBeUndefined();
    await expect.poll(() => refusedPublications, { timeout: 30_000 }).toBeGreaterThan(2);
    const object = await leader.kubernetes.client.get(leader.path('microvms', 'delayed'));
    expect(object['status']).toBeUndefined();
    isDatabaseAway = false;
    await leader.waitForCondition('microvms', 'delayed', 'Running=True');
  });
});

describe('a host that falls silent', () => {
  it('makes its microVMs Unknown, not stopped, and they are back with the next beat', async () => {
    stopBeating();
    const silent = await leader.waitForCondition('microvms', 'web', 'Running=Unknown/HostSilent');
    expect(describeConditions(silent)).toEqual(expect.arrayContaining(['Ready=Unknown/HostSilent', 'Reachable=Unknown/HostSilent', 'Scheduled=True/Bound']));
    expect(statusOf(silent)).toMatchObject({ printableStatus: 'Unknown', lastObservedTime: expect.any(String) });
    const host = await leader.waitForCondition('hosts', 'edge-1', 'Reachable=Unknown/HostSilent');
    expect(statusOf(host)).toMatchObject({ phase: 'Unreachable' });
    stopBeating = machine.startBeating(heartbeatIntervalMs);
    const back = await leader.waitForCondition('microvms', 'web', 'Running=True');
    expect(statusOf(back)).not.toHaveProperty('lastObservedTime');
    await leader.waitForCondition('hosts', 'edge-1', 'Ready=True');
  });

  it('is not called silent by a new leader that has not listened long enough, and nothing is written then', async () => {
    stopBeating();
    const before = await leader.waitForCondition('microvms', 'web', 'Running=Unknown/HostSilent');
    // Far from the limit, so that the time a reading takes does not matter.
    await expect.poll(beatAgeMs, { timeout: 30_000 }).toBeGreaterThan(3 * missedBeatsMax * heartbeatIntervalMs);
    const mark = leader.kubernetes.audit.mark();
    await leader.restart();
    await leader.apply('microvms', 'last', microvmSpec({ siteRef: { name: 'nowhere' } }));
    await leader.waitForCondition('microvms', 'last', 'Accepted=False/SiteNotFound');
    expect((await leader.kubernetes.client.get(leader.path('microvms', 'web')))['status']).toEqual(before['status']);
    expect(leader.kubernetes.audit.writesSince(mark).filter((event) => event.requestURI.includes('/microvms/web'))).toEqual([]);
  });

  it('is not given new microVMs, and the reason is counted', async () => {
    await leader.apply('microvms', 'unlucky', microvmSpec());
    expect(messageOf(await leader.waitForCondition('microvms', 'unlucky', 'Scheduled=False/NoHostFits'), 'Scheduled')).toBe('0 of 1 host fits: 1 is silent');
  });

  it('holds a deletion until it confirms it or a person gives it up by name, and is told when it comes back', async () => {
    cutLink();
    await leader.remove('microvms', 'web');
    const blocked = await leader.waitForCondition('microvms', 'web', 'DeletionBlocked=True/HostSilent');
    const uid = String(blocked.metadata.uid);
    expect(messageOf(blocked, 'DeletionBlocked')).toContain(`nkudo.dev/force-delete=${uid}`);
    const annotate = (value: string) =>
      leader.kubernetes.client.request('PATCH', leader.path('microvms', 'web'), { metadata: { annotations: { 'nkudo.dev/force-delete': value } } }, 'application/merge-patch+json');
    // Another UID is another object: it stays, also when it was looked at after that.
    await annotate('00000000-0000-4000-8000-000000000000');
    await leader.apply('microvms', 'last-2', microvmSpec({ siteRef: { name: 'nowhere' } }));
    await leader.waitForCondition('microvms', 'last-2', 'Accepted=False/SiteNotFound');
    expect(await leader.kubernetes.client.find(leader.path('microvms', 'web'))).not.toBeNull();
    await annotate(uid);
    await leader.waitUntilGone('microvms', 'web');
    await machine.connect();
    expect((await machine.claim()).map(({ kind, microvmId }) => [kind, microvmId])).toContainEqual(['Delete', uid]);
    const [row] = await leader.rows.query('SELECT tombstoned_at IS NOT NULL AS tombstoned FROM nkudo.microvms WHERE id = $1', [uid]);
    expect(row).toEqual({ tombstoned: true });
  });
});
