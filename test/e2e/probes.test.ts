/**
 * Probes on the whole product: what kubectl shows of a guest whose ports open and close. A client in a network namespace
 * on the real tap stands for the guest, behind the simulator, which opens no tap. Console, vsock and panic need no
 * network: they are the test guest's own, so they run on whatever VMM the suite has.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { deriveMac } from '#api/model/mac.ts';
import { microVMId } from '#api/model/ids.ts';
import { tapName } from '#edge-agent/domain/tap-name.ts';
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { findObstacle, openLab, type Lab } from '../integration/network/lab.ts';
import { openGate } from './loopback-gate.ts';
import { conditionOf, createWorld, statusOf, type TestHost, type World } from './world.ts';

const obstacle = process.env['NKUDO_TEST_HYPERVISOR'] === undefined ? await findObstacle() : 'a real VMM holds the taps that the test wants to use';
if (obstacle !== null) process.stdout.write(`skipped: probes over the network end to end: ${obstacle}\n`);

const restartsOf = (object: KubernetesObject): { readonly count: number; readonly lastExitReason?: string } => (statusOf(object)['restarts'] ?? { count: 0 }) as { count: number; lastExitReason?: string }; // As in the CRD.
const readyOf = (object: KubernetesObject): string => `${conditionOf(object, 'Ready')?.status ?? ''} ${conditionOf(object, 'Ready')?.reason ?? ''}`;
const uidOf = (object: KubernetesObject): string => String(object.metadata.uid);
const vmmsOf = (host: TestHost, object: KubernetesObject) => host.vmms().filter((vmm) => vmm.directory.includes(uidOf(object)));
const often = { period: '1s', timeout: '5s', failureThreshold: 1 };

describe.skipIf(obstacle !== null)('probes over the network', () => {
  let lab: Lab;
  let world: World;
  let host: TestHost;

  beforeAll(async () => {
    lab = await openLab();
    fileScope().defer(() => lab.close());
    world = await createWorld({ agent: () => ({ through: ['ip', 'netns', 'exec', lab.namespaces.host], environment: { NKUDO_RUNTIME_DIR: lab.runtimeDirectory } }) });
    await world.startController();
    await openGate(lab.namespaces.host, world.endpoints().edge);
    await world.createSite('shop-1', { natSubnet: '10.87.0.0/24' });
    host = await world.addHost('edge-1');
  });

  const untilReady = (what: string) => world.waitUntil('microvms', 'web', `Ready to be ${what}`, (object) => readyOf(object) === what);

  it('Ready is False, True while the guest answers, and False when it does not; liveness restarts it, counted with its reason', async () => {
    await world.applyMicroVM('web', {
      networks: [{ name: 'lan', nat: {} }],
      probes: {
        startup: { tcp: { port: 81 }, ...often, failureThreshold: 100 },
        readiness: { tcp: { port: 80 }, ...often },
        liveness: { tcp: { port: 81 }, ...often, failureThreshold: 2 },
      },
    });
    const begun = await untilReady('False ProbePending');
    expect(conditionOf(begun, 'Running')?.status).toBe('True');
    const [vmm] = vmmsOf(host, begun);

    const uid = microVMId(uidOf(begun));
    const address = (statusOf(begun)['addresses'] as readonly { readonly address: string }[])[0]?.address ?? ''; // As in the CRD.
    const { namespace } = await lab.plugGuest(tapName(uid, 'lan'), deriveMac(uid, 'lan'));
    await lab.run(namespace, 'ip', 'address', 'add', `${address}/24`, 'dev', 'eth0');
    // Up, and not ready: startup is through, so liveness is asked and readiness fails.
    const alive = await lab.start(namespace, 'serve', 'tcp', '81');
    const refused = await untilReady('False ProbeFailed');
    expect(conditionOf(refused, 'Ready')?.message).toBe(`its readiness probe fails: no connection to ${address} port 80: ECONNREFUSED`);
    const serving = await lab.start(namespace, 'serve', 'tcp', '80');
    expect(conditionOf(await untilReady('True ProbeSucceeded'), 'Ready')?.message).toBe('its readiness probe succeeds');
    await serving.stop();
    await untilReady('False ProbeFailed');
    const again = await lab.start(namespace, 'serve', 'tcp', '80');
    await untilReady('True ProbeSucceeded');

    // The agent's own restart is none of the guest's.
    await host.crashAgent();
    await host.startAgent();
    await host.agent().waitForLine((line) => line.includes('a probe shows something else'));
    const kept = await untilReady('True ProbeSucceeded');
    expect(vmmsOf(host, kept)).toEqual([vmm]);
    expect(restartsOf(kept).count).toBe(0);

    await alive.stop();
    const restarted = await world.waitUntil('microvms', 'web', 'one counted restart, running again', (object) => restartsOf(object).count === 1 && conditionOf(object, 'Running')?.status === 'True');
    expect(restartsOf(restarted).lastExitReason).toBe('Unhealthy');
    expect(vmmsOf(host, restarted)[0]?.pid).not.toBe(vmm?.pid);
    // Started up anew: until then it is not ready, and liveness is not asked.
    await untilReady('False ProbePending');
    await again.stop();
  });
});

describe('probes of the guest itself', () => {
  let world: World;
  let host: TestHost;

  beforeAll(async () => {
    world = await createWorld();
    await world.startController();
    await world.createSite();
    host = await world.addHost('edge-1');
  });

  const boot = (cmdline: string) => ({ kernel: { path: world.guest, cmdline } });
  const untilReady = (name: string, what: string) => world.waitUntil('microvms', name, `Ready to be ${what}`, (object) => readyOf(object) === what);

  it('what it prints and its vsock port prove it; a paused guest is not ready, and is proved anew afterwards', async () => {
    await world.applyMicroVM('itself', {
      boot: boot('vsock 1024'),
      vsock: {},
      console: { serial: 'Interactive' },
      probes: { startup: { console: { contains: 'NKUDO-VSOCK ready' }, ...often, failureThreshold: 100 }, readiness: { vsock: { port: 1024 }, ...often }, liveness: { vsock: { port: 1024 }, ...often } },
    });
    const object = await untilReady('itself', 'True ProbeSucceeded');
    await world.patchMicroVM('itself', { paused: true });
    await untilReady('itself', 'False Paused');
    await world.patchMicroVM('itself', { paused: false });
    await untilReady('itself', 'True ProbeSucceeded');
    // A port on which the guest refuses.
    await world.patchMicroVM('itself', { probes: { readiness: { vsock: { port: 7 }, ...often } } });
    expect(conditionOf(await untilReady('itself', 'False ProbeFailed'), 'Ready')?.message).toBe('its readiness probe fails: no connection to vsock port 7: refused by the guest');
    const log = join(vmmsOf(host, object)[0]?.directory ?? '', 'run', 'serial.log');
    await until(() => Promise.resolve(readFileSync(log, 'utf8').includes('NKUDO-VSOCK refused 7')), 'the refusal in the log');
    await host.crashAgent();
    await host.startAgent();
    // The agent goes on in the log of the same boot, with a mark.
    await until(() => Promise.resolve(/NKUDO-GUEST-READY[\s\S]*the console was not read for a while/.test(readFileSync(log, 'utf8'))), 'the mark in the log');
    const after = await untilReady('itself', 'False ProbeFailed');
    expect(restartsOf(after).count).toBe(0);
  });

  it('a guest that never starts up is restarted', async () => {
    await world.applyMicroVM('never', { probes: { startup: { console: { contains: 'login:' }, ...often, failureThreshold: 2 } } });
    const object = await world.waitUntil('microvms', 'never', 'a counted restart', (seen) => restartsOf(seen).count >= 1);
    expect(restartsOf(object).lastExitReason).toBe('Unhealthy');
  });

  it('a guest that panics and stands still is ended as GuestPanic, and run again if its policy says so', async () => {
    await world.applyMicroVM('panics', { boot: boot('panic 200') });
    await world.applyMicroVM('panics-once', { boot: boot('panic 200'), runPolicy: 'Once' });
    expect(restartsOf(await world.waitUntil('microvms', 'panics', 'a counted restart', (seen) => restartsOf(seen).count >= 1)).lastExitReason).toBe('GuestPanic');
    const final = await world.waitForCondition('microvms', 'panics-once', { type: 'Running', status: 'False', reason: 'GuestPanic' });
    expect(restartsOf(final)).toMatchObject({ count: 0, lastExitReason: 'GuestPanic' });
    await until(() => Promise.resolve(vmmsOf(host, final).length === 0), 'the end of its VMM');
  });
});
