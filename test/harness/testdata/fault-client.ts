/** A program with two steps and fault points around them. */
import { createFaultPoints, pointsOf } from '#api/fault-points/fault-points.ts';

const steps = ['step.one', 'step.two'] as const;
const faults = createFaultPoints({ socketPath: process.env['NKUDO_FAULT_SOCKET'], processName: 'edge', known: pointsOf(steps) });
await faults.reach('step.one:before');
process.stdout.write('one\n');
await faults.reach('step.one:after');
await faults.reach('step.two:before');
process.stdout.write('two\n');
