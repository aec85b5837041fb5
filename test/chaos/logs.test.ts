/**
 * Logs from a guest's serial file to a follower's screen, while agent, controller and network go away again and again: a
 * real agent, a real controller, a real Postgres, a proxy between them. Lines are numbered, so that a checker which knows
 * nothing else can tell whether each came once and in order.
 */
import { appendFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { credentials, Metadata } from '@grpc/grpc-js';
import { beforeAll, describe, expect, it } from 'vitest';
import { FleetServiceClient, type TailLogsResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { serverName } from '#controller/pki/certificates.ts';
import { createWorld, type TestHost, type World } from '#test/e2e/world.ts';
import { startTcpProxy, type TcpProxy } from '#test/harness/tcp-proxy.ts';
import { until } from '#test/harness/until.ts';
import { checkLines, checkPieces, createFollower, numberedLine, type Piece } from './log-checker.ts';
import { createRandom, isFullRun, sample, testSeed } from './seed.ts';

const lineCount = isFullRun ? 200_000 : 20_000;
/** Each kind of fault so often. */
const faultRounds = isFullRun ? 8 : 2;
const dropsInARow = 4;
const patience = { timeoutMs: 120_000 };
const mebibyte = 2 ** 20;

let world: World;
let host: TestHost;
let edge: TcpProxy;
let caPem: Buffer;
let token: string;

beforeAll(async () => {
  edge = await startTcpProxy(() => world.endpoints().edge);
  world = await createWorld({ controllerEnvironment: { NKUDO_ADVERTISE: edge.address, NKUDO_HEARTBEAT_INTERVAL_MS: '1000' } });
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
  const { kubernetes, namespace } = world;
  await kubernetes.kubectl(['create', 'serviceaccount', 'reader'], { namespace });
  await kubernetes.kubectl(['create', 'role', 'reader', '--verb=get,list,watch', '--resource=microvms.nkudo.dev', '--resource=microvms.nkudo.dev/log'], { namespace });
  await kubernetes.kubectl(['create', 'rolebinding', 'reader', '--role=reader', `--serviceaccount=${namespace}:reader`], { namespace });
  token = (await kubernetes.kubectl(['create', 'token', 'reader', '--audience', 'nkudo'], { namespace })).stdout.trim();
  const ca = await kubernetes.kubectl(['get', 'secret', 'nkudo-ca', '-o', 'jsonpath={.data.root\\.crt}'], { namespace: 'nkudo-system' });
  caPem = Buffer.from(ca.stdout, 'base64');
});

interface Guest {
  readonly uid: string;
  readonly serialLog: string;
}

async function startGuest(name: string): Promise<Guest> {
  await world.applyMicroVM(name);
  const object = await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
  const uid = object.metadata.uid ?? '';
  const vmm = host.vmms().find(({ directory }) => directory.includes(uid));
  if (vmm === undefined) throw new Error(`${name} has no VMM`);
  const serialLog = join(vmm.directory, 'run', 'serial.log');
  await until(() => readFileSync(serialLog, 'utf8').includes('NKUDO-IDLE'), 'the guest to have said all it has to say');
  return { uid, serialLog };
}

async function storedBytes(uid: string): Promise<number> {
  const [row] = await world.database.query('select coalesce(max(next_offset), 0)::float8 as bytes from nkudo.log_cursors where microvm_id = $1', [uid]);
  return Number(row?.['bytes']);
}

async function storedPieces(uid: string): Promise<readonly Piece[]> {
  const rows = await world.database.query('select incarnation::int as incarnation, byte_offset::float8 as byte_offset, gap_bytes::float8 as gap_bytes, data from nkudo.logs where microvm_id = $1 order by id', [uid]);
  return rows.map((row) => ({ incarnation: Number(row['incarnation']), offset: Number(row['byte_offset']), gapBytes: Number(row['gap_bytes']), data: row['data'] as Buffer })); // A bytea column.
}

function openTail(uid: string, options: { readonly follow: boolean }) {
  const client = new FleetServiceClient(world.endpoints().fleet, credentials.createSsl(caPem), { 'grpc.ssl_target_name_override': serverName, 'grpc.use_local_subchannel_pool': 1 });
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${token}`);
  const call = client.tailLogs({ namespace: world.namespace, microvmUid: uid, source: 'serial', tailBytes: 0, follow: options.follow, incarnation: 0, fromOffset: 0 }, metadata);
  call.on('error', () => {}); // Whoever waits for its end listens too.
  return { call, close: () => { call.cancel(); client.close(); } };
}

/** The whole log as a caller gets it. */
async function readAll(uid: string): Promise<Buffer> {
  const { call, close } = openTail(uid, { follow: false });
  const parts: Buffer[] = [];
  try {
    await new Promise<void>((resolve, reject) => {
      call.on('data', (answer: TailLogsResponse) => parts.push(answer.data));
      call.on('end', resolve);
      call.on('error', reject);
    });
  } finally {
    close();
  }
  return Buffer.concat(parts);
}

describe('logs', () => {
  it(`[C7] come to a follower once each and in order: ${lineCount} lines over kills of agent and controller and cuts of the network`, async () => {
    const seed = testSeed();
    console.log(`[C7] NKUDO_TEST_SEED=${seed}`);
    const random = createRandom(seed);
    const guest = await startGuest('talker');
    const follower = createFollower();
    let isDone = false;
    let following = openTail(guest.uid, { follow: true });
    const follow = async (): Promise<void> => {
      while (!isDone) {
        await new Promise<void>((resolve) => {
          following.call.on('data', (answer: TailLogsResponse) => follower.take(answer));
          following.call.on('error', () => resolve()).on('end', resolve).on('close', resolve);
        });
        following.close();
        if (!isDone) following = openTail(guest.uid, { follow: true });
      }
    };
    const faults: Readonly<Record<string, () => Promise<void>>> = {
      'agent kill -9': async () => {
        await host.crashAgent();
        await host.startAgent();
      },
      'controller kill -9': async () => {
        await world.crashController();
        await world.startController();
      },
      'connections dropped': async () => {
        for (let drop = 0; drop < dropsInARow; drop += 1) {
          await until(() => edge.open() > 0, 'the agent to connect', patience);
          edge.drop();
        }
      },
      'both killed': async () => {
        await Promise.all([world.crashController(), host.crashAgent()]);
        await Promise.all([world.startController(), host.startAgent()]);
      },
    };
    const plan = Array.from({ length: faultRounds }, () => sample(Object.keys(faults), 4, random)).flat();
    const followed = follow();
    let written = 0;
    const write = (lines: number): void => {
      let text = '';
      const end = Math.min(lineCount, written + lines);
      while (written < end) text += numberedLine((written += 1));
      // In two writes, the first of which ends anywhere in a line.
      const middle = Math.floor(random() * text.length);
      appendFileSync(guest.serialLog, text.slice(0, middle));
      appendFileSync(guest.serialLog, text.slice(middle));
    };
    for (const [round, name] of plan.entries()) {
      const before = await storedBytes(guest.uid);
      const untilLine = Math.floor(((round + 1) * lineCount) / plan.length);
      const faultAt = written + Math.floor(random() * (untilLine - written));
      let fault: Promise<void> | undefined;
      while (written < untilLine) {
        write(1 + Math.floor(random() * 150));
        if (written >= faultAt) fault ??= faults[name]?.();
        await new Promise((resolve) => setImmediate(resolve));
      }
      await fault;
      await until(async () => (await storedBytes(guest.uid)) > before, `bytes to be stored after ${name}`, patience);
    }
    const size = statSync(guest.serialLog).size;
    await until(async () => (await storedBytes(guest.uid)) === size, 'every byte to be stored', patience);
    await until(() => follower.bytes().byteLength >= size, 'every byte to be followed', patience);
    isDone = true;
    following.close();
    await followed;
    const file = readFileSync(guest.serialLog);
    const pieces = await storedPieces(guest.uid);
    expect(checkPieces(pieces)).toEqual([]);
    expect(checkLines(Buffer.concat(pieces.map((piece) => piece.data)).toString(), lineCount)).toEqual([]);
    expect(Buffer.concat(pieces.map((piece) => piece.data)).equals(file)).toBe(true);
    expect(follower.gaps()).toEqual([]);
    expect(follower.bytes().equals(file)).toBe(true);
    expect((await readAll(guest.uid)).equals(file)).toBe(true);
    console.log(`[C7] ${lineCount} lines, ${size} bytes in ${pieces.length} rows, over ${plan.length} faults and ${edge.cuts()} cut connections: each once, in order`);
  });

  it('[C7] are found wrong by the same checks when the store is off by one byte', async () => {
    const guest = await startGuest('defective');
    await until(async () => (await storedBytes(guest.uid)) === statSync(guest.serialLog).size, 'the first bytes to be stored', patience);
    await world.database.query(`create function nkudo.off_by_one() returns trigger language plpgsql as $$ begin new.next_offset := new.next_offset + 1; return new; end $$`);
    await world.database.query(`create trigger off_by_one before update on nkudo.log_cursors for each row when (new.microvm_id = '${guest.uid}') execute function nkudo.off_by_one()`);
    try {
      let text = '';
      for (let number = 1; number <= 3_000; number += 1) text += numberedLine(number);
      appendFileSync(guest.serialLog, text.slice(0, text.length / 2));
      const size = statSync(guest.serialLog).size;
      await until(async () => (await storedBytes(guest.uid)) >= size, 'the first half to be stored', patience);
      appendFileSync(guest.serialLog, text.slice(text.length / 2));
      await until(async () => (await storedBytes(guest.uid)) >= statSync(guest.serialLog).size, 'the second half to be stored', patience);
    } finally {
      await world.database.query('drop trigger off_by_one on nkudo.log_cursors');
    }
    const pieces = await storedPieces(guest.uid);
    const findings = [...checkPieces(pieces), ...checkLines(Buffer.concat(pieces.map((piece) => piece.data)).toString(), 3_000)];
    console.log(`[C7] seeded defect: ${findings[0] ?? 'nothing was found'}`);
    expect(findings).not.toEqual([]);
  });
});

describe('a reader that takes nothing', () => {
  const readers = 8;
  const logBytes = 40 * mebibyte;

  /** Highest resident memory of the controller while the work runs. */
  async function peakBytes(work: () => Promise<unknown>): Promise<number> {
    const { pid } = world.controller();
    writeFileSync(`/proc/${pid}/clear_refs`, '5'); // Resets the mark.
    await work();
    return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
  }

  it('[C7] costs the controller at most 16 MB, and does not hold up the others', async () => {
    const guest = await startGuest('big');
    await until(async () => (await storedBytes(guest.uid)) > 0, 'its first bytes to be stored', patience);
    // A log that is far bigger than what a reader may cost, put there at once.
    await world.database.query(
      `insert into nkudo.logs (tenant_id, microvm_id, source, incarnation, byte_offset, gap_bytes, data)
        select tenant_id, microvm_id, source, incarnation, next_offset + n * 65536, 0, decode(repeat(md5(n::text), 2048), 'hex') || decode(repeat(md5(n::text), 2048), 'hex')
        from nkudo.log_cursors, generate_series(0, ${logBytes / 65_536 - 1}) n where microvm_id = '${guest.uid}'`,
    );
    const healthy = async (): Promise<void> => {
      for (let round = 0; round < 2; round += 1) expect((await readAll(guest.uid)).byteLength).toBeGreaterThan(logBytes);
    };
    await healthy();
    const alone = await peakBytes(healthy);
    const stalled: ReturnType<typeof openTail>[] = [];
    const crowded = await peakBytes(async () => {
      for (let reader = 0; reader < readers; reader += 1) {
        const open = openTail(guest.uid, { follow: true });
        stalled.push(open);
        // It gets its first piece, and takes no other.
        await new Promise<void>((resolve, reject) => {
          open.call.once('data', () => {
            open.call.pause();
            resolve();
          });
          open.call.once('error', reject);
        });
      }
      await healthy();
    });
    for (const open of stalled) open.close();
    const each = (crowded - alone) / readers;
    console.log(`[C7] ${readers} stalled readers of a log of ${logBytes / mebibyte} MiB: ${(each / mebibyte).toFixed(1)} MiB each (${(alone / mebibyte).toFixed(0)} MiB without, ${(crowded / mebibyte).toFixed(0)} MiB with them)`);
    expect(each).toBeLessThanOrEqual(16 * mebibyte);
  });
});
