/** What a collector that misbehaves may cost: spans, and nothing of the controller. */
import { expect, it } from 'vitest';
import { createTracing } from './tracing.ts';

it('a collector that refuses the last spans does not make the stop fail', async () => {
  let asked = 0;
  const refuse = {
    export: (_spans: unknown, done: (result: { code: number; error: Error }) => void) => {
      asked += 1;
      done({ code: 1, error: new Error('Not Found') });
    },
    shutdown: () => Promise.resolve(),
  };
  const tracing = createTracing({ replica: 'replica-1', exporter: refuse });
  tracing.record({ name: 'publish', operationId: '00000000-0000-4000-8000-000000000001', startMs: 1, endMs: 2 });
  await expect(tracing.stop()).resolves.toBeUndefined();
  expect(asked).toBe(1);
});
