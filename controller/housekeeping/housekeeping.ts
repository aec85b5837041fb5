/** What the leader does beside reconciling: links audit rows, and looks after partitions. */
import { createChainer } from '../audit/chainer.ts';
import { loadOrCreateSigningKey } from '../audit/signing-key.ts';
import { createSecrets } from '../adapters/kubernetes/secrets.ts';
import type { Core } from '../core.ts';
import { startLogExport } from './log-export.ts';
import { startLogRetention } from './log-retention.ts';

export interface Housekeeping {
  start(): void;
  /** Resolves when everything under way has ended. Does nothing when it was not started. */
  stop(): Promise<void>;
}

export function createHousekeeping(core: Core): Housekeeping {
  const { auditChain, config, hints, kubernetes, metrics, time } = core;
  const log = core.log.child({ part: 'housekeeping' });
  if (auditChain === null) log.warn('audit rows are not linked: set NKUDO_DATABASE_CHAINER_URL');
  const chainer =
    auditChain === null
      ? null
      : createChainer({
          chain: auditChain,
          loadSigner: async () => (await loadOrCreateSigningKey(createSecrets(kubernetes, config.namespace))).signer,
          hints,
          time,
          log: core.log.child({ part: 'audit' }),
          metrics: metrics.audit,
          checkpointIntervalMs: config.auditCheckpointIntervalMs,
        });
  let running: readonly { stop(): Promise<void> }[] = [];
  return {
    start: () => {
      const retention = startLogRetention({ maintenance: core.maintenance, time, log, metrics: metrics.logRetention, keepDays: config.logRetentionDays, keepMonths: config.executionRetentionMonths });
      const exports = core.logSink === null ? [] : [startLogExport({ store: core.database.logExports, sink: core.logSink, time, log, metrics: metrics.logExport })];
      running = [retention, ...exports, ...(chainer === null ? [] : [chainer.start()])];
    },
    stop: async () => {
      const ending = running;
      running = [];
      await Promise.all(ending.map((part) => part.stop()));
    },
  };
}
