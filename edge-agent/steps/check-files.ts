/** Checks files and memory before anything is started, so that a bad spec leaves nothing half-made. Changes nothing. */
import { AppError } from '#api/model/error-codes.ts';
import { vmmOverheadBytes } from '#api/model/capacity.ts';
import type { Step } from './step.ts';

export const checkFiles: Step = {
  name: 'checkFiles',
  isNeeded: () => true,
  perform: async ({ files, record, hostMemoryBytes }) => {
    const memoryBytes = record.desired?.memoryBytes ?? 0;
    if (memoryBytes + vmmOverheadBytes > hostMemoryBytes) {
      throw new AppError('NOT_ENOUGH_MEMORY', `the microVM asks for ${memoryBytes} bytes, the host has ${hostMemoryBytes} and each VMM needs ${vmmOverheadBytes}`);
    }
    if (record.desired !== null) await files.check(record.desired);
  },
  verify: () => true,
};
