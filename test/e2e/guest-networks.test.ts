/**
 * Networks of microVMs on the whole product: `kubectl apply` of a spec, addresses and ports in the status, and packets
 * that arrive, on two hosts in network namespaces of their own with real taps, bridges and rules. A client in a further
 * namespace on the tap stands for the guest; the VMM is the simulator, which opens no tap.
 */
import { existsSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { deriveMac } from '#api/model/mac.ts';
import { microVMId, type MicroVMId } from '#api/model/ids.ts';
import { tapName } from '#edge-agent/domain/tap-name.ts';
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import { useFaultServer, type FaultServer } from '#test/harness/fault-server.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { findObstacle, hostAddress, meshPeerAddress, openLab, worldAddress, type Lab } from '../integration/network/lab.ts';
import { openGate } from './loopback-gate.ts';
import { createMeshWorld, routesTo, type MeshWorld } from './mesh-world.ts';
import { conditionOf, siteName, statusOf } from './world.ts';

const obstacle = process.env['NKUDO_TEST_HYPERVISOR'] === undefined ? await findObstacle() : 'a real VMM holds the taps that the test wants to use';
if (obstacle !== null) process.stdout.write(`skipped: networks of microVMs end to end: ${obstacle}\n`);
const hasDhcp = ['/usr/sbin/dnsmasq', '/usr/bin/dnsmasq', '/usr/local/sbin/dnsmasq'].some((path) => existsSync(path));

interface ShownAddress {
  readonly network: string;
  readonly address: string;
  readonly type: string;
  readonly ports?: readonly { readonly name: string; readonly protocol: string; readonly hostPort: number; readonly guestPort: number }[];
}

const hostNames = ['edge-1', 'edge-2'] as const;
const addressesOf = (object: KubernetesObject): readonly ShownAddress[] => (statusOf(object)['addresses'] ?? []) as readonly ShownAddress[]; // As the CRD says.
const uidOf = (object: KubernetesObject): MicroVMId => microVMId(object.metadata.uid ?? '');
const hostOf = (object: KubernetesObject): unknown => (statusOf(object)['binding'] as { hostName?: string } | undefined)?.hostName;
const web = { name: 'web', protocol: 'TCP', hostPort: 8080, guestPort: 80 } as const;
const lan = (...ports: readonly object[]) => ({ name: 'lan', nat: {}, ports });

describe.skipIf(obstacle !== null)('networks of microVMs', () => {
  const labs = new Map<string, Lab>();
  const pristine = new Map<string, string>();
  let faults: FaultServer;
  let mesh: MeshWorld;

  const labOf = (host: unknown): Lab => {
    const lab = labs.get(String(host));
    if (lab === undefined) throw new Error(`no such host: ${String(host)}`);
    return lab;
  };

  beforeAll(async () => {
    for (const host of hostNames) {
      const lab = await openLab();
      fileScope().defer(() => lab.close());
      labs.set(host, lab);
    }
    faults = await useFaultServer();
    mesh = await createMeshWorld({
      faults,
      agent: (host) => ({ through: ['ip', 'netns', 'exec', labOf(host).namespaces.host], environment: { NKUDO_RUNTIME_DIR: labOf(host).runtimeDirectory } }),
    });
    const { world, mock } = mesh;
    await world.startController();
    for (const host of hostNames) for (const address of [world.endpoints().edge, new URL(mock.managementUrl).host]) await openGate(labOf(host).namespaces.host, address);
    const laptops = await mesh.api('POST', '/api/groups', { name: 'laptops' }) as { readonly id: string }; // As the API describes it.
    await fetch(`${mock.adminUrl}/peers`, { method: 'POST', body: JSON.stringify({ name: 'laptop', groups: [laptops.id] }) });
    const [open] = (await mesh.account()).policies;
    await mesh.api('DELETE', `/api/policies/${String(open?.id)}`);
    // The first of them is what the peer of the lab has a route to.
    await world.createSite(siteName, { natSubnet: '10.87.0.0/24', ...mesh.meshSpec({ subnetPool: '10.88.0.0/23', policies: [{ name: 'laptops', peers: ['laptops'], protocol: 'all' }] }) });
    for (const host of hostNames) {
      await world.addHost(host);
      await world.waitForCondition('hosts', host, { type: 'MeshConnected', status: 'True' });
      pristine.set(host, await lookAt(host));
    }
  });

  /** Without the number of processes: the agent asks its netbird again and again. */
  const lookAt = async (host: string): Promise<string> => (await labOf(host).snapshot()).split('\n---\n').toSpliced(4, 1).join('\n---\n');

  /** A machine on the tap of one network of the microVM, with the address that the status shows. */
  async function plug(object: KubernetesObject, network: string): Promise<string> {
    const lab = labOf(hostOf(object));
    const shown = addressesOf(object).find((each) => each.network === network);
    if (shown === undefined) throw new Error(`the status shows no address in ${network}`);
    const { namespace } = await lab.plugGuest(tapName(uidOf(object), network), deriveMac(uidOf(object), network));
    await lab.run(namespace, 'ip', 'address', 'add', `${shown.address}/24`, 'dev', 'eth0');
    await lab.run(namespace, 'ip', 'route', 'add', 'default', 'via', shown.address.replace(/\d+$/, '1'));
    await lab.start(namespace, 'serve', 'tcp', '80');
    return namespace;
  }

  const running = { type: 'Running', status: 'True' } as const;
  const live = async (): Promise<unknown> => (await mesh.world.database.query('select count(*)::int as n from nkudo.guest_holds where released_at is null'))[0]?.['n'];

  it('[N1] of kinds nat and mesh show their addresses, and packets of a client, a laptop in the mesh and the guest itself arrive', async () => {
    const { world } = mesh;
    await world.applyMicroVM('web', { placement: { hostName: 'edge-1' }, networks: [lan(web, { name: 'metrics', protocol: 'TCP', guestPort: 9100 }), { name: 'fleet', mesh: {} }] });
    const object = await world.waitForCondition('microvms', 'web', running);
    expect(addressesOf(object)).toEqual([
      { network: 'lan', address: '10.87.0.2', type: 'NAT', ports: [web, { name: 'metrics', protocol: 'TCP', hostPort: 20_000, guestPort: 9100 }] },
      { network: 'fleet', address: '10.88.0.2', type: 'Mesh' },
    ]);
    expect(statusOf(object)['meshAddress']).toBe('10.88.0.2');
    expect(conditionOf(object, 'NetworksReady')).toMatchObject(hasDhcp ? { status: 'True', reason: 'NetworksMade' } : { status: 'False', reason: 'DHCPUnavailable' });

    const lab = labOf('edge-1');
    const guest = await plug(object, 'lan');
    await lab.start(lab.namespaces.world, 'serve', 'tcp', '80');
    expect(await lab.ask(lab.namespaces.world, 'tcp', hostAddress, 8080)).toBe(worldAddress);
    expect(await lab.ask(guest, 'tcp', worldAddress, 80)).toBe(hostAddress);
    // Behind the host's address it is not to be reached by its own.
    expect(await lab.ask(lab.namespaces.world, 'tcp', '10.87.0.2', 80)).toBeNull();
    await plug(object, 'fleet');
    // Untranslated: the guest sees which peer asks.
    expect(await lab.ask(lab.namespaces.mesh, 'tcp', '10.88.0.2', 80)).toBe(meshPeerAddress);
    expect(await lab.ask(lab.namespaces.world, 'tcp', '10.88.0.2', 80)).toBeNull();
  });

  it('[N1] the account routes the address of the guest through its host for a laptop that a policy lets in, and for no other peer', async () => {
    const { world } = mesh;
    const view = await mesh.untilAccount('both hosts to route their subnets', ({ networks }) => networks.length === 2 && networks.every(({ routers, resources }) => routers.length === 1 && resources.length === 1));
    const address = String(statusOf(await world.get('microvms', 'web'))['meshAddress']);
    expect(routesTo(view, 'laptop', address)).toEqual([`edge-1-${siteName}`]);
    await fetch(`${mesh.mock.adminUrl}/peers`, { method: 'POST', body: JSON.stringify({ name: 'stranger' }) });
    expect(routesTo(await mesh.account(), 'stranger', address)).toEqual([]);
    expect(mesh.mock.violations()).toEqual([]);
  });

  it('a port that one host has given is asked of the other; when both have, the condition names what to do, and a free port ends it', async () => {
    const { world } = mesh;
    await world.applyMicroVM('second', { networks: [lan(web)] });
    expect(hostOf(await world.waitForCondition('microvms', 'second', running))).toBe('edge-2');
    await world.applyMicroVM('third', { networks: [lan(web)] });
    const refused = await world.waitForCondition('microvms', 'third', { type: 'Scheduled', status: 'False', reason: 'PortInUse' });
    expect(conditionOf(refused, 'Scheduled')?.message).toMatch(/networks\[lan\]\.ports\[web\]: tcp port 8080 of host edge-[12] belongs to microVM (web|second); choose another hostPort/);
    expect(conditionOf(refused, 'Ready')).toMatchObject({ status: 'False', reason: 'PortInUse' });
    expect(statusOf(refused)['printableStatus']).toBe('Unschedulable');
    await world.patchMicroVM('third', { networks: [lan({ ...web, hostPort: 8081 })] });
    await world.waitForCondition('microvms', 'third', running);
  });

  it('a bound microVM that asks for a port of another one goes on with its old spec and says why; addresses stay with another list of ports', async () => {
    const { world } = mesh;
    const before = await world.get('microvms', 'third');
    const neighbour = hostOf(before) === 'edge-1' ? 'web' : 'second';
    await world.patchMicroVM('third', { networks: [lan(web)] });
    const refused = await world.waitForCondition('microvms', 'third', { type: 'NetworksReady', status: 'False', reason: 'PortInUse' });
    expect(conditionOf(refused, 'NetworksReady')?.message).toContain(`belongs to microVM ${neighbour}`);
    expect(conditionOf(refused, 'Running')).toMatchObject({ status: 'True' });
    expect(addressesOf(refused)).toEqual(addressesOf(before));
    await world.patchMicroVM('third', { networks: [lan({ ...web, hostPort: 8082 })] });
    const after = await world.waitUntil('microvms', 'third', 'the new port', (object) => addressesOf(object)[0]?.ports?.[0]?.hostPort === 8082 && conditionOf(object, 'Provisioned')?.status === 'True');
    expect(addressesOf(after)[0]?.address).toBe(addressesOf(before)[0]?.address);
    await plug(after, 'lan');
    const lab = labOf(hostOf(after));
    await until(async () => (await lab.ask(lab.namespaces.world, 'tcp', hostAddress, 8082)) === worldAddress, 'the new port to lead to the guest');
    expect(await lab.ask(lab.namespaces.world, 'tcp', hostAddress, 8081)).toBeNull();
  });

  it('a controller that is killed around the commit gives a microVM one address and its ports once', async () => {
    const { world } = mesh;
    for (const [index, point] of (['db.publish:before', 'db.publish:after'] as const).entries()) {
      const name = `killed-${index}`;
      const killed = faults.killAt({ process: 'controller', point });
      await world.applyMicroVM(name, { networks: [lan({ name: 'ssh', protocol: 'TCP', guestPort: 22 })] });
      await killed;
      await world.controller().exited;
      await world.startController();
      const object = await world.waitForCondition('microvms', name, running);
      const rows = await world.database.query('select space, value from nkudo.guest_holds where id = $1 order by 1', [uidOf(object)]);
      expect(rows).toEqual([{ space: 'address', value: addressesOf(object)[0]?.address }, { space: 'tcp', value: String(addressesOf(object)[0]?.ports?.[0]?.hostPort) }]);
    }
  });

  it('deleting them frees every address, port, tap, bridge and rule', async () => {
    const { world } = mesh;
    expect(await live()).toBeGreaterThan(8);
    const names = ['web', 'second', 'third', 'killed-0', 'killed-1'];
    for (const name of names) await world.deleteObject('microvms', name);
    for (const name of names) await world.waitUntilGone('microvms', name);
    expect(await live()).toBe(0);
    for (const host of hostNames) expect(await lookAt(host), host).toBe(pristine.get(host));
  });
});
