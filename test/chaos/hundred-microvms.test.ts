/**
 * One hundred microVMs on one host. How fast they are adopted and what they cost at rest is measured by
 * `npm run bench -- agent`; here is shown by what means: the agent looks at each once or twice, and does nothing else.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { MicroVMId } from '#api/model/ids.ts';
import { findProcessesOf } from '#hack/stack/run-directory.ts';
import { startKillCounter } from './edge/kill-counter.ts';
import { createEdgeMachine, newMicroVM } from './edge/machine.ts';

const count = 100;
/** vm.info for the state, and once more where the first look came before the worker knew what to look for. */
const callsMax = 3;
/** Reports, and one look at the names of the host's devices for each guest without cards: one may have been left by a change that a crash cut short. */
const isOnlyALook = (point: string): boolean => point.startsWith('report.send') || point.startsWith('net.ensure');

it(`[E3] ${count} microVMs on a host are adopted by an agent that starts again: the same processes, nothing written, nothing started, a call or two for each`, async () => {
  const counter = await startKillCounter();
  const machine = await createEdgeMachine({ hasNetwork: false, environment: { NKUDO_FAULT_SOCKET: counter.socketPath } });
  const { plane } = machine;
  await machine.start();
  const ids = Array.from({ length: count }, newMicroVM);
  await Promise.all(ids.map((id) => machine.carryOut(machine.order(id, 'Create', machine.desired(id, { disks: [] })))));
  await counter.settled();
  const vmms = machine.vmms();
  expect(vmms).toHaveLength(count);
  const callsOf = (id: MicroVMId): number => readFileSync(join(machine.directory(id), 'run', 'vmm.log'), 'utf8').split('API request event').length - 1;
  const processes = findProcessesOf(machine.stateDirectory).length;
  await machine.crash();
  const before = new Map(ids.map((id) => [id, callsOf(id)]));
  expect(Math.min(...before.values()), 'calls that the log of a VMM shows').toBeGreaterThan(0);
  counter.arm(null);
  const said = plane.observations.length;
  await machine.start();
  await plane.when('all of them to be reported running', () => new Set(plane.observations.slice(said).flatMap(({ microvmId, state }) => (state === 'running' ? [microvmId] : []))).size === count);
  const steps = counter.reached().filter((point) => !isOnlyALook(point));
  expect(steps, 'effects and durable writes of the adoption').toEqual([]);
  expect(machine.vmms()).toEqual(vmms);
  expect(findProcessesOf(machine.stateDirectory).length, 'processes').toBe(processes);
  const calls = ids.map((id) => callsOf(id) - (before.get(id) ?? 0));
  expect(Math.min(...calls), 'calls for a microVM').toBeGreaterThan(0);
  expect(Math.max(...calls), 'calls for a microVM').toBeLessThanOrEqual(callsMax);
  console.log(`[E3] ${count} adopted: ${calls.reduce((sum, each) => sum + each, 0)} calls, at most ${Math.max(...calls)} for one`);
}, 300_000);
