/** Removes the directory with sockets, logs, disks and identity, after the disks that stay were moved away. Only reached when no VMM lives in it. */
import type { Step } from './step.ts';

export const removeDirectory: Step = {
  name: 'removeDirectory',
  faultStep: 'vmdir.remove',
  isNeeded: (view) => view.directory.exists,
  perform: async ({ directories, disks, record }) => {
    await disks.release(record.microvmId, record.desired);
    await directories.remove(record.microvmId);
  },
  verify: (view) => !view.directory.exists,
};
