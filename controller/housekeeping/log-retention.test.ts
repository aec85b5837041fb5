import { expect, it } from 'vitest';
import { createManualTime } from '#test/fakes/manual-time.ts';
import type { LogPartitions } from '../ports/maintenance.ts';
import { startLogRetention } from './log-retention.ts';

function setUp(answers: readonly (LogPartitions | Error)[]) {
  const time = createManualTime();
  const asked: number[] = [];
  const logged: string[] = [];
  const metrics = { ahead: [] as number[], dropped: 0 };
  const log = (level: string) => (_fields: object, message: string): void => void logged.push(`${level}: ${message}`);
  const retention = startLogRetention({
    maintenance: {
      maintainLogs: (keepDays) => {
        asked.push(keepDays);
        const answer = answers[asked.length - 1] ?? { daysAhead: 14, made: 0, dropped: 0 };
        return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
      },
      maintainExecutions: () => Promise.resolve({ monthsAhead: 3, made: 0, dropped: 0 }),
      close: () => Promise.resolve(),
    },
    time,
    log: { info: log('info'), warn: log('warn'), error: log('error') },
    metrics: { setPartitionsAhead: (days) => void metrics.ahead.push(days), setExecutionPartitionsAhead: () => {}, countPartitionsDropped: (count) => (metrics.dropped += count) },
    keepDays: 14,
    keepMonths: 6,
  });
  return { time, asked, logged, metrics, retention };
}

it('looks at once and then every hour, and says only what it did', async () => {
  const { time, asked, logged, metrics, retention } = setUp([{ daysAhead: 14, made: 0, dropped: 0 }, { daysAhead: 14, made: 7, dropped: 1 }]);
  await time.advance(3_599_000);
  expect(asked).toEqual([14]);
  expect(logged).toEqual([]);
  await time.advance(2_000);
  expect(asked).toEqual([14, 14]);
  expect(logged).toEqual(['info: log partitions were made and dropped']);
  expect(metrics).toEqual({ ahead: [14, 14], dropped: 1 });
  await retention.stop();
  await time.advance(7_200_000);
  expect(asked).toHaveLength(2);
});

it('raises the alarm when fewer than two days are left, and tries again in a minute when it could not look', async () => {
  const { time, asked, logged, metrics } = setUp([{ daysAhead: 1, made: 0, dropped: 0 }, new Error('away')]);
  await time.advance(0);
  expect(logged).toEqual(['error: logs of the next days have no partition']);
  await time.advance(3_600_000);
  expect(logged.at(-1)).toBe('warn: partitions could not be looked after');
  await time.advance(60_000);
  expect(asked).toHaveLength(3);
  expect(metrics.ahead).toEqual([1, 14]);
});
