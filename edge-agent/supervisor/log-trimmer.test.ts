import { expect, test } from 'vitest';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import type { LogBounds } from '../domain/log-bounds.ts';
import type { Logger } from '../ports/logger.ts';
import { createLogTrimmer } from './log-trimmer.ts';

const kibibyte = 2 ** 10;
const bounds: LogBounds = { headBytes: 64 * kibibyte, tailBytes: 128 * kibibyte, stepBytes: 32 * kibibyte };

function scene(canFree = true) {
  const freed: (readonly [string, number, number])[] = [];
  const warnings: string[] = [];
  let atOnce = 0;
  let release = (): void => {};
  const silent = { debug() {}, info() {}, warn: (_fields: object, message: string) => void warnings.push(message), error() {} };
  const logger: Logger = { ...silent, child: () => logger };
  const trimmer = createLogTrimmer({
    space: {
      async free(path, from, to) {
        atOnce += 1;
        expect(atOnce).toBe(1);
        await new Promise<void>((resolve) => (release = resolve));
        freed.push([path, from / kibibyte, to / kibibyte]);
        atOnce -= 1;
        return canFree;
      },
    },
    faults: inertFaultPoints(),
    logger,
  });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  return {
    trimmer, freed, warnings,
    see: (path: string, kibibytes: number) => trimmer.seen(path, kibibytes * kibibyte, bounds),
    /** Lets what is under way end. */
    finish: async () => {
      for (let rounds = 0; rounds < 5; rounds += 1) {
        await turn();
        release();
      }
      await turn();
    },
  };
}

test('frees what lies between head and tail when that is worth it, each part once', async () => {
  const { see, finish, freed } = scene();
  see('a', 192);
  see('a', 223);
  await finish();
  expect(freed).toEqual([]);
  see('a', 224);
  await finish();
  see('a', 224);
  see('a', 255);
  await finish();
  expect(freed.splice(0)).toEqual([['a', 64, 96]]);
  see('a', 1_024);
  await finish();
  expect(freed).toEqual([['a', 96, 896]]);
});

test('begins anew with a file that a boot has emptied, or that is another one', async () => {
  const { see, finish, freed, trimmer } = scene();
  see('a', 1_024);
  await finish();
  see('a', 10);
  see('a', 300);
  await finish();
  trimmer.forget('a');
  see('a', 400);
  await finish();
  expect(freed).toEqual([['a', 64, 896], ['a', 64, 172], ['a', 64, 272]]);
});

test('frees one at a time, with what has grown meanwhile, and ends what is under way', async () => {
  const { see, finish, freed, trimmer } = scene();
  see('a', 300);
  see('b', 300);
  see('a', 600);
  const stopped = trimmer.stop();
  await finish();
  await stopped;
  see('c', 1_024);
  await finish();
  expect(freed).toEqual([['a', 64, 172]]);
});

test('says once of each log that it can not be bounded, and tries again when it has grown', async () => {
  const { see, finish, freed, warnings } = scene(false);
  see('a', 300);
  await finish();
  see('a', 301);
  await finish();
  see('a', 400);
  await finish();
  expect(freed).toEqual([['a', 64, 172], ['a', 172, 272]]);
  expect(warnings).toEqual(['the log of a VMM grows without a bound: its file system or the programs of the host can not make holes in files']);
});
