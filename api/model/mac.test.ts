import { expect, test } from 'vitest';
import { microVMId } from './ids.ts';
import { deriveMac } from './mac.ts';

const id = (number: number) => microVMId(`00000000-0000-4000-8000-${number.toString(16).padStart(12, '0')}`);

test('derives one and the same locally administered unicast address from a UID and a name', () => {
  const mac = deriveMac(id(1), 'lan');
  expect(mac).toBe(deriveMac(id(1), 'lan'));
  expect(mac).toMatch(/^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/);
  // A guest keeps its address over upgrades only while this value stays.
  expect(mac).toBe('02:62:93:04:c8:97');
});

test('derives different addresses for 20,000 interfaces with nearly equal names', () => {
  const macs = new Set<string>();
  for (let number = 0; number < 5_000; number += 1) for (const name of ['a', 'b', 'lan', 'lan2']) macs.add(deriveMac(id(number), name));
  expect(macs.size).toBe(20_000);
});
