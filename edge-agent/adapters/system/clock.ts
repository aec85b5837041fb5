/** The machine's clocks and randomness. CLOCK_BOOTTIME is read from /proc/uptime, since Node has no call for it. */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Clock, Entropy } from '../../ports/clock.ts';

/** Longest wait of one timer: setTimeout overflows above. */
const timerMaxMs = 2 ** 31 - 1;

export function createSystemClock(): Clock {
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return {
    now: () => ({ wallMs: Date.now(), bootMs: readUptimeMs(), bootId }),
    after(ms, callback) {
      const timer = setTimeout(callback, Math.min(timerMaxMs, Math.max(0, ms))).unref();
      return () => clearTimeout(timer);
    },
  };
}

function readUptimeMs(): number {
  const seconds = Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]);
  return Math.round(seconds * 1000);
}

export const systemEntropy: Entropy = { random: Math.random, uuid: randomUUID };
