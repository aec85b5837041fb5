import { expect, it } from 'vitest';
import type { Logger } from '../ports/logger.ts';
import { createTrustedTime } from './trusted-time.ts';

const hourMs = 3_600_000;
const serverMs = Date.UTC(2030, 0, 1);

function fixture(input: { readonly wallMs: number; readonly newestMs: number }) {
  const now = { wallMs: input.wallMs, bootMs: 5_000, bootId: 'b' };
  const saved: number[] = [];
  const warnings: string[] = [];
  const logger: Logger = { debug: () => {}, info: () => {}, warn: (_, text) => void warnings.push(text), error: () => {}, child: () => logger };
  const time = createTrustedTime({ newestMs: input.newestMs, save: (ms) => void saved.push(ms), clock: { now: () => now, after: () => () => {} }, logger });
  return { now, saved, warnings, time };
}

it('goes by the newest time it knows while the wall clock lags behind that, and by the wall clock otherwise', () => {
  expect(fixture({ wallMs: 0, newestMs: serverMs }).time.now()).toBe(serverMs);
  expect(fixture({ wallMs: serverMs + hourMs, newestMs: serverMs }).time.now()).toBe(serverMs + hourMs);
});

it('goes by the control plane once it has heard its time, however wrong the wall clock is and is set meanwhile', () => {
  const { now, time, warnings } = fixture({ wallMs: serverMs + 400 * 24 * hourMs, newestMs: 0 });
  time.learn(serverMs);
  now.bootMs += hourMs;
  now.wallMs = 0;
  expect(time.now()).toBe(serverMs + hourMs);
  expect(warnings).toHaveLength(1);
});

it('moves the newest time forward, never back, and writes it down only when that is worth a write', () => {
  const { saved, time } = fixture({ wallMs: serverMs, newestMs: serverMs });
  time.learn(serverMs + 1_000);
  time.learn(serverMs - hourMs);
  expect(time.newestMs()).toBe(serverMs + 1_000);
  expect(saved).toEqual([]);
  time.learn(serverMs + hourMs);
  expect(saved).toEqual([serverMs + hourMs]);
});
