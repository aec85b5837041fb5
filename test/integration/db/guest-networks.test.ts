/**
 * Addresses and ports of hosts, given in the transaction that binds a microVM: unique, kept, released only when the host
 * is done with them, and nothing half made when there is none left.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { microVMId, operationId } from '#api/model/ids.ts';
import type { MicroVMObservation, NetworkRequest, PortRequest } from '#api/model/microvm.ts';
import type { MicroVMRecord, PublishInput } from '#controller/ports/microvm-store.ts';
import type { Database } from '#db/database.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { actor, execution, facts, makeFleet, makeHost, observation, openTestDatabase, publish, publishInput, type Fleet, type TestHost } from './builders.ts';

let server: TestDatabase;
let db: Database;
let fleet: Fleet;

beforeAll(async () => {
  server = await useDatabase();
  db = openTestDatabase(server);
  fleet = await makeFleet(db);
});
afterAll(() => db.close());

const mac = '02:00:00:00:00:01';
const nat = (...ports: readonly PortRequest[]): NetworkRequest => ({ name: 'lan', kind: 'nat', mac, ports });
const mesh: NetworkRequest = { name: 'site', kind: 'mesh', mac, ports: [] };
const web: PortRequest = { name: 'web', protocol: 'tcp', guestPort: 80 };
const asks = (...requests: readonly NetworkRequest[]): Pick<PublishInput, 'networks'> => ({ networks: { requests, natSubnet: '10.87.0.0/28' } });

let hosts = 0;
function newHost(): Promise<TestHost> {
  hosts += 1;
  const hostName = `edge-${hosts}`;
  return makeHost(fleet, hostName, facts({ hostName, cpuCount: 64, memoryBytes: 64 * 2 ** 30 }));
}

/** What the host says of the newest intent. */
async function report(host: TestHost, record: MicroVMRecord, sequence: number, changes: Partial<MicroVMObservation> = {}): Promise<void> {
  await db.dispatch.claim({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: false });
  const operationId = record.newestOperation?.id;
  const executions = operationId === undefined ? [] : [execution(operationId, { status: 'Succeeded', isFinal: true, finishedAtMs: 1 })];
  await db.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: host.hostId, executions, observations: [observation(record, { sequence, ...changes })] }, actor);
}

/** The host carries out the order to remove it. */
async function confirmGone(host: TestHost, microvmId: string): Promise<void> {
  await db.dispatch.claim({ tenantId: fleet.tenantId, hostId: host.hostId, sessionId: host.sessionId, includeDispatched: false });
  const [row] = await server.query(`select id from nkudo.operations where microvm_id = $1 and host_id = $2 and kind = 'Delete'`, [microvmId, host.hostId]);
  const executions = [execution(operationId(String(row?.['id'])), { status: 'Succeeded', isFinal: true, finishedAtMs: 1 })];
  await db.dispatch.recordReports({ tenantId: fleet.tenantId, hostId: host.hostId, executions, observations: [] }, actor);
}

const live = async (host: TestHost): Promise<readonly string[]> =>
  (await server.query(`select space || ' ' || value as held from nkudo.guest_holds where host_id = $1 and released_at is null order by 1`, [host.hostId])).map((row) => String(row['held']));

const networksOf = (record: MicroVMRecord) => record.desired?.networks ?? [];

