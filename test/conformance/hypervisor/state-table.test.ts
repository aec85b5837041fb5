/**
 * Every call in every state: status, chain of errors, state and events afterwards, one fresh VMM for
 * each cell. The values were measured on cloud-hypervisor v53.0-246 and belong to this suite alone.
 */
import { expect, test } from 'vitest';
import { countCells, describeOnTargets, type Target } from './targets.ts';
import { chainOf, startVmm, stopVmmsAfterEach, type VmmUnderTest, type VmState } from './vmm-under-test.ts';

stopVmmsAfterEach();

interface Cell {
  readonly status: number;
  /** The whole chain without its first string, which is always "Error from API". */
  readonly chain?: readonly string[];
  /** Checked instead of the chain. */
  readonly body?: RegExp;
  /** Default: the state stays as it was. `gone`: the process ends with code 0. */
  readonly then?: string;
  /** Default: none. `virtio-device` events are left out. */
  readonly events?: readonly string[];
}

interface Row {
  readonly call: string;
  readonly method?: 'GET';
  readonly body?: (vmm: VmmUnderTest) => unknown;
  readonly none: Cell;
  /** Also the cell after vm.shutdown. */
  readonly created: Cell;
  readonly running: Cell;
  readonly paused: Cell;
}

const ok = (then?: string, events: string[] = []): Cell => ({ status: 204, events, ...(then === undefined ? {} : { then }) });
const refused = (status: number, chain: string[], events: string[] = []): Cell => ({ status, chain, events });

const notCreated = 'VM is not created';
const notRunning = 'VM is not running';
const alreadyCreated = 'VM is already created';
const deviceManager = 'Error from device manager';
const migrationContext = 'Failed to send migratable component snapshot';
const unknownId = 'Failed to find device corresponding to the given identifier: x';

/** A row whose answer is one refusal in each state. */
const allRefused = (what: string, none: [number, string], created: [number, string], running: [number, string], paused = running) => {
  const cell = ([status, cause]: [number, string]) => refused(status, [what, cause]);
  return { none: cell(none), created: cell(created), running: cell(running), paused: cell(paused) };
};

const addRow = (call: string, what: string, body: (vmm: VmmUnderTest) => unknown, id: RegExp): Row => ({
  call,
  body,
  none: refused(404, [what, notCreated]),
  created: { status: 204, body: /^$/ },
  running: { status: 200, body: id },
  paused: { status: 200, body: id },
});

