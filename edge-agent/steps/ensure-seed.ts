/** Makes the disk that cloud-init reads, before a VMM opens it, or removes the one that the spec asks for no more. */
import { AppError } from '#api/model/error-codes.ts';
import { hasSeed } from '../domain/diff.ts';
import type { Step } from './step.ts';

export const ensureSeed: Step = {
  name: 'ensureSeed',
  faultStep: 'seed.ensure',
  isNeeded: (view) => !hasSeed(view),
  perform: async ({ seeds, record }) => {
    if (record.desired === null) throw new AppError('INTERNAL', 'a microVM without a desired state has no seed');
    await seeds.ensure(record.microvmId, record.desired);
  },
  verify: ({ record, directory }) => (record.desired?.cloudInit !== undefined) === (directory.hasSeed ?? false),
};
