/**
 * A real Cloud Hypervisor on the tap that the adapter made: it opens the tap as it is, keeps it, and
 * leaves it behind. The guest has no network driver, so packets through it are not shown here.
 */
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import { deriveMac } from '#api/model/mac.ts';
import type { NetworkSpec } from '#api/model/microvm.ts';
import { createCloudHypervisor } from '#edge-agent/adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { openDevice, vmmDevices } from '#edge-agent/adapters/isolation/devices.ts';
import { ensureOwnFolder } from '#edge-agent/adapters/isolation/vmm-users.ts';
import { createGuestNetworks } from '#edge-agent/adapters/network/guest-networks.ts';
import { tapName } from '#edge-agent/domain/tap-name.ts';
import type { Hypervisor, VmSpec } from '#edge-agent/ports/hypervisor.ts';
import type { GuestNetworks } from '#edge-agent/ports/network.ts';
import { buildGuest } from '#hack/build-guest.ts';
import { realObstacle } from '#hack/demo/hypervisor.ts';
import { findObstacle, openLab, type Lab } from './lab.ts';

const obstacle = (await findObstacle()) ?? realObstacle();
if (obstacle !== null) process.stdout.write(`skipped: networks on a real cloud-hypervisor: ${obstacle}\n`);

describe.skipIf(obstacle !== null)('a real VMM on a tap of the adapter', () => {
  const id = microVMId('00000000-0000-4000-8000-000000000031');
  const network: NetworkSpec = { name: 'lan', kind: 'nat', mac: deriveMac(id, 'lan'), address: '10.87.0.31/24', gateway: '10.87.0.1', ports: [] };
  const tap = tapName(id, 'lan');
  const signal = AbortSignal.timeout(120_000);
  let lab: Lab;
  let networks: GuestNetworks;
  let hypervisor: Hypervisor;
  let base: string;
  let spec: VmSpec;

  beforeAll(async () => {
    lab = await openLab();
    const { guest64 } = await buildGuest();
    base = mkdtempSync(join(tmpdir(), 'nkudo-tap-'));
    const inside = join(base, 'vmm-inside');
    writeFileSync(inside, `#!/bin/sh\nexec ip netns exec ${lab.namespaces.host} cloud-hypervisor "$@"\n`, { mode: 0o755 });
    hypervisor = createCloudHypervisor({ binaryPath: inside, environment: { PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` } });
    networks = createGuestNetworks({ host: lab.host, owner: 'test', runtimeDirectory: lab.runtimeDirectory, vmmUserIdOf: () => 0, meshInterface: 'wt0', nameServers: [], mayEnableForwarding: true });
    spec = { cpuCount: 1, cpuMax: 1, memoryBytes: 64 * 2 ** 20, boot: { kind: 'kernel', path: guest64, cmdline: 'idle' }, disks: [], networks: [{ name: 'lan', tap, mac: network.mac }], serialLog: true };
  });
  afterAll(async () => {
    for (const name of ['one', 'two']) if (base !== undefined) await hypervisor.kill(join(base, name), signal).catch(() => {});
    await lab?.close();
    if (base !== undefined) rmSync(base, { recursive: true, force: true });
  });

  const carrier = async (): Promise<string> => (await lab.run(lab.namespaces.host, 'cat', `/sys/class/net/${tap}/carrier`)).trim();

  async function start(name: string): Promise<string> {
    const directory = join(base, name);
    mkdirSync(directory, { recursive: true });
    await hypervisor.spawn(directory, signal);
    await hypervisor.create(directory, spec, signal);
    return directory;
  }

  test('[E6] Cloud Hypervisor boots with the tap, holds it alone, and the tap outlives a killed VMM until it is removed', async () => {
    const pristine = await lab.snapshot();
    await networks.ensure(id, [network], signal);
    expect(await carrier()).toBe('0');
    const one = await start('one');
    await hypervisor.boot(one, signal);
    expect(await carrier()).toBe('1');
    expect(Object.keys(await hypervisor.counters(one, signal))).toContain('net-lan');
    const two = await start('two');
    await expect(hypervisor.boot(two, signal)).rejects.toMatchObject({ message: expect.stringContaining('tap') });
    await hypervisor.kill(two, signal);
    await hypervisor.kill(one, signal);
    expect(await carrier()).toBe('0');
    // The next VMM finds it as the first one did.
    await networks.ensure(id, [network], signal);
    const again = await start('one');
    await hypervisor.boot(again, signal);
    expect(await carrier()).toBe('1');
    await hypervisor.shutdownVmm(again, signal);
    await networks.remove(id, signal);
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] Cloud Hypervisor boots on an interface of the host, and the guest has the hardware address that the wire knows', async () => {
    const pristine = await lab.snapshot();
    const wire: NetworkSpec = { name: 'lan', kind: 'macvtap', mac: network.mac, parent: 'uplink', macvtapMode: 'bridge', ports: [] };
    await networks.ensure(id, [wire], signal);
    const one = await start('one');
    await hypervisor.boot(one, signal);
    expect(await carrier()).toBe('1');
    expect(await lab.run(lab.namespaces.host, 'ip', '-details', 'link', 'show', 'type', 'macvlan')).toMatch(new RegExp(`${network.mac}[\\s\\S]*macvlan mode bridge`));
    await hypervisor.kill(one, signal);
    await networks.remove(id, signal);
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E7] Cloud Hypervisor as a user of its own, shut in by Landlock, boots with the tap of that user', async () => {
    const userId = 1_900_000_042;
    const own = createGuestNetworks({ host: lab.host, owner: 'test', runtimeDirectory: lab.runtimeDirectory, vmmUserIdOf: () => userId, meshInterface: 'wt0', nameServers: [], mayEnableForwarding: true });
    const confined = createCloudHypervisor({ binaryPath: 'cloud-hypervisor', environment: { PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` }, landlock: 'try' });
    const groupIds = vmmDevices.map((device) => openDevice(device, 1_900_000_000)).filter((group) => group !== null);
    const user = { userId, groupIds };
    const groups = groupIds.length === 0 ? ['--clear-groups'] : ['--groups', groupIds.join()];
    const prefix = ['ip', 'netns', 'exec', lab.namespaces.host, 'setpriv', '--reuid', String(userId), '--regid', String(userId), ...groups, '--inh-caps=-all', '--ambient-caps=-all', '--bounding-set=-all', '--no-new-privs'];
    await own.ensure(id, [network], signal);
    const directory = join(base, 'one');
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { mode: 0o710 });
    chmodSync(directory, 0o710);
    chownSync(directory, 0, userId);
    ensureOwnFolder(join(directory, 'run'), userId);
    await confined.spawn(directory, signal, { confinement: { user, prefix, cgroups: [], oomFiles: [] } });
    await confined.create(directory, spec, signal, { user });
    await confined.boot(directory, signal);
    expect(await carrier()).toBe('1');
    const { landlock } = await confined.probe(signal);
    process.stdout.write(`[E7] Landlock with a tap: ${landlock}\n`);
    await confined.kill(directory, signal);
    // The next start is as another user, and makes the tap that user's.
    await networks.ensure(id, [network], signal);
    const again = await start('two');
    await hypervisor.boot(again, signal);
    expect(await carrier()).toBe('1');
    await hypervisor.kill(again, signal);
    await networks.remove(id, signal);
  });
});
