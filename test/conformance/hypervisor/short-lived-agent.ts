/**
 * A process that stands for an agent which is killed: `stay` spawns a VMM, says so on its standard
 * output and waits for its end; `die-after-reaper` is killed between starting the reaper and anything
 * else. Arguments: what, directory, binary.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createCloudHypervisor } from '#edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { startReaper } from '#edge-agent/adapters/cloud-hypervisor/reaper.ts';
import { runFolder } from '#edge-agent/adapters/cloud-hypervisor/vm-files.ts';

const [what, directory, binary] = process.argv.slice(2);
if (what === undefined || directory === undefined || binary === undefined) throw new Error('three arguments are needed');
const environment = { PATH: process.env['PATH'] ?? '' };
if (what === 'die-after-reaper') {
  mkdirSync(join(directory, runFolder), { mode: 0o700, recursive: true });
  void startReaper({ vmDirectory: directory, command: [binary, '--api-socket', `path=${runFolder}/api.sock`], environment });
  process.kill(process.pid, 'SIGKILL');
}
await createCloudHypervisor({ binaryPath: binary, environment }).spawn(directory, new AbortController().signal);
process.stdout.write('spawned\n');
setInterval(() => undefined, 60_000);
