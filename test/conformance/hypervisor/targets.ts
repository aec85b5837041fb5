/**
 * The programs that the suite runs on: the simulator always, and a real cloud-hypervisor where one is
 * on PATH and /dev/kvm opens. Owns finding them and saying why one is left out.
 */
import { afterAll, describe, test } from 'vitest';
import { buildGuest } from '#hack/build-guest.ts';
import { buildSimulator } from '#hack/build-simulator.ts';
import { findOnPath, realObstacle } from '#hack/demo/hypervisor.ts';

export interface Target {
  readonly name: 'simulated' | 'real';
  readonly binary: string;
  readonly guest: string;
}

const { guest64 } = await buildGuest();

const simulated: Target = { name: 'simulated', binary: await buildSimulator(), guest: guest64 };
const real = findReal();

/** Runs a part of the suite on each target; a target that is left out becomes one skipped test with its reason. */
export function describeOnTargets(title: string, body: (target: Target) => void): void {
  describe(`${title} (simulated)`, () => body(simulated));
  if ('binary' in real) {
    describe(`${title} (real)`, () => body(real));
    return;
  }
  process.stdout.write(`hypervisor conformance: ${title} is not run on a real cloud-hypervisor: ${real.reason}\n`);
  test.skip(`${title} (real): ${real.reason}`, () => undefined);
}

/** Prints at the end of a part how many cells ran on a target. */
export function countCells(target: Target, title: string): { add: (count?: number) => void } {
  let cells = 0;
  afterAll(() => {
    process.stdout.write(`hypervisor conformance: ${title}: ${cells} cells on the ${target.name} cloud-hypervisor\n`);
  });
  return { add: (count = 1) => (cells += count) };
}

function findReal(): Target | { reason: string } {
  const reason = realObstacle();
  return reason === null ? { name: 'real', binary: findOnPath('cloud-hypervisor') ?? '', guest: guest64 } : { reason };
}
