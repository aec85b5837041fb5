import { expect, test } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import { tapName, tapPrefixOf } from './tap-name.ts';

const id = (number: number) => microVMId(`00000000-0000-4000-8000-${number.toString(16).padStart(12, '0')}`);

test('names a tap by the UID and the network, within the 15 characters of Linux', () => {
  expect(tapName(id(1), 'lan')).toMatch(/^nkt[a-z2-7]{12}$/);
  expect(tapName(id(1), 'lan').startsWith(tapPrefixOf(id(1)))).toBe(true);
  // The devices of running guests are found again by this value after an upgrade.
  expect(tapName(id(1), 'lan')).toBe('nktwvn2ptaeyefq');
});

test('names the taps of 2,048 microVMs with 8 networks each differently, and no two microVMs alike', () => {
  const ids = Array.from({ length: 2_048 }, (_, number) => id(number));
  expect(new Set(ids.map(tapPrefixOf)).size).toBe(2_048);
  expect(new Set(ids.flatMap((each) => Array.from({ length: 8 }, (_, index) => tapName(each, `net${index}`)))).size).toBe(16_384);
});
