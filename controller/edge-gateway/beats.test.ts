import { pino } from 'pino';
import { expect, test } from 'vitest';
import { hostId, sessionId, tenantId } from '#api/model/ids.ts';
import type { HeardBeat } from '#controller/ports/host-store.ts';
import { createMetrics } from '#controller/telemetry/metrics.ts';
import { createBeats } from './beats.ts';

const beat = {
  tenantId: tenantId('00000000-0000-4000-8000-000000000001'),
  hostId: hostId('00000000-0000-4000-8000-000000000002'),
  sessionId: sessionId('00000000-0000-4000-8000-000000000003'),
};

test('a beat is stored with the time that has passed since it came, also when storing failed meanwhile', async () => {
  let nowMs = 1_000;
  let isDown = true;
  const stored: (readonly HeardBeat[])[] = [];
  const beats = createBeats({
    hosts: {
      flushBeats: async (batch) => {
        if (isDown) throw new Error('the database is away');
        stored.push(batch);
      },
    },
    clock: { monotonicMs: () => nowMs },
    metrics: createMetrics().gateway,
    log: pino({ level: 'silent' }),
  });
  beats.add(beat);
  nowMs += 2_000;
  await beats.flush();
  isDown = false;
  nowMs += 5_000;
  await beats.flush();
  await beats.flush();
  expect(stored).toEqual([[{ ...beat, ageMs: 7_000 }]]);
});
