import { describe, expect, test } from 'vitest';
import type { DiskSpec } from '#api/model/microvm.ts';
import { testDesired, testNow, testRecord } from '#test/builders/edge-microvm.ts';
import { SimulatedHost } from '#test/fakes/simulated-host.ts';
import { chooseEvictions, coarseProgress, isAllowedServer, pinnedImages, readImageFormat, readTransferStart } from './images.ts';
import { machineKey } from './microvm-record.ts';

const image = { url: 'https://images.example/a.raw', sha256: 'a'.repeat(64) };
const disk = (isRetained = false): DiskSpec => ({ name: 'root', path: '', readOnly: false, managed: { persistence: 'Persistent', isRetained, image } });

describe('a file by its first bytes', () => {
  const qcow2 = (change: (head: Buffer) => void = () => {}): Buffer => {
    const head = Buffer.alloc(104);
    head.writeUInt32BE(0x514649fb, 0);
    head.writeUInt32BE(3, 4);
    head.writeBigUInt64BE(1_048_576n, 24);
    change(head);
    return head;
  };

  test('is qcow2 by its magic and raw otherwise', () => {
    expect(readImageFormat(qcow2())).toEqual({ format: 'qcow2', virtualBytes: 1_048_576 });
    expect([readImageFormat(Buffer.alloc(104)), readImageFormat(Buffer.alloc(3))]).toEqual([{ format: 'raw' }, { format: 'raw' }]);
  });

  test.each([
    ['a backing file', (head: Buffer) => head.writeBigUInt64BE(512n, 8)],
    ['the length of one', (head: Buffer) => head.writeUInt32BE(11, 16)],
    ['an external data file', (head: Buffer) => head.writeBigUInt64BE(4n, 72)],
  ])('is refused with %s', (_name, change) => {
    expect(() => readImageFormat(qcow2((head) => void change(head)))).toThrow(expect.objectContaining({ code: 'IMAGE_REFUSED' }));
  });
});

test.each([
  ['https://images.example/a', [], true],
  ['https://images.example/a', ['images.example'], true],
  ['https://images.example:8443/a', ['images.example'], false],
  ['https://images.example:8443/a', ['images.example:8443'], true],
  ['https://images.example/a', ['images.example:443'], true],
  ['https://images.example.evil/a', ['images.example'], false],
  ['https://images.example@evil.example/a', ['images.example'], false],
  ['https://images.example/shop/a', ['images.example/shop'], true],
  ['https://images.example/shopping/a', ['images.example/shop'], false],
  ['https://images.example/shop/../a', ['images.example/shop'], false],
])('%s with %j allowed: %s', (url, allowed, isAllowed) => {
  expect(isAllowedServer(new URL(url), allowed)).toBe(isAllowed);
});

test('a transfer goes on only with the very next byte', () => {
  const start = (status: number, contentRange?: string): string => {
    const answer = readTransferStart({ status, contentRange }, 10);
    return answer.kind === 'refused' ? answer.error.code : answer.kind;
  };
  expect([start(206, 'bytes 10-19/20'), start(200), start(206, 'bytes 0-19/20'), start(206), start(404), start(403), start(503), start(429)]).toEqual([
    'append', 'anew', 'IMAGE_UNAVAILABLE', 'IMAGE_UNAVAILABLE', 'IMAGE_NOT_FOUND', 'IMAGE_ACCESS_DENIED', 'IMAGE_UNAVAILABLE', 'IMAGE_UNAVAILABLE',
  ]);
});

test('the longest unused images go first, no more than needed, and never a pinned one', () => {
  const images = [['a', 3], ['b', 1], ['c', 2]].map(([sha256, usedAtMs]) => ({ sha256: String(sha256), usedAtMs: Number(usedAtMs), bytes: 10 }));
  const names = (pinned: string[], bytes: number): string[] => chooseEvictions(images, new Set(pinned), bytes).map(({ sha256 }) => sha256);
  expect([names([], 5), names([], 11), names(['b'], 11), names(['b'], 1000), names([], 0)]).toEqual([['b'], ['b', 'c'], ['c', 'a'], ['c', 'a'], []]);
});

test('images of guests that run or are being started are pinned', () => {
  const record = testRecord({ desired: testDesired({ disks: [disk()] }) });
  const pins = (isLive: boolean, change = {}): number => pinnedImages([{ record: { ...record, ...change }, isLive }]).size;
  expect([pins(true), pins(false), pins(false, { run: { ...record.run, phase: 'starting' } }), pins(true, { isDeleting: true })]).toEqual([1, 0, 1, 0]);
});

test('progress is told in quarters', () => {
  const told = new Set(Array.from({ length: 1001 }, (_, done) => coarseProgress(done, 1000)));
  expect([told.size, coarseProgress(10, undefined)]).toEqual([5, 'under way']);
});

test('what becomes of a disk in the end needs no restart', () => {
  expect(machineKey(testDesired({ disks: [disk(true)] }))).toBe(machineKey(testDesired({ disks: [disk(false)] })));
});

test('a guest is started only when its image has come, also when an agent is started anew meanwhile', () => {
  const host = new SimulatedHost(testRecord({ desired: testDesired({ disks: [disk()] }) }), testNow);
  host.isImageSlow = true;
  while (host.attempt.disksPending === undefined) host.turn();
  expect(host.spawned).toBe(0);
  host.disturb('agentRestarts');
  for (let turns = 0; turns < 100 && host.turn(); turns += 1);
  expect([host.spawned, host.vmm.kind]).toEqual([1, 'live']);
});
