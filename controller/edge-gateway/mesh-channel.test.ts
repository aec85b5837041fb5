import { pino } from 'pino';
import { expect, test, vi } from 'vitest';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import type { HeartbeatResponse } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { AppError } from '#api/model/error-codes.ts';
import { hostId, sessionId, tenantId, type HostId } from '#api/model/ids.ts';
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import type { ChangeHint } from '#controller/ports/dispatch-store.ts';
import type { MeshOrders, MeshReports } from '#controller/ports/mesh-orders.ts';
import { createMeshChannel, type MeshChannel } from './mesh-channel.ts';

const host = {
  tenantId: tenantId('00000000-0000-4000-8000-000000000001'),
  hostId: hostId('00000000-0000-4000-8000-000000000002'),
  sessionId: sessionId('00000000-0000-4000-8000-000000000003'),
};
const canary = 'CANARY-5F0C-KEY';

interface Scene {
  readonly channel: MeshChannel;
  readonly sent: HeartbeatResponse[];
  readonly stored: MeshReport[];
  readonly hints: ChangeHint[];
  readonly log: string[];
  readonly ended: AbortController;
}

function scene(mesh: Partial<MeshOrders & MeshReports> = {}): Scene {
  const sent: HeartbeatResponse[] = [];
  const stored: MeshReport[] = [];
  const hints: ChangeHint[] = [];
  const log: string[] = [];
  const ended = new AbortController();
  const channel = createMeshChannel(
    {
      log: pino({ level: 'trace' }, { write: (line: string) => void log.push(line) }),
      faults: inertFaultPoints(),
      hints: { publish: (hint) => void hints.push(hint), onHint: () => () => {}, onRemoteChange: () => () => {} },
      mesh: {
        loadOrders: async () => new Map<HostId, MeshOrder>(),
        issueKey: async () => null,
        recordReport: async (_host, seen) => {
          stored.push(seen);
          return true;
        },
        ...mesh,
      },
    },
    host,
    { send: async (message) => void sent.push(message), signal: ended.signal },
  );
  return { channel, sent, stored, hints, log, ended };
}

test('an order goes out once, and never after a newer one', async () => {
  const { channel, sent } = scene();
  for (const revision of [1, 1, 3, 2, 3]) channel.offer(order(revision));
  await vi.waitFor(() => expect(sent.map(({ message }) => message?.$case === 'mesh' && message.value.revision)).toEqual([1, 3]));
});

test('a host that asks gets a key with its order, once, and the key is in no log line', async () => {
  let finish = (): void => {};
  const asked = vi.fn<MeshOrders['issueKey']>(
    () =>
      new Promise((resolve) => {
        finish = () => resolve({ order: order(4), revealKey: () => canary });
      }),
  );
  const { channel, sent, stored, hints, log } = scene({ issueKey: asked });
  channel.report(report({ wantsKey: true }));
  await vi.waitFor(() => expect(asked).toHaveBeenCalledOnce());
  channel.report(report({ wantsKey: true, problem: 'again' }));
  await vi.waitFor(() => expect(stored).toHaveLength(2));
  finish();
  await vi.waitFor(() => expect(sent).toHaveLength(1));
  expect(sent[0]?.message).toEqual({ $case: 'mesh', value: { join: true, managementUrl: order(4).managementUrl, hostName: 'edge-1', setupKey: canary, revision: 4 } });
  expect(asked).toHaveBeenCalledOnce();
  expect(hints).toEqual(Array.from({ length: 2 }, () => ({ kind: 'host', tenantId: host.tenantId, hostId: host.hostId })));
  expect(log.join('')).not.toContain(canary);
});

test('a key that can not be had is no trouble: the next question is answered', async () => {
  let isAway = true;
  const { channel, sent, log } = scene({
    issueKey: async () => {
      if (isAway) throw new AppError('MESH_UNAVAILABLE');
      return { order: order(1), revealKey: () => canary };
    },
  });
  channel.report(report({ wantsKey: true }));
  await vi.waitFor(() => expect(log.join('')).toContain('MESH_UNAVAILABLE'));
  isAway = false;
  channel.report(report({ wantsKey: true }));
  await vi.waitFor(() => expect(sent).toHaveLength(1));
});

test('a report that changes nothing causes no hint, and a flood of reports is stored as its last one', async () => {
  let open = (): void => {};
  const stored: string[] = [];
  const { channel, hints } = scene({
    recordReport: async (_host, seen) => {
      stored.push(seen.problem);
      await new Promise<void>((resolve) => {
        open = resolve;
      });
      return false;
    },
  });
  for (let serial = 0; serial < 1_000; serial += 1) channel.report(report({ problem: String(serial) }));
  await vi.waitFor(() => expect(stored).toEqual(['0']));
  open();
  await vi.waitFor(() => expect(stored).toEqual(['0', '999']));
  open();
  expect(hints).toEqual([]);
});

test('a report that the database can not take now is stored later, unless a newer one came', async () => {
  let failures = 1;
  const stored: string[] = [];
  const { channel } = scene({
    recordReport: async (_host, seen) => {
      if (failures-- > 0) throw new AppError('DATABASE_UNAVAILABLE');
      stored.push(seen.problem);
      return true;
    },
  });
  channel.report(report({ problem: 'first' }));
  await vi.waitFor(() => expect(stored).toEqual(['first']), { timeout: 5_000 });
});

function order(revision: number): MeshOrder {
  return { join: true, managementUrl: 'https://mesh.example', hostName: 'edge-1', revision };
}

function report(change: Partial<MeshReport>): MeshReport {
  return {
    state: 'NeedsLogin',
    rawState: 'NeedsLogin',
    peerId: '',
    publicKey: '',
    address: '',
    fqdn: '',
    isManagementConnected: false,
    isSignalConnected: false,
    peersRelayed: 0,
    peersDirect: 0,
    problem: '',
    wantsKey: false,
    orderRevision: 1,
    daemonMemoryBytes: 0,
    ...change,
  };
}
