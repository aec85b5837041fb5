/**
 * The programs that the suite runs on: the simulator always, and a real cloud-hypervisor where one is
 * on PATH and /dev/kvm opens. Owns finding them and saying why one is left out.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { afterAll, describe, test } from 'vitest';
import { buildGuest } from '#hack/build-guest.ts';
import { buildSimulator } from '#hack/build-simulator.ts';

export interface Target {
  readonly name: 'simulated' | 'real';
  readonly binary: string;
  readonly guest: string;
}

const { guest64 } = await buildGuest();

const simulated: Target = { name: 'simulated', binary: await buildSimulator(), guest: guest64 };
const real = await findReal();

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

async function findReal(): Promise<Target | { reason: string }> {
  const binary = await findOnPath('cloud-hypervisor');
  if (binary === null) return { reason: 'no cloud-hypervisor on PATH' };
  try {
    closeSync(openSync('/dev/kvm', constants.O_RDWR));
  } catch (error) {
    return { reason: `/dev/kvm does not open: ${error instanceof Error ? error.message : String(error)}` };
  }
  return { name: 'real', binary, guest: guest64 };
}

async function findOnPath(name: string): Promise<string | null> {
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const candidate = join(directory, name);
    try {
      await access(candidate, constants.X_OK);
      return candidate;
    } catch {
      continue; // Not in this directory.
    }
  }
  return null;
}
