/**
 * Loaded before the program of a process (`node --import`): its wall clock is that of the machine plus what is in the
 * file that NKUDO_TEST_CLOCK names, milliseconds, and so jumps whenever the file is written. The machine's own clock,
 * and that of every other process, stays as it is; timers, the monotonic clock and /proc/uptime know nothing of it.
 */
import { readFileSync } from 'node:fs';

const file = process.env['NKUDO_TEST_CLOCK'];
const realNow = Date.now;

function shiftedNow(): number {
  // Read each time, so that the jump is there with the next reading of the clock.
  return realNow() + (file === undefined ? 0 : Number(readFileSync(file, 'utf8')));
}

const MachineDate = Date;
MachineDate.now = shiftedNow;
globalThis.Date = new Proxy(MachineDate, {
  construct: (target, args, newTarget) => Reflect.construct(target, args.length === 0 ? [shiftedNow()] : args, newTarget === globalThis.Date ? target : newTarget),
  apply: () => new MachineDate(shiftedNow()).toString(),
});
MachineDate.prototype.constructor = globalThis.Date;
