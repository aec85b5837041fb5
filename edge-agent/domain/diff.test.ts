import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { memoryStepBytes, runPolicies, type DesiredMicroVM, type DiskSpec, type NetworkSpec } from '#api/model/microvm.ts';
import { testDesired, testNow, testRecord } from '#test/builders/edge-microvm.ts';
import { SimulatedHost, type Disturbance } from '#test/fakes/simulated-host.ts';
import { compareMachine } from './machine-change.ts';
import { machineKey, type MicroVMRecord } from './microvm-record.ts';
import { shouldRun } from './restart-policy.ts';

const turnsMax = 200;

function settle(host: SimulatedHost): void {
  for (let turns = 0; host.turn(); turns += 1) {
    if (turns > turnsMax) throw new Error(`no fixpoint after ${turnsMax} turns: ${JSON.stringify(host.record.run)}`);
  }
}

function running(change: Partial<MicroVMRecord> = {}): SimulatedHost {
  const host = new SimulatedHost(testRecord(change), testNow);
  settle(host);
  return host;
}

const disturbances: readonly Disturbance[] = ['vmmKilled', 'guestPowersOff', 'guestReboots', 'agentRestarts', 'hostReboots', 'stepFails', 'apiHangs'];
const card = { name: 'lan', kind: 'nat', mac: '52:54:00:00:00:01', address: '10.0.0.5/24', gateway: '10.0.0.1', ports: [] } as const;
const port = { name: 'web', protocol: 'tcp', hostPort: 8080, guestPort: 80 } as const;
const networkChoices: readonly (readonly NetworkSpec[])[] = [[], [card], [{ ...card, ports: [port] }], [card, { ...card, name: 'mesh', kind: 'mesh' }]];
const cloudInit = { hostName: 'guest', userDataSecret: { name: 'guest', key: 'user-data' }, sshAuthorizedKeys: [] };
const seedChoices: readonly Partial<DesiredMicroVM>[] = [{}, { cloudInit, secrets: [{ name: 'guest', key: 'user-data', resourceVersion: '1' }] }, { cloudInit, secrets: [{ name: 'guest', key: 'user-data', resourceVersion: '2' }] }];
const rootDisk: DiskSpec = { name: 'root', path: '/root.raw', readOnly: false };
const madeDisk = (sizeBytes: number): DiskSpec => ({ name: 'made', path: '', readOnly: false, sizeBytes, managed: { persistence: 'Persistent', isRetained: false } });
const diskChoices: readonly (readonly DiskSpec[])[] = [[], [rootDisk], [rootDisk, { name: 'data', path: '/data.raw', readOnly: true }], [rootDisk, madeDisk(1_048_576)], [rootDisk, madeDisk(2_097_152)]];
const madeFrom = (networks: readonly NetworkSpec[]): readonly string[] => networks.map(({ name, ports }) => `${name} ${ports.map(({ hostPort }) => hostPort).join()}`);
const desiredArbitrary = fc
  .record({
    seed: fc.constantFrom(...seedChoices),
    networks: fc.constantFrom(...networkChoices),
    runPolicy: fc.constantFrom(...runPolicies),
    paused: fc.boolean(),
    restartNonce: fc.nat(2),
    cpuCount: fc.integer({ min: 1, max: 2 }),
    cpuMax: fc.constantFrom(2, 4),
    memoryBytes: fc.constantFrom(1 * memoryStepBytes, 2 * memoryStepBytes, 3 * memoryStepBytes),
    memoryMaxBytes: fc.constantFrom(3 * memoryStepBytes, 4 * memoryStepBytes),
    disks: fc.constantFrom(...diskChoices),
    terminationGracePeriodMs: fc.constantFrom(0, 5_000),
  })
  .map(({ seed, ...change }) => testDesired({ ...change, ...seed }));
const eventArbitrary = fc.oneof(
  fc.record({ kind: fc.constant('turns' as const), count: fc.integer({ min: 1, max: 6 }) }),
  fc.record({ kind: fc.constant('disturb' as const), what: fc.constantFrom(...disturbances) }),
  fc.record({ kind: fc.constant('desire' as const), desired: desiredArbitrary }),
);

