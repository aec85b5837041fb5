import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { errorCatalogue } from '#api/model/error-codes.ts';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, microVMId, operationId, planId, siteId, tenantId } from '#api/model/ids.ts';
import { exitReasons, observedStates, runPolicies, type DesiredMicroVM, type MicroVMObservation } from '#api/model/microvm.ts';
import { operationStatuses } from '#api/model/plan.ts';
import { siteOverrideKinds } from '#api/model/site-orders.ts';
import { microvmConditions } from '#crds/conditions.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import type { MicroVMRecord } from '#controller/ports/microvm-store.ts';
import { projectMicroVMStatus } from './status.ts';
import type { MicroVMFacts } from './view.ts';

const id = '00000000-0000-4000-8000-000000000001';
const epoch = makeEpoch(1, 7);
const nowMs = Date.UTC(2026, 0, 2, 3, 4, 5);
const desired: DesiredMicroVM = {
  name: 'web', namespace: 'shop', runPolicy: 'Always', paused: false, restartNonce: 0,
  restart: { initialBackoffMs: 1000, maxBackoffMs: 60_000, maxRetries: 5, windowMs: 600_000 },
  cpuCount: 1, memoryBytes: 2 ** 26, boot: { kind: 'firmware', path: '/f' }, disks: [], serialLog: true, terminationGracePeriodMs: 1000,
};
const object: MicroVM = {
  apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM',
  metadata: { name: 'web', namespace: 'shop', uid: id, resourceVersion: '1', generation: 1, creationTimestamp: '2026-01-02T03:04:05Z' },
  spec: { siteRef: { name: 'shop-1' }, boot: { firmware: { path: '/f' } } },
};

type Seen = MicroVMObservation & { readonly receivedAtMs: number };

function observation(changes: Partial<Seen> = {}): Seen {
  return {
    microvmId: microVMId(id), epoch, revision: 1, generation: 1, sequence: 1, state: 'running', observedAtMs: nowMs, restarts: 0,
    isCrashLooping: false, isRestartRequired: false, receivedAtMs: nowMs, ...changes,
  };
}

function record(changes: Partial<MicroVMRecord> = {}): MicroVMRecord {
  return {
    tenantId: tenantId(id), siteId: siteId(id), microvmId: microVMId(id), name: 'web', generation: 1, desired, isDeleting: false, isTornDown: false,
    binding: { hostId: hostId(id), hostName: 'edge-1', epoch },
    newestOperation: { id: operationId(id), planId: planId(id), planStatus: 'Running', kind: 'Create', status: 'Running', revision: 1, generation: 1, tryNumber: 1, error: null },
    observation: null,
    ...changes,
  };
}

const online = { reachability: 'online', lastBeatAtMs: nowMs - 1000 } as const;
const facts = (changes: Partial<MicroVMFacts> = {}): MicroVMFacts => ({ record: record(), obstacle: null, silence: online, nowMs, ...changes });
const seen = (changes: Partial<Seen>, recordChanges: Partial<MicroVMRecord> = {}): MicroVMFacts => facts({ record: record({ observation: observation(changes), ...recordChanges }) });

function conditionsOf(status: MicroVM['status']): Record<string, string> {
  return Object.fromEntries((status?.conditions ?? []).map(({ type, status: value, reason }) => [type, `${value}/${reason}`]));
}

