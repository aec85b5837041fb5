/** Writes whose directory it is and under which fence, durable before any VMM starts in it. Never goes back. */
import { compareFence } from '../domain/microvm-record.ts';
import type { Step } from './step.ts';

export const writeIdentity: Step = {
  name: 'writeIdentity',
  faultStep: 'vmdir.identity',
  isNeeded: ({ directory, record }) => directory.identity === null || compareFence(directory.identity, record) <= 0,
  perform: ({ directories, record }) =>
    directories.writeIdentity({ microvmId: record.microvmId, epoch: record.epoch, revision: record.revision, incarnation: record.run.incarnation }),
  verify: ({ directory, record }) => directory.identity !== null && compareFence(directory.identity, record) >= 0,
};