describe('from any state and after any disturbance', () => {
  test('the host converges to what is desired, with one VMM at every moment, and a second look finds nothing to do', () => {
    fc.assert(
      fc.property(desiredArbitrary, fc.array(eventArbitrary, { maxLength: 25 }), fc.boolean(), fc.boolean(), (first, events, ignoresButton, isDeletedAtLast) => {
        const host = new SimulatedHost(testRecord({ desired: first }), testNow);
        host.ignoresButton = ignoresButton;
        let revision = 1;
        for (const event of events) {
          if (event.kind === 'turns') for (let count = 0; count < event.count; count += 1) host.turn();
          if (event.kind === 'disturb') host.disturb(event.what);
          if (event.kind === 'desire') host.record = { ...host.record, desired: event.desired, revision: (revision += 1) };
        }
        if (isDeletedAtLast) host.record = { ...host.record, isDeleting: true };
        settle(host);
        const { record, vmm, directory } = host;
        if (isDeletedAtLast) {
          expect([host.isGone, vmm.kind, directory.exists, host.networks]).toEqual([true, 'absent', false, []]);
          return;
        }
        const isUp = vmm.kind === 'live' && (vmm.api === 'running' || vmm.api === 'paused');
        expect(isUp).toBe(shouldRun(record));
        if (isUp) expect(vmm.api === 'paused').toBe(record.desired?.paused);
        const { desired: wanted } = record;
        const state = compareMachine(record, host.machine);
        if (isUp && state.kind === 'same' && wanted !== null) {
          expect(host.networks).toEqual(madeFrom(wanted.networks ?? []));
          const { machine } = host;
          expect(machine).toMatchObject({ cpuCount: wanted.cpuCount, cpusPresent: wanted.cpuCount, memoryBytes: wanted.memoryBytes, memoryPresentBytes: wanted.memoryBytes });
          expect(machine?.disks.map(({ name, isLeaving }) => `${name} ${isLeaving}`).sort()).toEqual(wanted.disks.map(({ name }) => `${name} false`).sort());
          expect(machine?.networks.map(({ name, isLeaving }) => `${name} ${isLeaving}`).sort()).toEqual((wanted.networks ?? []).map(({ name }) => `${name} false`).sort());
        }
        // What a paused guest would have to let go of waits for it; everything else was done.
        if (isUp && state.kind === 'live') expect([vmm.api, state.changes.filter(({ needsGuest }) => !needsGuest)]).toEqual(['paused', []]);
        expect(state.kind).not.toBe('unknown');
        expect(directory.identity).toMatchObject({ epoch: record.epoch, revision: record.revision, incarnation: record.run.incarnation });
        expect(record.run.stop).toBeUndefined();
        const before = JSON.stringify([host.record, host.vmm, host.directory]);
        expect(host.turn()).toBe(false);
        expect(JSON.stringify([host.record, host.vmm, host.directory])).toBe(before);
      }),
      { numRuns: 2_000 },
    );
  });
});

test('an agent that starts adopts a running guest without a single step', () => {
  const host = running();
  const pid = host.spawned;
  host.disturb('agentRestarts');
  settle(host);
  expect(host.spawned).toBe(pid);
  expect(host.record.run.restarts).toBe(0);
});

test('a guest that no journal knows is adopted', () => {
  const host = running();
  host.record = testRecord();
  settle(host);
  expect(host.spawned).toBe(1);
  expect(host.record.run.phase).toBe('started');
});

test.each([
  ['Always', 'guestPowersOff', true],
  ['Always', 'vmmKilled', true],
  ['Always', 'hostReboots', true],
  ['RerunOnFailure', 'guestPowersOff', false],
  ['RerunOnFailure', 'vmmKilled', true],
  ['RerunOnFailure', 'hostReboots', true],
  ['Once', 'guestPowersOff', false],
  ['Once', 'vmmKilled', false],
  ['Once', 'hostReboots', false],
  ['Once', 'guestReboots', false],
] as const)('under %s, after %s, runs again: %s', (runPolicy, disturbance, runsAgain) => {
  const host = running({ desired: testDesired({ runPolicy }) });
  host.disturb(disturbance);
  settle(host);
  expect(host.vmm.kind === 'live').toBe(runsAgain);
  if (disturbance !== 'guestReboots') expect(host.record.run.restarts).toBe(runsAgain ? 1 : 0);
});

test('an end whose cause nobody knows counts as a failure under RerunOnFailure', () => {
  const host = running({ desired: testDesired({ runPolicy: 'RerunOnFailure' }) });
  if (host.vmm.kind === 'live') host.vmm = { kind: 'exited', exit: { reason: 'Unknown', code: 0, process: host.vmm.process } };
  settle(host);
  expect(host.vmm.kind).toBe('live');
});