const anyFacts = fc
  .record({
    state: fc.option(fc.constantFrom(...observedStates)),
    policy: fc.constantFrom(...runPolicies),
    problem: fc.option(fc.constantFrom(...Object.keys(errorCatalogue))),
    exit: fc.option(fc.constantFrom(...exitReasons)),
    override: fc.option(fc.constantFrom(...siteOverrideKinds)),
    planStatus: fc.constantFrom(...operationStatuses),
    restarts: fc.integer({ min: 0, max: 3 }),
    isBound: fc.boolean(),
    reachability: fc.constantFrom('online', 'silent', 'undecided' as const),
    obstacle: fc.constantFrom(null, { condition: 'Accepted', reason: 'ClassNotFound', message: 'm' } as const, { condition: 'Scheduled', reason: 'NoHostFits', message: 'm' } as const),
    isDeleting: fc.boolean(),
  })
  .map((raw) => {
    const observed = raw.state === null ? null : observation({
      state: raw.state, restarts: raw.restarts,
      ...(raw.problem === null ? {} : { problem: { code: raw.problem, message: 'because' } }),
      ...(raw.exit === null ? {} : { lastExit: { reason: raw.exit, atMs: nowMs } }),
      ...(raw.override === null ? {} : { siteOverride: { kind: raw.override, number: 7, by: { user: 'alice', uid: 1001 }, atMs: nowMs } }),
    });
    const made = record({
      desired: { ...desired, runPolicy: raw.policy },
      observation: observed,
      newestOperation: { ...(record().newestOperation ?? never()), planStatus: raw.planStatus, status: raw.planStatus },
      ...(raw.isBound ? {} : { binding: null }),
    });
    return {
      subject: raw.isDeleting ? { ...object, metadata: { ...object.metadata, deletionTimestamp: '2026-01-02T03:04:05Z' } } : object,
      facts: facts({ record: made, obstacle: raw.obstacle, silence: raw.isBound ? { reachability: raw.reachability, lastBeatAtMs: nowMs - 1000 } : null }),
    };
  });

function never(): never {
  throw new Error('the builder has an operation');
}

