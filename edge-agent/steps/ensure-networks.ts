/** Makes the taps of the microVM and what may pass them, before a VMM opens them, and follows changed ports. */
import { networksKey } from '../domain/diff.ts';
import { networksOf } from '../domain/machine-change.ts';
import type { Step } from './step.ts';

export const ensureNetworks: Step = {
  name: 'ensureNetworks',
  faultStep: 'net.ensure',
  isNeeded: (view) => view.attempt.networksFor !== networksKey(view.record),
  perform: async ({ networks, record, warn, signal }) => {
    for (const { code, message } of await networks.ensure(record.microvmId, networksOf(record), signal)) warn(code, message);
  },
  verify: (view) => view.attempt.networksFor === networksKey(view.record),
};