test('Manual starts when the nonce changes, stays down after an end, and starts again with the next nonce', () => {
  const host = running({ desired: testDesired({ runPolicy: 'Manual' }) });
  expect(host.spawned).toBe(0);
  host.record = { ...host.record, desired: testDesired({ runPolicy: 'Manual', restartNonce: 1 }) };
  settle(host);
  expect(host.spawned).toBe(1);
  host.disturb('vmmKilled');
  settle(host);
  expect(host.vmm.kind).toBe('exited');
  host.record = { ...host.record, desired: testDesired({ runPolicy: 'Manual', restartNonce: 2 }) };
  settle(host);
  expect(host.vmm.kind).toBe('live');
  expect(host.record.run.restarts).toBe(0);
});

test('Once runs again only when the nonce changes', () => {
  const host = running({ desired: testDesired({ runPolicy: 'Once' }) });
  host.disturb('guestPowersOff');
  settle(host);
  host.record = { ...host.record, desired: testDesired({ runPolicy: 'Once', restartNonce: 7 }) };
  settle(host);
  expect(host.spawned).toBe(2);
});

test('a change of the nonce restarts a running guest once, and is no restart of the restart policy', () => {
  const host = running();
  host.record = { ...host.record, desired: testDesired({ restartNonce: 1 }) };
  settle(host);
  expect([host.spawned, host.record.run.restarts, host.record.run.lastExit?.reason]).toEqual([2, 0, 'Operator']);
});

test('a guest that reboots more often than allowed is stopped and waits the longest back-off', () => {
  const host = running();
  for (let reboots = 0; reboots < 4; reboots += 1) host.disturb('guestReboots');
  expect(host.record.run.restarts).toBe(4);
  while (host.record.run.restartDue === undefined) host.turn();
  expect(host.vmm.kind).toBe('exited');
  expect(host.record.run.lastExit?.reason).toBe('GuestReboot');
  expect(host.record.run.restartDue.ms - host.now.bootMs).toBeGreaterThan(29_000);
});

test('the power button is pressed once for a stop, also when the agent dies right after', () => {
  const host = running();
  host.ignoresButton = true;
  host.record = { ...host.record, desired: testDesired({ runPolicy: 'Halted' }) };
  while (host.buttonPresses === 0) host.turn();
  host.disturb('agentRestarts');
  settle(host);
  expect(host.buttonPresses).toBe(1);
  expect(host.vmm.kind).toBe('exited');
  expect(host.record.run.lastExit?.reason).toBe('Operator');
});

test('a running guest keeps the machine it was started with until it starts again', () => {
  const host = running();
  const desired = testDesired({ cpuCount: 2 });
  host.record = { ...host.record, desired };
  settle(host);
  expect(host.spawned).toBe(1);
  expect(host.record.run.startedWith).not.toBe(machineKey(desired));
  host.disturb('vmmKilled');
  settle(host);
  expect(host.record.run.startedWith).toBe(machineKey(desired));
});

test('a journal that was put back from an older copy touches nothing, until an operation above the directory comes', () => {
  const host = running({ revision: 5 });
  host.record = testRecord({ revision: 4, desired: testDesired({ runPolicy: 'Halted' }) });
  host.turn();
  host.turn();
  expect(host.vmm).toMatchObject({ kind: 'live', api: 'running' });
  host.record = { ...host.record, revision: 6 };
  settle(host);
  expect(host.vmm.kind).toBe('exited');
});

test('a wall clock that is set back does not make an earlier reboot of the guest count again', () => {
  const host = running({ desired: testDesired({ runPolicy: 'Once' }) });
  host.disturb('guestReboots');
  settle(host);
  expect(host.vmm.kind).toBe('exited');
  host.now = { ...host.now, wallMs: host.now.wallMs - 3_600_000 };
  host.record = { ...host.record, revision: 2, desired: testDesired({ runPolicy: 'Once', restartNonce: 1 }) };
  settle(host);
  expect([host.spawned, host.vmm]).toMatchObject([2, { kind: 'live', api: 'running' }]);
});

