/**
 * The kernel's switch for IP forwarding, which guests behind the host need: switched on when it was off,
 * and off again when the last of them is gone. That it was off is noted in a file before it is changed;
 * the note lives as long as the boot, as the switch does.
 */
import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import type { HostNetwork } from './host-network.ts';

const forwardingSwitch = '/proc/sys/net/ipv4/ip_forward';

export interface Forwarding {
  isOn(): Promise<boolean>;
  /** Whether it was off before the first guest. While it is so, packets that are no guest's must be dropped. */
  isOurs(): Promise<boolean>;
  /** @throws NETWORK_UNAVAILABLE */
  note(): Promise<void>;
  /** After {@link note} and the rules. @throws NETWORK_UNAVAILABLE */
  switchOn(): Promise<void>;
  /** Idempotent; does nothing when it was on from the beginning. */
  restore(): Promise<void>;
}

export function createForwarding(host: HostNetwork, directory: string, mayChange: boolean): Forwarding {
  const noteFile = join(directory, 'forwarding-was-off');

  async function isOurs(): Promise<boolean> {
    try {
      await stat(noteFile);
      return true;
    } catch {
      return false; // Absent, or in a directory that is not ours to look into.
    }
  }

  return {
    isOn: async () => (await host.readSwitch(forwardingSwitch)) !== '0',
    isOurs,
    async note() {
      if (!mayChange) throw new AppError('NETWORK_UNAVAILABLE', `${forwardingSwitch} is 0, and the agent may not change it`);
      try {
        await mkdir(directory, { recursive: true, mode: 0o755 });
        await writeFile(noteFile, '');
      } catch (error) {
        throw new AppError('NETWORK_UNAVAILABLE', `${directory} can not be written; guest networks need root`, { cause: error });
      }
    },
    switchOn: () => host.writeSwitch(forwardingSwitch, '1'),
    async restore() {
      if (!(await isOurs())) return;
      await host.writeSwitch(forwardingSwitch, '0');
      await rm(noteFile, { force: true });
    },
  };
}