describe('the status of a microVM', () => {
  it('tells a Secret that awaits a restart from a spec that does', () => {
    const reasonOf = (changes: Partial<Seen>): string | undefined => conditionsOf(projectMicroVMStatus(object, seen(changes)))['RestartRequired'];
    expect(reasonOf({})).toBe('False/UpToDate');
    expect(reasonOf({ isRestartRequired: true })).toBe('True/SpecChanged');
    expect(reasonOf({ isRestartRequired: true, isSecretChanged: true })).toBe('True/SecretChanged');
  });

  it('shows what the running guest has, from its boot on', () => {
    const sizes = { cpuCount: 3, memoryBytes: 384 * 2 ** 20 };
    expect(projectMicroVMStatus(object, seen({ bootedAtMs: nowMs, ...sizes })).size).toEqual({ cpus: 3, memory: '384Mi' });
    expect(projectMicroVMStatus(object, seen({ state: 'booting', ...sizes })).size).toBeUndefined();
    expect(projectMicroVMStatus(object, seen({ bootedAtMs: nowMs })).size).toBeUndefined();
  });

  it('does not change when it is derived again from itself, a day later', () => {
    fc.assert(
      fc.property(anyFacts, ({ subject, facts: given }) => {
        const first = projectMicroVMStatus(subject, given);
        expect(projectMicroVMStatus({ ...subject, status: first }, { ...given, nowMs: nowMs + 86_400_000 })).toEqual(first);
      }),
      { numRuns: 500 },
    );
  });

  it('uses only the types and reasons of the list, each type once', () => {
    fc.assert(
      fc.property(anyFacts, ({ subject, facts: given }) => {
        const conditions = projectMicroVMStatus(subject, given).conditions ?? [];
        expect(new Set(conditions.map(({ type }) => type)).size).toBe(conditions.length);
        const known: Record<string, { readonly reasons: readonly string[] }> = microvmConditions;
        for (const { type, reason } of conditions) expect(known[type]?.reasons, `${type} ${reason}`).toContain(reason);
      }),
      { numRuns: 500 },
    );
  });

  it('never says that a microVM of a silent host runs or does not run', () => {
    fc.assert(
      fc.property(anyFacts, ({ subject, facts: given }) => {
        if (given.silence?.reachability !== 'silent') return;
        const status = projectMicroVMStatus(subject, given);
        expect(conditionsOf(status)).toMatchObject({ Running: 'Unknown/HostSilent', Ready: 'Unknown/HostSilent', Reachable: 'Unknown/HostSilent' });
        expect(status.lastObservedTime).toBe('2026-01-02T03:04:04Z');
      }),
    );
  });

  it('is the same from the binding to the first boot, so that only Running is worth the next write', () => {
    const first = projectMicroVMStatus(object, facts());
    expect(first.printableStatus).toBe('Starting');
    for (const state of ['absent', 'preparing', 'booting'] as const) {
      expect(projectMicroVMStatus({ ...object, status: first }, seen({ state }))).toEqual(first);
    }
    const running = projectMicroVMStatus({ ...object, status: first }, seen({ state: 'running' }));
    expect(running).toMatchObject({ printableStatus: 'Running', hostObservedGeneration: 1, plan: { status: 'Succeeded' } });
    const ended = seen({ state: 'running' }, { newestOperation: { ...(record().newestOperation ?? never()), planStatus: 'Succeeded', status: 'Succeeded' } });
    expect(projectMicroVMStatus({ ...object, status: running }, ended)).toEqual(running);
  });

  it('says that the plan was cancelled also when the host dropped the operation, whose revision it then reports', () => {
    const cancelled = { newestOperation: { ...(record().newestOperation ?? never()), planStatus: 'Cancelled', status: 'Cancelled', kind: 'Stop', revision: 2, generation: 2 } } as const;
    const stop = projectMicroVMStatus(object, seen({ state: 'running', revision: 2 }, { ...cancelled, generation: 2, desired: { ...desired, runPolicy: 'Halted' } }));
    expect(conditionsOf(stop)).toMatchObject({ Provisioned: 'False/OperationCancelled', Running: 'True/Running' });
    expect(stop).toMatchObject({ printableStatus: 'Running', hostObservedGeneration: 1, plan: { status: 'Cancelled' } });
    for (const create of [facts({ record: record(cancelled) }), seen({ state: 'absent', revision: 2 }, cancelled)]) {
      const status = projectMicroVMStatus(object, create);
      expect(conditionsOf(status)).toMatchObject({ Provisioned: 'False/OperationCancelled', Running: 'False/OperationCancelled' });
      expect(status.printableStatus).toBe('Scheduled');
    }
    // Another part of the plan may still be open.
    const partly = { newestOperation: { ...cancelled.newestOperation, planStatus: 'Running' } } as const;
    expect(projectMicroVMStatus(object, seen({ state: 'running', revision: 2 }, partly)).plan).toMatchObject({ status: 'Pending' });
  });

  it('keeps what it showed while a new leader has not listened long enough', () => {
    const running = projectMicroVMStatus(object, seen({}));
    const silent = projectMicroVMStatus(object, { ...seen({}), silence: { reachability: 'silent', lastBeatAtMs: nowMs - 60_000 } });
    const undecided = { ...seen({}), silence: { reachability: 'undecided', lastBeatAtMs: nowMs - 60_000 } } as const;
    expect(projectMicroVMStatus({ ...object, status: running }, undecided)).toEqual(running);
    expect(projectMicroVMStatus({ ...object, status: silent }, undecided)).toEqual(silent);
  });

  it('ignores what a host reports of an earlier binding', () => {
    expect(projectMicroVMStatus(object, seen({ epoch: makeEpoch(1, 6) }))).toEqual(projectMicroVMStatus(object, facts()));
  });

  it('keeps where it was bound while the database does not know it, whatever it waits for, and not once that was released', () => {
    const binding = { hostName: 'edge-1', hostID: id, epoch };
    const unknown = facts({ record: null, silence: null, obstacle: { condition: 'Scheduled', reason: 'NoHostFits', message: 'm' } });
    expect(projectMicroVMStatus({ ...object, status: { binding } }, unknown).binding).toEqual(binding);
    const released = facts({ record: record({ binding: null }), silence: null, obstacle: { condition: 'Scheduled', reason: 'NoHostFits', message: 'm' } });
    expect(projectMicroVMStatus({ ...object, status: { binding } }, released).binding).toBeUndefined();
  });

  it('never goes back with the generation that the host has', () => {
    const at3 = projectMicroVMStatus({ ...object, status: { hostObservedGeneration: 3 } }, seen({ generation: 2 }));
    expect(at3.hostObservedGeneration).toBe(3);
  });

  it.each([
    [{ state: 'stopped' }, 'Halted', 'False/Halted', 'Stopped'],
    [{ state: 'stopped', lastExit: { reason: 'GuestShutdown', atMs: 0 } }, 'Once', 'False/Completed', 'Completed'],
    [{ state: 'stopped', lastExit: { reason: 'VMMCrash', atMs: 0 } }, 'Once', 'False/VMMCrash', 'Stopped'],
    [{ state: 'stopped' }, 'Manual', 'False/Manual', 'Stopped'],
    [{ state: 'backoff', isCrashLooping: true }, 'Always', 'False/BackingOff', 'CrashLooping'],
    [{ state: 'failed', problem: { code: 'KERNEL_NOT_FOUND', message: 'no /k' } }, 'Always', 'False/KernelNotFound', 'Failed'],
    [{ state: 'paused' }, 'Always', 'False/Paused', 'Paused'],
  ] as const)('shows %j under %s as Running=%s, %s', (change, runPolicy, running, word) => {
    const status = projectMicroVMStatus(object, seen(change as Partial<Seen>, { desired: { ...desired, runPolicy } })); // The table's literals.
    expect([conditionsOf(status)['Running'], status.printableStatus]).toEqual([running, word]);
  });

  it('names the missing file under the conditions that a person reads', () => {
    const status = projectMicroVMStatus(object, seen({ state: 'failed', problem: { code: 'DISK_NOT_FOUND', message: 'no /data.raw' } }));
    expect(conditionsOf(status)).toMatchObject({ ImagesReady: 'False/DiskNotFound', Provisioned: 'False/DiskNotFound', Ready: 'False/DiskNotFound' });
    expect(status.conditions?.find(({ type }) => type === 'Provisioned')?.message).toContain('/data.raw');
  });

  it.each([
    ['Held', 'stopped', 'False/HeldAtSite', 'True/HeldAtSite', 'Stopped', 'held down by alice (uid 1001) on host edge-1 at 2026-01-02T03:04:05Z; it ends there (nkudo-edge vm release), or by the annotation nkudo.dev/override-hold=7'],
    ['Stopped', 'stopped', 'False/StoppedAtSite', 'True/StoppedAtSite', 'Stopped', 'stopped by alice (uid 1001) on host edge-1 at 2026-01-02T03:04:05Z; it ends there (nkudo-edge vm start), by a new runPolicy or restartNonce, or by the annotation nkudo.dev/override-hold=7'],
    ['ForcedStart', 'running', 'True/Running', 'True/ForcedStart', 'Running', 'started by alice (uid 1001) on host edge-1 at 2026-01-02T03:04:05Z, although runPolicy is Halted; it ends there (nkudo-edge vm release), by a new runPolicy or restartNonce, or by the annotation nkudo.dev/override-hold=7'],
  ] as const)('says who %s it at the site, and what ends that', (kind, state, running, override, word, message) => {
    const status = projectMicroVMStatus(object, seen({ state, siteOverride: { kind, number: 7, by: { user: 'alice', uid: 1001 }, atMs: nowMs } }));
    expect(conditionsOf(status)).toMatchObject({ Running: running, SiteOverride: override });
    expect(status.printableStatus).toBe(word);
    expect(status.conditions?.find(({ type }) => type === 'SiteOverride')?.message).toBe(message);
    // Once it has ended, that is said; before the first, nothing is.
    expect(conditionsOf(projectMicroVMStatus({ ...object, status }, seen({})))['SiteOverride']).toBe('False/NoOverride');
    expect(conditionsOf(projectMicroVMStatus(object, seen({})))).not.toHaveProperty('SiteOverride');
  });

  it('says what a deletion waits for, and how to give up a silent host', () => {
    const leaving = { ...object, metadata: { ...object.metadata, deletionTimestamp: '2026-01-02T03:04:05Z' } };
    const status = projectMicroVMStatus(leaving, { ...seen({}), silence: { reachability: 'silent', lastBeatAtMs: nowMs - 1000 } });
    const blocked = status.conditions?.find(({ type }) => type === 'DeletionBlocked');
    expect(blocked?.message).toBe(
      `waiting for host edge-1 to confirm the teardown; it was last heard at 2026-01-02T03:04:04Z; to give up, annotate it with nkudo.dev/force-delete=${id}`,
    );
  });

  describe('of a microVM with networks', () => {
    const networks = [
      { name: 'lan', kind: 'nat', mac: 'm', address: '10.87.0.2/20', gateway: '10.87.0.1', ports: [{ name: 'dns', protocol: 'udp', hostPort: 20_000, guestPort: 53 }] },
      { name: 'plant', kind: 'bridge', mac: 'm', bridgeName: 'br0', ports: [] },
      { name: 'fleet', kind: 'mesh', mac: 'm', address: '10.96.0.9/24', gateway: '10.96.0.1', ports: [] },
    ] as const;
    const withNetworks = { ...object, spec: { ...object.spec, networks: [{ name: 'lan', nat: {} }] } };
    const show = (changes: Partial<Seen>, more: Partial<MicroVMFacts> = {}) => projectMicroVMStatus(withNetworks, { ...seen(changes, { desired: { ...desired, networks } }), ...more });

    it('shows the addresses that it was given, the ports that lead to them, and the one of the mesh', () => {
      expect(show({})).toMatchObject({
        addresses: [
          { network: 'lan', address: '10.87.0.2', type: 'NAT', ports: [{ name: 'dns', protocol: 'UDP', hostPort: 20_000, guestPort: 53 }] },
          { network: 'fleet', address: '10.96.0.9', type: 'Mesh' },
        ],
        meshAddress: '10.96.0.9',
      });
      expect(projectMicroVMStatus(object, seen({}))).not.toHaveProperty('addresses');
      expect(projectMicroVMStatus(withNetworks, facts({ record: null }))).not.toHaveProperty('addresses');
    });

    it.each([
      ['True/NetworksMade', { state: 'running' }, {}],
      ['False/DHCPUnavailable', { state: 'running', warnings: [{ code: 'DHCP_UNAVAILABLE', message: 'm' }] }, {}],
      ['False/HostWarning', { state: 'running', warnings: [{ code: 'OF_LATER', message: 'm' }] }, {}],
      ['False/PortInUse', { state: 'failed', problem: { code: 'PORT_IN_USE', message: 'm' } }, {}],
      ['Unknown/KernelNotFound', { state: 'failed', problem: { code: 'KERNEL_NOT_FOUND', message: 'm' } }, {}],
      ['Unknown/WaitingForHost', { state: 'preparing' }, {}],
      ['Unknown/NotRunning', { state: 'stopped' }, {}],
      ['Unknown/HostSilent', { state: 'running' }, { silence: { reachability: 'silent', lastBeatAtMs: null } }],
      ['False/PortInUse', { state: 'running' }, { obstacle: { condition: 'NetworksReady', reason: 'PortInUse', message: 'm' } }],
      ['False/NotScheduled', { state: 'running' }, { record: null }],
    ] as const)('has NetworksReady=%s for %j %j', (expected, changes, more) => {
      expect(conditionsOf(show(changes, more))['NetworksReady']).toBe(expected);
    });

    it('has no NetworksReady without networks', () => {
      expect(conditionsOf(projectMicroVMStatus(object, seen({})))).not.toHaveProperty('NetworksReady');
    });
  });
});
