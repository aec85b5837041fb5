/** Makes the directory of the microVM. */
import type { Step } from './step.ts';

export const prepareDirectory: Step = {
  name: 'prepareDirectory',
  faultStep: 'vmdir.prepare',
  isNeeded: (view) => !view.directory.exists,
  perform: ({ directories, record }) => directories.prepare(record.microvmId),
  verify: (view) => view.directory.exists,
};
