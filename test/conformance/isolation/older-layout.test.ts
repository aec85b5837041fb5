/**
 * A VMM that an agent before the run folder has started: as the agent's own user, with its socket, events and logs
 * beside the files of the agent. It is adopted as it is, and the next one in its directory is confined.
 */
import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { createCloudHypervisor } from '#edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { startReaper } from '#edge-agent/adapters/cloud-hypervisor/reaper.ts';
import type { Hypervisor } from '#edge-agent/ports/hypervisor.ts';
import { describeOnTargets } from '#test/conformance/hypervisor/targets.ts';
import { until } from '#test/harness/until.ts';

const environment = { PATH: process.env['PATH'] ?? '' };
const signal = AbortSignal.timeout(110_000);
const undos: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const undo of undos.splice(0)) await undo();
});

describeOnTargets('the layout of earlier agents', (target) => {
  async function startOld(): Promise<{ readonly directory: string; readonly hypervisor: Hypervisor }> {
    const directory = mkdtempSync(join(tmpdir(), 'nkudo-old-'));
    const hypervisor = createCloudHypervisor({ binaryPath: target.binary, environment, landlock: 'try' });
    undos.push(async () => {
      await hypervisor.kill(directory, signal);
      rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
    });
    // Its reaper made no links to the run folder.
    const withoutLinks = ['/bin/sh', '-c', 'rm -f api.sock events vmm.log serial.log; exec "$@"', 'earlier-agent'];
    startReaper({ vmDirectory: directory, command: [...withoutLinks, target.binary, '--api-socket', 'path=api.sock', '--event-monitor', 'path=events', '-v', '--log-file', 'vmm.log'], environment });
    await until(async () => {
      const seen = await hypervisor.observe(directory, signal);
      return seen.kind === 'live' && seen.api === 'none';
    }, 'the VMM of the earlier agent to answer');
    return { directory, hypervisor };
  }

  test('is adopted with its guest, events and logs, and left behind by the next start', async () => {
    const { directory, hypervisor } = await startOld();
    const seen = await hypervisor.observe(directory, signal);
    if (seen.kind !== 'live') throw new Error('it lived a moment ago');
    expect(await hypervisor.spawn(directory, signal)).toEqual(seen.process);
    expect(existsSync(join(directory, 'run'))).toBe(false);
    await hypervisor.create(directory, { cpuCount: 1, cpuMax: 1, memoryBytes: 64 * 2 ** 20, boot: { kind: 'kernel', path: target.guest, cmdline: 'idle' }, disks: [], serialLog: true }, signal);
    await hypervisor.boot(directory, signal);
    expect(hypervisor.paths(directory)).toMatchObject({ serialLog: join(directory, 'serial.log'), vmmLog: join(directory, 'vmm.log') });
    await until(() => readFileSync(join(directory, 'serial.log'), 'utf8').includes('NKUDO-IDLE'), 'the guest to be up');
    const events: string[] = [];
    const following = (async () => {
      for await (const { event } of hypervisor.events(directory, null, signal)) events.push(event);
    })();
    await hypervisor.powerButton(directory, signal);
    await following;
    expect(events).toEqual(expect.arrayContaining(['starting', 'booting', 'booted']));
    expect(await hypervisor.observe(directory, signal)).toMatchObject({ kind: 'exited', exit: { reason: 'GuestShutdown', code: 0 } });

    const next = await hypervisor.spawn(directory, signal);
    expect(next.pid).not.toBe(seen.process.pid);
    expect(['run/api.sock', 'run/events'].map((name) => existsSync(join(directory, name)))).toEqual([true, true]);
    // What an earlier agent that comes back looks for leads to the files of this one.
    expect(['api.sock', 'events', 'vmm.log', 'serial.log'].map((name) => readlinkSync(join(directory, name)))).toEqual(['run/api.sock', 'run/events', 'run/vmm.log', 'run/serial.log']);
  });
});