const rows: readonly Row[] = [
  { call: 'vmm.ping', method: 'GET', none: { status: 200, body: /"version":"/ }, created: { status: 200, body: /"pid":\d+/ }, running: { status: 200, body: /"features":\[/ }, paused: { status: 200, body: /"build_version":"v/ } },
  {
    call: 'vm.info',
    method: 'GET',
    none: refused(404, ['The VM info is not available', notCreated]),
    created: { status: 200, body: /"state":"Created","memory_actual_size":67108864}$/ },
    running: { status: 200, body: /"state":"Running",.*"device_tree":\{/ },
    paused: { status: 200, body: /"state":"Paused",.*"device_tree":\{/ },
  },
  { call: 'vm.counters', method: 'GET', none: refused(500, ['The VM info is not available', notRunning]), created: refused(500, ['The VM info is not available', notRunning]), running: { status: 200, body: /^\{\}$/ }, paused: { status: 200, body: /^\{\}$/ } },
  { call: 'vm.create', body: (vmm) => vmm.config(), none: ok('Created'), created: refused(500, ['The VM could not be created', alreadyCreated]), running: refused(500, ['The VM could not be created', alreadyCreated]), paused: refused(500, ['The VM could not be created', alreadyCreated]) },
  {
    call: 'vm.boot',
    none: refused(404, ['The VM could not boot', 'VM config is missing'], ['vm:booting']),
    created: ok('Running', ['vm:booting', 'vm:booted']),
    running: refused(500, ['The VM could not boot', alreadyCreated]),
    paused: refused(500, ['The VM could not boot', alreadyCreated]),
  },
  {
    call: 'vm.pause',
    none: refused(500, ['The VM could not be paused', notRunning]),
    created: refused(500, ['The VM could not be paused', notRunning]),
    running: ok('Paused', ['vm:pausing', 'vm:paused']),
    paused: refused(500, ['The VM could not be paused', 'Cannot pause VM', 'Failed to pause migratable component', 'Invalid transition: InvalidStateTransition(Paused, Paused)'], ['vm:pausing']),
  },
  {
    call: 'vm.resume',
    none: refused(500, ['The VM could not resume', notRunning]),
    created: refused(500, ['The VM could not resume', notRunning]),
    running: refused(500, ['The VM could not resume', 'Cannot resume VM', 'Failed to resume migratable component', 'Invalid transition: InvalidStateTransition(Running, Running)'], ['vm:resuming']),
    paused: ok('Running', ['vm:resuming', 'vm:resumed']),
  },
  { call: 'vm.power-button', none: refused(500, ['Error triggering power button', notRunning]), created: refused(500, ['Error triggering power button', notRunning]), running: ok('gone', ['vm:shutdown', 'vm:deleted', 'vmm:shutdown']), paused: ok() },
  // The test guest has no handler for an NMI: a triple fault, which reboots in place.
  { call: 'vm.nmi', none: refused(500, ['Error triggering NMI', notRunning]), created: refused(500, ['Error triggering NMI', notRunning]), running: ok('Running', ['vm:rebooting', 'vm:rebooted']), paused: ok() },
  {
    call: 'vm.reboot',
    none: refused(404, ['The VM could not reboot', notCreated], ['vm:rebooting']),
    created: refused(404, ['The VM could not reboot', notCreated], ['vm:rebooting']),
    running: ok('Running', ['vm:rebooting', 'vm:rebooted']),
    paused: ok('Running', ['vm:rebooting', 'vm:rebooted']),
  },
  { call: 'vm.shutdown', none: refused(500, ['The VM could not shutdown', notRunning]), created: refused(500, ['The VM could not shutdown', notRunning]), running: ok('Created', ['vm:shutdown']), paused: ok('Created', ['vm:shutdown']) },
  { call: 'vm.delete', none: ok(), created: ok('none', ['vm:deleted']), running: ok('none', ['vm:shutdown', 'vm:deleted']), paused: ok('none', ['vm:shutdown', 'vm:deleted']) },
  {
    call: 'vm.snapshot',
    body: () => ({ destination_url: 'file:///nonexistent' }),
    none: refused(500, ['The VM could not be snapshotted', notRunning]),
    created: refused(500, ['The VM could not be snapshotted', notRunning]),
    running: refused(500, ['The VM could not be snapshotted', 'Cannot snapshot VM', 'Failed to snapshot migratable component', 'Trying to snapshot while VM is running'], ['vm:snapshotting']),
    // The missing directory where KVM has nested state, GetNestedState where it has not.
    paused: { status: 500, body: /^\["Error from API","The VM could not be snapshotted","Cannot snapshot VM",/, events: ['vm:snapshotting'] },
  },
  {
    call: 'vm.restore',
    body: () => ({ source_url: 'file:///nonexistent' }),
    none: refused(500, ['The VM could not be restored', 'Cannot restore VM', migrationContext, 'Destination is not a directory: "/nonexistent"']),
    created: refused(500, ['The VM could not be restored', alreadyCreated]),
    running: refused(500, ['The VM could not be restored', alreadyCreated]),
    paused: refused(500, ['The VM could not be restored', alreadyCreated]),
  },
  { call: 'vm.resize', body: () => ({}), none: refused(404, ['The VM could not be resized', notCreated]), created: ok(), running: ok(undefined, ['vm:resizing', 'vm:resized']), paused: ok(undefined, ['vm:resizing', 'vm:resized']) },
  {
    call: 'vm.resize-disk',
    body: () => ({ id: 'x', desired_size: 1 }),
    none: refused(404, ['The disk could not be resized', notCreated]),
    created: refused(500, ['The disk could not be resized', 'Failed resizing a disk image']),
    running: refused(404, ['The disk could not be resized', deviceManager, unknownId]),
    paused: refused(404, ['The disk could not be resized', deviceManager, unknownId]),
  },
  { call: 'vm.resize-zone', body: () => ({ id: 'x', desired_ram: 1 }), ...allRefused('The memory zone could not be resized', [404, notCreated], [500, 'Failed resizing a memory zone'], [500, 'Failed resizing a memory zone']) },
  addRow('vm.add-disk', 'The disk could not be added to the VM', (vmm) => ({ path: vmm.file('disk.raw') }), /^\{"id":"_disk0","bdf":"0000:00:02\.0"\}$/),
  addRow('vm.add-vsock', 'The vsock device could not be added to the VM', () => ({ cid: 3, socket: 'vsock.sock' }), /^\{"id":"_vsock0","bdf":"0000:00:02\.0"\}$/),
  {
    // A real tap needs privileges, so a name that can't be one is used.
    call: 'vm.add-net',
    body: () => ({ tap: 'abcdefghijklmnopqrst' }),
    none: refused(404, ['The network device could not be added to the VM', notCreated]),
    created: { status: 204, body: /^$/ },
    running: { status: 500, body: /"Interface name too long \(max length is 15\): abcdefghijklmnopqrst"\]$/ },
    paused: { status: 500, body: /"Interface name too long \(max length is 15\): abcdefghijklmnopqrst"\]$/ },
  },
  {
    call: 'vm.add-device',
    body: () => ({ path: '/nonexistent' }),
    none: refused(404, ['The device could not be added to the VM', notCreated]),
    created: { status: 204, body: /^$/ },
    running: { status: 500, body: /^\["Error from API","The device could not be added to the VM","Error from device manager",/ },
    paused: { status: 500, body: /^\["Error from API","The device could not be added to the VM","Error from device manager",/ },
  },
  {
    call: 'vm.add-pmem',
    body: () => ({ file: '/nonexistent', size: 1 }),
    none: refused(404, ['The pmem device could not be added to the VM', notCreated]),
    created: { status: 204, body: /^$/ },
    running: refused(500, ['The pmem device could not be added to the VM', deviceManager, 'Cannot open persistent memory file', 'No such file or directory (os error 2)']),
    paused: refused(500, ['The pmem device could not be added to the VM', deviceManager, 'Cannot open persistent memory file', 'No such file or directory (os error 2)']),
  },
  {
    call: 'vm.remove-device',
    body: () => ({ id: 'x' }),
    none: refused(404, ['The device could not be removed from the VM', notCreated]),
    created: refused(404, ['The device could not be removed from the VM', 'No device with id "x" to remove']),
    running: refused(404, ['The device could not be removed from the VM', deviceManager, unknownId]),
    paused: refused(404, ['The device could not be removed from the VM', deviceManager, unknownId]),
  },
  {
    call: 'vm.send-migration',
    body: () => ({ destination_url: 'unix:/nonexistent' }),
    none: refused(500, ['Error dispatching the migration worker', migrationContext, notRunning]),
    created: refused(500, ['Error dispatching the migration worker', migrationContext, notRunning]),
    running: ok(undefined, ['vm:migration-started', 'vm:migration-failed']),
    paused: ok(undefined, ['vm:migration-started', 'vm:migration-failed']),
  },
  { call: 'vmm.shutdown', none: { status: 200, body: /^$/, then: 'gone', events: ['vmm:shutdown'] }, created: { status: 200, body: /^$/, then: 'gone', events: ['vm:deleted', 'vmm:shutdown'] }, running: { status: 200, body: /^$/, then: 'gone', events: ['vm:shutdown', 'vm:deleted', 'vmm:shutdown'] }, paused: { status: 200, body: /^$/, then: 'gone', events: ['vm:shutdown', 'vm:deleted', 'vmm:shutdown'] } },
  // The route needs a feature that a stock build lacks.
  { call: 'vm.coredump', body: () => ({ destination_url: 'file:///x' }), none: { status: 404, body: /^\["Not Found"\]$/ }, created: { status: 404, body: /^\["Not Found"\]$/ }, running: { status: 404, body: /^\["Not Found"\]$/ }, paused: { status: 404, body: /^\["Not Found"\]$/ } },
];

/** v53.0 knows no 404 for an unknown device. */
const onlyRelease53 = new Map([
  ['vm.remove-device created', 500],
  ['vm.remove-device running', 500],
  ['vm.remove-device paused', 500],
  ['vm.resize-disk running', 500],
  ['vm.resize-disk paused', 500],
]);

const shownState: Readonly<Record<VmState, string>> = { none: 'none', created: 'Created', shutdown: 'Created', running: 'Running', paused: 'Paused' };
const states: readonly VmState[] = ['none', 'created', 'shutdown', 'running', 'paused'];

describeOnTargets('state table', (target) => {
  const cells = countCells(target, 'state table');
  for (const row of rows) {
    for (const state of states) {
      test(`${row.call} in state ${state}`, async () => {
        await checkCell(target, row, state);
        cells.add();
      });
    }
  }
});

async function checkCell(target: Target, row: Row, state: VmState): Promise<void> {
  const vmm = await startVmm(target);
  await vmm.bringTo(state);
  const column = state === 'shutdown' ? 'created' : state;
  const cell = row[column];
  if (row.call === 'vm.add-disk') await vmm.makeDisk();
  const before = (await settledEvents(vmm, state)).length;

  const answer = await (row.method === 'GET' ? vmm.get(row.call) : vmm.put(row.call, row.body?.(vmm)));

  expect(`${row.call} ${answer.status}`, answer.body).toBe(`${row.call} ${await expectedStatus(vmm, row.call, column, cell)}`);
  if (cell.chain !== undefined) expect(chainOf(answer)).toEqual(['Error from API', ...cell.chain]);
  if (cell.body !== undefined) expect(answer.body).toMatch(cell.body);
  if (cell.then === 'gone') {
    expect(await vmm.ended).toEqual({ code: 0, signal: null });
    // The writer is a thread of its own: the last records may be missing at the end of the process.
    const seen = await newEvents(vmm, before);
    expect(seen).toEqual((cell.events ?? []).slice(0, seen.length));
    return;
  }
  const expectedEvents = cell.events ?? [];
  await vmm.untilEvents((events) => events.slice(before).filter(isOfVm).length >= expectedEvents.length);
  expect(await vmm.state()).toBe(cell.then ?? shownState[state]);
  expect(await newEvents(vmm, before)).toEqual(expectedEvents);
}

async function expectedStatus(vmm: VmmUnderTest, call: string, column: string, cell: Cell): Promise<number> {
  const older = onlyRelease53.get(`${call} ${column}`);
  if (older === undefined) return cell.status;
  const { version } = JSON.parse((await vmm.get('vmm.ping')).body) as { version: string };
  return version.startsWith('53.') ? older : cell.status;
}

const isOfVm = (event: string) => !event.startsWith('virtio-device:');

async function newEvents(vmm: VmmUnderTest, before: number): Promise<string[]> {
  return (await vmm.events()).slice(before).filter(isOfVm);
}

/** Waits for the events of the way to the state, so that they are not taken for the call's. */
async function settledEvents(vmm: VmmUnderTest, state: VmState): Promise<string[]> {
  const last: Readonly<Record<VmState, string>> = { none: 'vmm:starting', created: 'vmm:starting', running: 'vm:booted', paused: 'vm:paused', shutdown: 'vm:shutdown' };
  return vmm.untilEvents((events) => events.includes(last[state]));
}
