import { expect, test } from 'vitest';
import { identify, isAlive, parseProcStat, readBootId } from './process-table.ts';

const fields = `S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20`;

test('reads state and start time behind a command name that holds anything', () => {
  expect(parseProcStat(`12 (sh) ${fields}`)).toEqual({ state: 'S', startTime: '4711' });
  expect(parseProcStat(`12 (a) R 1 (b c) ${fields}`)).toEqual({ state: 'S', startTime: '4711' });
  expect(parseProcStat('12 (cut')).toBe(null);
});

test('takes a process for alive only with its start time and its boot', async () => {
  const bootId = await readBootId();
  const self = await identify(process.pid, bootId);
  if (self === null) throw new Error('this process exists');
  expect(await isAlive(self, bootId)).toBe(true);
  expect(await isAlive({ ...self, startTime: `${self.startTime}1` }, bootId)).toBe(false);
  expect(await isAlive(self, 'another boot')).toBe(false);
  expect(await isAlive({ ...self, pid: 2 ** 22 + 1 }, bootId)).toBe(false);
});