describe('a VMM whose API does not answer', () => {
  const stuck = (): SimulatedHost => {
    const host = running();
    host.isStuck = true;
    return host;
  };

  test('is left alone while it is wanted: it may only be busy', () => {
    const host = stuck();
    for (let turns = 0; turns < 100; turns += 1) host.turn();
    expect([host.spawned, host.vmm.kind]).toEqual([1, 'live']);
  });

  test.each([
    ['a deletion', (record: MicroVMRecord) => ({ ...record, isDeleting: true })],
    ['Halted', (record: MicroVMRecord) => ({ ...record, revision: 2, desired: testDesired({ runPolicy: 'Halted' }) })],
    ['a new restartNonce', (record: MicroVMRecord) => ({ ...record, revision: 2, desired: testDesired({ restartNonce: 1 }) })],
  ])('is killed by %s, once the grace period is over and an orderly end was tried', (_name, change) => {
    const host = stuck();
    host.record = change(host.record);
    host.turn();
    expect([host.record.run.stop !== undefined, host.vmm.kind]).toEqual([true, 'live']);
    settle(host);
    expect(host.isStuck).toBe(false);
    expect(host.record.desired?.restartNonce === 1 ? host.spawned : host.vmm.kind).toBe(host.record.isDeleting ? 'absent' : host.record.desired?.restartNonce === 1 ? 2 : 'exited');
  });

  test('is killed and started again when it hung while it booted', () => {
    const host = running();
    host.record = { ...host.record, run: { ...host.record.run, phase: 'abandoned' } };
    host.isStuck = true;
    settle(host);
    expect([host.spawned, host.vmm]).toMatchObject([2, { kind: 'live', api: 'running' }]);
  });

  test('that answers again before the grace period is over gets its power button', () => {
    const host = stuck();
    host.record = { ...host.record, isDeleting: true };
    for (let turns = 0; turns < 4; turns += 1) host.turn();
    host.isStuck = false;
    settle(host);
    expect([host.buttonPresses, host.isGone]).toEqual([1, true]);
  });
});

test('a start that the VMM refused is begun anew and counts as no restart', () => {
  const host = new SimulatedHost(testRecord(), testNow);
  while (host.spawned === 0) host.turn();
  host.disturb('stepFails');
  settle(host);
  expect([host.spawned, host.vmm.kind, host.record.run.restarts, host.record.run.lastExit]).toEqual([2, 'live', 0, undefined]);
});

test('a running guest gets new ports at once, and other cards or addresses only with its next start', () => {
  const host = running({ desired: testDesired({ networks: [card] }) });
  host.record = { ...host.record, desired: testDesired({ networks: [{ ...card, ports: [port] }] }) };
  settle(host);
  expect([host.networks, host.spawned]).toEqual([['lan 8080'], 1]);
  host.record = { ...host.record, desired: testDesired({ networks: [{ ...card, mac: '52:54:00:00:00:09' }] }) };
  settle(host);
  expect([host.networks, host.spawned]).toEqual([['lan 8080'], 1]);
  host.record = { ...host.record, desired: testDesired({ networks: [{ ...card, mac: '52:54:00:00:00:09' }], restartNonce: 1 }) };
  settle(host);
  expect([host.networks, host.spawned]).toEqual([['lan '], 2]);
});

test('an agent that is started anew mends the networks of a running guest without touching the guest', () => {
  const host = running({ desired: testDesired({ networks: [card] }) });
  host.networks = [];
  host.disturb('agentRestarts');
  settle(host);
  expect([host.networks, host.spawned]).toEqual([['lan '], 1]);
});

test('another version of the Secret that cloud-init reads needs another start, and another one that it does not read needs none', () => {
  const keyOf = (secrets: DesiredMicroVM['secrets']): string => machineKey(testDesired({ cloudInit, ...(secrets === undefined ? {} : { secrets }) }));
  const reference = { name: 'guest', key: 'user-data', resourceVersion: '1' };
  expect(keyOf([{ ...reference, resourceVersion: '2' }])).not.toBe(keyOf([reference]));
  expect(keyOf([reference, { name: 'registry', key: 'token', resourceVersion: '1' }])).toBe(keyOf([reference]));
});

test('a specification without networks has the key that it had before there were any', () => {
  const { cpuCount, memoryBytes, disks, serialLog } = testDesired();
  expect(machineKey(testDesired({ networks: [] }))).toBe(machineKey(testDesired()));
  expect(JSON.parse(machineKey(testDesired()))).toEqual([cpuCount, memoryBytes, testDesired().boot, disks, serialLog]);
});
