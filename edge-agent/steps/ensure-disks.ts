/** Makes the disks that the host makes itself, before a VMM opens them, or begins to fetch what they are made from. */
import { AppError } from '#api/model/error-codes.ts';
import { hasDisks } from '../domain/diff.ts';
import { disksToPlug } from '../domain/machine-change.ts';
import type { Step } from './step.ts';

/** An image is copied and hashed whole; a transfer is not part of it. */
const copyDeadlineMs = 3_600_000;

export const ensureDisks: Step = {
  name: 'ensureDisks',
  faultStep: 'disk.ensure',
  deadlineMs: copyDeadlineMs,
  isNeeded: (view) => !hasDisks(view),
  perform: async ({ view, disks, record, foundDisks, onImageNews, signal }) => {
    const { microvmId, desired, run } = record;
    if (desired === null) throw new AppError('INTERNAL', 'a microVM without a desired state has no disks');
    const only = disksToPlug(view);
    foundDisks(await disks.ensure({ microvmId, desired, incarnation: run.incarnation, ...(only === undefined ? {} : { only }) }, onImageNews, signal));
  },
  // The look after it shows nothing of a transfer that has just moved on.
  verify: () => true,
};
