/** Removes the directory with sockets, logs, disks and identity, after the disks that stay were moved away. Only reached when no VMM lives in it. */
import type { Step } from './step.ts';

export const removeDirectory: Step = {
  name: 'removeDirectory',
  faultStep: 'vmdir.remove',
  isNeeded: (view) => view.directory.exists,
  perform: async ({ directories, disks, isolation, record }) => {
    await disks.release(record.microvmId, record.desired);
    // While the directory is there, its user is nobody else's, and what limited its VMM can be found.
    await isolation.release(record.microvmId);
    await directories.remove(record.microvmId);
  },
  verify: (view) => !view.directory.exists,
};
