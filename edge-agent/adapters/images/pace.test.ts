import { expect, test } from 'vitest';
import { createManualTime, settle } from '#test/fakes/manual-time.ts';
import { createPace } from './pace.ts';

const never = new AbortController().signal;

test('[E2] downloads share the bandwidth that a Site gives its hosts', async () => {
  const time = createManualTime();
  const pace = createPace({ now: () => ({ wallMs: time.nowMs(), bootMs: time.nowMs(), bootId: 'b' }), after: (ms, callback) => time.schedule(ms, callback) });
  const done: string[] = [];
  const receive = (name: string, bytes: number, signal = never): void => void pace.received(bytes, signal).then(() => done.push(name));
  receive('without a bound', 1_000_000);
  await settle();
  expect(done.splice(0)).toEqual(['without a bound']);
  pace.limit(1_000);
  receive('one', 500);
  receive('two', 1_000);
  await time.advance(499);
  expect(done).toEqual([]);
  await time.advance(1);
  expect(done).toEqual(['one']);
  // The second waits for its own bytes behind those of the first.
  await time.advance(999);
  expect(done).toEqual(['one']);
  await time.advance(1);
  expect(done.splice(0)).toEqual(['one', 'two']);
  // What the link was not used for is not saved up.
  await time.advance(60_000);
  receive('three', 1_000);
  await time.advance(999);
  expect(done).toEqual([]);
  const abort = new AbortController();
  receive('four', 1_000_000, abort.signal);
  abort.abort();
  await settle();
  expect(done.splice(0)).toEqual(['four']);
  await time.advance(1);
  expect(done).toEqual(['three']);
});