describe('networks of microVMs in Postgres', () => {
  it('are given with the binding, are in what the host is told, and the same publication again gives the same', async () => {
    const host = await newHost();
    const input = publishInput(fleet, host, asks(nat(web), { name: 'plant', kind: 'bridge', mac, bridgeName: 'br0', ports: [] }));
    const record = await publish(fleet, input);
    expect(networksOf(record)).toEqual([
      { name: 'lan', kind: 'nat', mac, address: '10.87.0.2/28', gateway: '10.87.0.1', ports: [{ ...web, hostPort: 20_000 }] },
      { name: 'plant', kind: 'bridge', mac, bridgeName: 'br0', ports: [] },
    ]);
    const told = await server.query('select desired from nkudo.operations where microvm_id = $1', [input.microvmId]);
    expect(told).toEqual([{ desired: record.desired }]);
    expect(networksOf(await publish(fleet, input))).toEqual(networksOf(record));
    expect(await live(host)).toEqual(['address 10.87.0.2', 'tcp 20000']);
  });

  it('differ for microVMs that are published at the same moment, until the range has none left; then nothing is written', async () => {
    const host = await newHost();
    const inputs = Array.from({ length: 13 }, () => publishInput(fleet, host, asks(nat(web))));
    const records = await Promise.all(inputs.map((input) => publish(fleet, input)));
    expect(new Set(records.map((record) => networksOf(record)[0]?.address)).size).toBe(13);
    expect(new Set(records.map((record) => networksOf(record)[0]?.ports[0]?.hostPort)).size).toBe(13);
    const late = publishInput(fleet, host, asks(nat()));
    const result = await db.microvms.publish(late, fleet.epoch, actor);
    expect(result).toEqual({ outcome: 'networkRefused', problem: { code: 'ADDRESSES_EXHAUSTED', message: expect.stringContaining('all 13 addresses of 10.87.0.0/28') } });
    expect(await db.microvms.load(fleet.tenantId, late.microvmId)).toBeNull();
    expect(await server.query('select from nkudo.bindings where microvm_id = $1', [late.microvmId])).toEqual([]);
  });

  it('refuse a port or an address of somebody else by name, on one host and not on another', async () => {
    const [host, other] = [await newHost(), await newHost()];
    const asked = asks({ ...nat({ ...web, hostPort: 8080 }), address: '10.87.0.9/28' });
    await publish(fleet, publishInput(fleet, host, { name: 'first', ...asked }));
    const refused = await db.microvms.publish(publishInput(fleet, host, asks(nat({ ...web, hostPort: 8080 }))), fleet.epoch, actor);
    expect(refused).toEqual({ outcome: 'networkRefused', problem: { code: 'PORT_IN_USE', message: expect.stringContaining('microVM first') } });
    await publish(fleet, publishInput(fleet, host, asks(nat({ ...web, protocol: 'udp', hostPort: 8080 }))));
    await publish(fleet, publishInput(fleet, other, asked));
  });

  it('stay with a changed list of ports; a port that was given up is free once the host runs without it', async () => {
    const host = await newHost();
    const input = publishInput(fleet, host, asks(nat({ ...web, hostPort: 80 })));
    const first = await publish(fleet, input);
    await report(host, first, 1);
    const second = await publish(fleet, { ...input, generation: 2, ...asks(nat({ ...web, hostPort: 81 })) });
    expect(networksOf(second)[0]).toMatchObject({ address: networksOf(first)[0]?.address, ports: [{ hostPort: 81 }] });
    const wanted = publishInput(fleet, host, asks(nat({ ...web, hostPort: 80 })));
    expect(await db.microvms.publish(wanted, fleet.epoch, actor)).toMatchObject({ outcome: 'networkRefused', problem: { code: 'PORT_IN_USE' } });
    await report(host, second, 2, { problem: { code: 'PORT_IN_USE', message: 'a program listens' } });
    expect(await db.microvms.publish(wanted, fleet.epoch, actor)).toMatchObject({ outcome: 'networkRefused' });
    await report(host, second, 3);
    expect(await db.microvms.publish(wanted, fleet.epoch, actor)).toMatchObject({ outcome: 'published' });
    expect(await live(host)).toEqual(['address 10.87.0.2', 'address 10.87.0.3', 'tcp 80', 'tcp 81']);
  });

  it('are refused for what somebody holds also when the same look finds that another guest has given something up', async () => {
    const host = await newHost();
    await publish(fleet, publishInput(fleet, host, { name: 'holder', ...asks(nat({ ...web, hostPort: 443 })) }));
    const input = publishInput(fleet, host, asks(nat({ ...web, hostPort: 80 })));
    await report(host, await publish(fleet, input), 1);
    await report(host, await publish(fleet, { ...input, generation: 2, ...asks(nat()) }), 2);
    const refused = await db.microvms.publish(publishInput(fleet, host, asks(nat({ ...web, hostPort: 443 }))), fleet.epoch, actor);
    expect(refused).toMatchObject({ outcome: 'networkRefused', problem: { code: 'PORT_IN_USE', message: expect.stringContaining('microVM holder') } });
    expect(await live(host)).toEqual(['address 10.87.0.2', 'address 10.87.0.3', 'tcp 443']);
  });

  it('keep the address of a running guest until its restart, and give it back to the guest that asks for it again', async () => {
    const host = await newHost();
    const input = publishInput(fleet, host, asks({ ...nat(), address: '10.87.0.5/28' }));
    await report(host, await publish(fleet, input), 1);
    const moved = await publish(fleet, { ...input, generation: 2, ...asks({ ...nat(), address: '10.87.0.6/28' }) });
    await report(host, moved, 2, { isRestartRequired: true });
    const other = publishInput(fleet, host, asks({ ...nat(), address: '10.87.0.5/28' }));
    expect(await db.microvms.publish(other, fleet.epoch, actor)).toMatchObject({ outcome: 'networkRefused', problem: { code: 'ADDRESS_IN_USE' } });
    const back = await publish(fleet, { ...input, generation: 3, ...asks({ ...nat(), address: '10.87.0.5/28' }) });
    expect(networksOf(back)[0]?.address).toBe('10.87.0.5/28');
    await report(host, back, 3);
    expect(await db.microvms.publish({ ...other, ...asks({ ...nat(), address: '10.87.0.6/28' }) }, fleet.epoch, actor)).toMatchObject({ outcome: 'published' });
  });

  it('are released with the confirmed teardown, not before, and at once by a force', async () => {
    const host = await newHost();
    const input = publishInput(fleet, host, asks(nat(web)));
    await publish(fleet, input);
    const deletion = await db.microvms.publishDeletion({ tenantId: fleet.tenantId, microvmId: input.microvmId, generation: 2, tryNumber: 1 }, fleet.epoch, actor);
    expect(await live(host)).toHaveLength(2);
    if (deletion === null) throw new Error('the deletion was published');
    await report(host, deletion, 1, { state: 'absent' });
    await db.microvms.completeDeletion(fleet.tenantId, input.microvmId, fleet.epoch, actor);
    expect(await live(host)).toEqual([]);
    const forced = publishInput(fleet, host, asks(nat(web)));
    expect(networksOf(await publish(fleet, forced))[0]?.address).toBe('10.87.0.2/28');
    await db.microvms.forceDelete(fleet.tenantId, forced.microvmId, fleet.epoch, actor);
    expect(await live(host)).toEqual([]);
  });

  it('of the mesh come from the subnet of the host, which stays with it as long as a guest has an address in it', async () => {
    const host = await newHost();
    const input = publishInput(fleet, host, { ...asks(mesh), microvmId: microVMId(randomUUID()) });
    expect(await db.microvms.publish(input, fleet.epoch, actor)).toMatchObject({ outcome: 'networkRefused', problem: { code: 'MESH_SUBNET_MISSING' } });
    const place = { tenantId: fleet.tenantId, siteId: fleet.siteId, hostId: host.hostId };
    await db.mesh.saveHost({ ...place, subnet: '10.96.7.0/24' }, fleet.epoch, actor);
    expect(networksOf(await publish(fleet, input))[0]).toMatchObject({ address: '10.96.7.2/24', gateway: '10.96.7.1' });
    const subnet = async (): Promise<unknown> => (await server.query('select subnet from nkudo.mesh_hosts where id = $1', [host.hostId]))[0]?.['subnet'];
    await db.mesh.saveHost({ ...place, subnet: null, groupId: null, peerId: null }, fleet.epoch, actor);
    expect(await subnet()).toBe('10.96.7.0/24');
    await db.microvms.forceDelete(fleet.tenantId, input.microvmId, fleet.epoch, actor);
    await db.mesh.saveHost({ ...place, subnet: null, groupId: null, peerId: null }, fleet.epoch, actor);
    expect(await subnet()).toBeNull();
  });

  it('are given anew by another host when theirs is lost, and stay held there until it confirmed that the guest is gone', async () => {
    const [lost, other] = [await newHost(), await newHost()];
    const input = publishInput(fleet, lost, asks(nat({ ...web, hostPort: 443 })));
    await publish(fleet, publishInput(fleet, other, asks(nat())));
    const before = await publish(fleet, input);
    if (before.binding === null) throw new Error('it is bound');
    const { hosts, lineage } = await db.leases.list();
    const reading = hosts.find(({ hostId }) => hostId === lost.hostId);
    if (reading === undefined) throw new Error('the host is listed');
    const from = { hostId: lost.hostId, epoch: before.binding.epoch, lastBeatAtMs: reading.lastBeatAtMs, leaseEpoch: reading.leaseEpoch, lineage };
    const { tenantId, siteId } = fleet;
    const { microvmId, generation, desired, networks } = input;
    if (networks === undefined) throw new Error('it has networks');
    const replaced = await db.replacements.replace({ tenantId, siteId, microvmId, generation, desired, networks, from, placeOn: other.hostId, releasedBy: null }, fleet.epoch, actor);
    expect(replaced).toMatchObject({ outcome: 'replaced', record: { binding: { hostId: other.hostId }, desired: { networks: [{ address: '10.87.0.3/28', ports: [{ hostPort: 443 }] }] } } });
    const told = await server.query(`select desired -> 'networks' -> 0 ->> 'address' as address from nkudo.operations where microvm_id = $1 and host_id = $2`, [microvmId, other.hostId]);
    expect(told).toEqual([{ address: '10.87.0.3/28' }]);
    const wanted = publishInput(fleet, lost, asks(nat({ ...web, hostPort: 443 })));
    expect(await db.microvms.publish(wanted, fleet.epoch, actor)).toMatchObject({ outcome: 'networkRefused', problem: { code: 'PORT_IN_USE' } });
    await confirmGone(lost, microvmId);
    expect(await db.microvms.publish(wanted, fleet.epoch, actor)).toMatchObject({ outcome: 'published' });
  });

  it('can not be held twice, whoever writes the rows', async () => {
    const host = await newHost();
    const { microvmId } = await publish(fleet, publishInput(fleet, host, asks(nat(web))));
    const twice = server.query(`insert into nkudo.guest_holds (tenant_id, id, host_id, network, port, space, value, is_mesh) values ($1, $2, $3, 'x', 'y', 'tcp', '20000', false)`, [fleet.tenantId, microvmId, host.hostId]);
    await expect(twice).rejects.toThrow(/guest_holds_live/);
  });

  it('show what a host says is missing, until it says so no more', async () => {
    const host = await newHost();
    const record = await publish(fleet, publishInput(fleet, host, asks(nat())));
    const warnings = [{ code: 'DHCP_UNAVAILABLE', message: 'no dnsmasq' }];
    await report(host, record, 1, { warnings });
    expect((await db.microvms.load(fleet.tenantId, record.microvmId))?.observation?.warnings).toEqual(warnings);
    await report(host, record, 2);
    expect((await db.microvms.load(fleet.tenantId, record.microvmId))?.observation?.warnings).toBeUndefined();
  });
});
