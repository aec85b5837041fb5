/**
 * Power is lost at a site without a control plane: every process dies at once, the network devices of guests and the
 * runtime directory are gone, and the machine comes back in another boot. Real taps, bridges and rules in a namespace.
 * What was not synced when the power went is in power-loss-replay.test.ts.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { MicroVMId } from '#api/model/ids.ts';
import { deriveMac } from '#api/model/mac.ts';
import type { DesiredMicroVM } from '#api/model/microvm.ts';
import { tapName } from '#edge-agent/domain/tap-name.ts';
import type { LiveVmm } from '#test/e2e/vmm-observer.ts';
import { until } from '#test/harness/until.ts';
import { createEdgeMachine, networkObstacle, newMicroVM, type EdgeMachine } from './edge/machine.ts';

if (networkObstacle !== null) process.stdout.write(`skipped: [E4] power loss: ${networkObstacle}\n`);

interface Shown {
  readonly state: string;
  readonly microvmId: string;
  readonly restarts: number;
}

async function list(machine: EdgeMachine): Promise<readonly Shown[]> {
  const { output } = await machine.command('vm', 'ls', '--output', 'json');
  return JSON.parse(output) as readonly Shown[]; // As the command prints it.
}

function theVmm(machine: EdgeMachine, id: MicroVMId): LiveVmm {
  const [vmm, ...others] = machine.vmmsOf(id);
  if (vmm === undefined || others.length > 0) throw new Error(`${id} has ${machine.vmmsOf(id).length} VMMs`);
  return vmm;
}

/** What the VMM was told, from itself: MAC, tap and disks. */
function configOf(machine: EdgeMachine, id: MicroVMId): { readonly net: readonly { tap: string; mac: string }[]; readonly disks: readonly { path: string }[] } {
  const body = execFileSync('curl', ['-s', '--unix-socket', join(machine.directory(id), 'api.sock'), 'http://localhost/api/v1/vm.info'], { encoding: 'utf8' });
  return (JSON.parse(body) as { config: { net: { tap: string; mac: string }[]; disks: { path: string }[] } }).config; // As its description says.
}

const rulesOf = (machine: EdgeMachine): Promise<string> => machine.lab?.run(machine.lab.namespaces.host, 'nft', 'list', 'ruleset') ?? Promise.resolve('');
const diskOf = (machine: EdgeMachine, id: MicroVMId): string => join(machine.directory(id), 'disks', 'data.raw');

it.skipIf(networkObstacle !== null)('[E4] after a power loss offline every Always microVM is up again as it was, what was Halted is down, what may be replaced waits; reconnection restarts none', async () => {
  const machine = await createEdgeMachine({ heartbeatIntervalMs: 200, leaseMs: 60_000 });
  const { plane } = machine;
  await machine.start();
  const create = async (change: (desired: DesiredMicroVM) => Partial<DesiredMicroVM>): Promise<MicroVMId> => {
    const id = newMicroVM();
    const desired = machine.desired(id);
    await machine.carryOut(machine.order(id, 'Create', { ...desired, ...change(desired) }));
    return id;
  };
  const web = { name: 'web', protocol: 'tcp', hostPort: 18_081, guestPort: 80 } as const;
  const always = [
    await create(() => ({})),
    await create(({ networks = [] }) => ({ networks: networks.map((network) => ({ ...network, ports: [web] })) })),
    await create(() => ({ runPolicy: 'RerunOnFailure' })),
  ];
  const halted = await create(() => ({ runPolicy: 'Halted' }));
  const leased = await create(() => ({ lease: { stopOnHostAfterMs: 60_000 } }));
  const late = await create(() => ({}));
  // Accepted, carried out, and the control plane is gone before it can say anything else.
  await machine.carryOut(machine.order(late, 'Stop', machine.desired(late, { runPolicy: 'Halted' })));
  const before = new Map([...always, leased].map((id) => [id, { vmm: theVmm(machine, id), config: configOf(machine, id), boots: machine.record(id)?.run.incarnation ?? 0 }]));
  const rules = await rulesOf(machine);
  for (const id of always) {
    expect(rules).toContain(tapName(id, 'lan'));
    writeFileSync(diskOf(machine, id), `this is the disk of ${id}`);
  }
  const inodes = always.map((id) => statSync(diskOf(machine, id)).ino);

  await machine.cutPower();
  expect(machine.vmms(), 'VMMs after the power went').toEqual([]);
  expect(await rulesOf(machine)).not.toContain('nkt');
  await machine.start();
  await until(() => always.every((id) => machine.record(id)?.run.phase === 'started' && machine.vmmsOf(id).length === 1), 'every microVM that is always to run, without a control plane');
  for (const [index, id] of always.entries()) {
    const { config, boots } = before.get(id) ?? { config: null, boots: -1 };
    expect(configOf(machine, id), 'the machine of the guest').toEqual(config);
    expect(configOf(machine, id).net).toMatchObject([{ mac: deriveMac(id, 'lan'), tap: tapName(id, 'lan') }]);
    expect(readFileSync(diskOf(machine, id), 'utf8').startsWith(`this is the disk of ${id}`)).toBe(true);
    expect(statSync(diskOf(machine, id)).ino).toBe(inodes[index]);
    const record = machine.record(id);
    expect(record?.run.incarnation).toBe(boots + 1);
    expect(record?.run.lastExit?.reason).toBe('HostReboot');
  }
  // The same rights: addresses, MACs and ports of those that run, and of nobody else.
  const after = await rulesOf(machine);
  for (const id of always) for (const { address, mac } of machine.desired(id).networks ?? []) expect(after).toMatch(new RegExp(`${tapName(id, 'lan')}[^\\n]*(${mac}|${String(address).split('/')[0]})|(${mac}|${String(address).split('/')[0]})[^\\n]*${tapName(id, 'lan')}`));
  expect(after).toContain('18081');
  expect(after).not.toContain(tapName(leased, 'lan'));
  for (const id of [halted, late, leased]) expect(machine.vmmsOf(id), 'VMMs of what is not to run').toEqual([]);
  const shown = await list(machine);
  expect(shown.find(({ microvmId }) => microvmId === leased)?.state).not.toBe('running');
  expect(shown.find(({ microvmId }) => microvmId === halted)?.state).toBe('stopped');

  const alive = always.map((id) => theVmm(machine, id));
  const restarts = always.map((id) => machine.record(id)?.run.restarts);
  const sessions = plane.hellos.length;
  await plane.restart();
  await plane.when('the reconnection', () => plane.hellos.length > sessions);
  await plane.when('every microVM to be reported', () => always.every((id) => plane.observations.some(({ microvmId, state, lastExit }) => microvmId === id && state === 'running' && lastExit?.reason === 'HostReboot')));
  await plane.when('the leased one to be reported waiting or running', () => plane.observations.some(({ microvmId, problem, sequence }) => microvmId === leased && sequence > 0 && (problem?.code === 'WAITING_FOR_LEASE')));
  // Its lease is confirmed by the first beat: only now it starts.
  await until(() => machine.record(leased)?.run.phase === 'started' && machine.vmmsOf(leased).length === 1, 'the microVM with a lease');
  expect(always.map((id) => theVmm(machine, id))).toEqual(alive);
  expect(always.map((id) => machine.record(id)?.run.restarts)).toEqual(restarts);
  expect(existsSync(machine.directory(halted))).toBe(true);
  for (const id of [halted, late]) expect(machine.vmmsOf(id)).toEqual([]);
});
