/** Removes all that was made on the host for the networks of the microVM. Only reached when no VMM uses it. */
import type { Step } from './step.ts';

export const removeNetworks: Step = {
  name: 'removeNetworks',
  faultStep: 'net.remove',
  isNeeded: (view) => view.attempt.areNetworksRemoved !== true,
  perform: ({ networks, record, signal }) => networks.remove(record.microvmId, signal),
  verify: (view) => view.attempt.areNetworksRemoved === true,
};
