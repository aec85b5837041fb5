import { expect, test } from 'vitest';
import type { SiteOverride } from '#api/model/site-orders.ts';
import { decideOverride, type AskedRun, type NotedOrder } from './site-overrides.ts';

const override = (change: Partial<SiteOverride> = {}): SiteOverride => ({ kind: 'Stopped', number: 7, by: { user: 'alice', uid: 1001 }, atMs: 1, ...change });
const asked: AskedRun = { generation: 3, runPolicy: 'Always', restartNonce: 0 };
const noted: NotedOrder = { number: 7, ...asked };

test('an order that was not heard of yet is noted with the spec of now, whatever changed before', () => {
  expect(decideOverride(override(), null, asked, null)).toEqual({ action: 'note', note: { number: 7, ...asked } });
  expect(decideOverride(override({ number: 8 }), noted, { ...asked, generation: 4, restartNonce: 1 }, null)).toEqual({ action: 'note', note: { number: 8, generation: 4, runPolicy: 'Always', restartNonce: 1 } });
});

test('a stop ends with a new runPolicy or restartNonce of a later generation, and with no other change', () => {
  expect(decideOverride(override(), noted, asked, null)).toEqual({ action: 'keep' });
  expect(decideOverride(override(), noted, { ...asked, generation: 4 }, null)).toEqual({ action: 'keep' });
  expect(decideOverride(override(), noted, { ...asked, generation: 4, restartNonce: 1 }, null)).toEqual({ action: 'end', by: 'Spec' });
  expect(decideOverride(override({ kind: 'ForcedStart' }), noted, { ...asked, generation: 4, runPolicy: 'Halted' }, null)).toEqual({ action: 'end', by: 'Spec' });
});

test('a hold ends by force only, which names its number', () => {
  const held = override({ kind: 'Held' });
  expect(decideOverride(held, noted, { ...asked, generation: 9, runPolicy: 'Halted', restartNonce: 9 }, null)).toEqual({ action: 'keep' });
  expect(decideOverride(held, noted, asked, 6)).toEqual({ action: 'keep' });
  expect(decideOverride(held, noted, asked, 7)).toEqual({ action: 'end', by: 'Force' });
  expect(decideOverride(held, null, asked, 7)).toEqual({ action: 'end', by: 'Force' });
});
