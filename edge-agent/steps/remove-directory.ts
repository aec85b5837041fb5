/** Removes the directory with sockets, logs and identity. Only reached when no VMM lives in it. */
import type { Step } from './step.ts';

export const removeDirectory: Step = {
  name: 'removeDirectory',
  faultStep: 'vmdir.remove',
  isNeeded: (view) => view.directory.exists,
  perform: ({ directories, record }) => directories.remove(record.microvmId),
  verify: (view) => !view.directory.exists,
};
