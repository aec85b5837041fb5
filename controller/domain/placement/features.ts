/**
 * What a spec needs of the VMM and its host, against what the agent reports of both. Data, so that a new field adds a
 * row. A host whose VMM is the simulator has every feature: it says of itself that it is one.
 */
import type { HostFacts } from '#api/model/host.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';

interface Feature {
  readonly name: string;
  readonly isNeeded: (desired: DesiredMicroVM) => boolean;
  readonly isThere: (facts: HostFacts) => boolean;
}

/** Before it errors have no codes and a stale socket stops the start; measured on cloud-hypervisor v52 and v53. */
const oldestMajor = 53;

const features: readonly Feature[] = [
  { name: 'kvm', isNeeded: () => true, isThere: ({ hasKvm }) => hasKvm },
  { name: `vmm-${oldestMajor}`, isNeeded: () => true, isThere: ({ hypervisor }) => majorOf(hypervisor.version) >= oldestMajor },
];

export function featuresNeededBy(desired: DesiredMicroVM): readonly string[] {
  return features.filter(({ isNeeded }) => isNeeded(desired)).map(({ name }) => name);
}

export function featuresOf(facts: HostFacts): ReadonlySet<string> {
  const isSimulated = facts.hypervisor.kind === 'simulated';
  return new Set(features.filter(({ isThere }) => isSimulated || isThere(facts)).map(({ name }) => name));
}

/** Infinity for a version that does not begin with a number: what can't be read is not held against a host. */
function majorOf(version: string): number {
  const [, major] = /^v?(\d+)\./.exec(version) ?? [];
  return major === undefined ? Infinity : Number(major);
}
