/**
 * kill -9 of the agent alone: at every fault point that each kind of operation reaches, counted and not listed, and at
 * random moments under load. An observer of pids says whether a VM was lost, doubled or rebooted; two looks at the
 * machine say whether anything stayed behind.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import type { MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM, NetworkSpec } from '#api/model/microvm.ts';
import { operationKinds, type OperationKind } from '#api/model/plan.ts';
import { observeVmms, type LiveVmm, type VmmObserver } from '#test/e2e/vmm-observer.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { startKillCounter, type KillCounter } from './edge/kill-counter.ts';
import { belongings, differing, leaked, lookForLeaks, type Look } from './edge/leaks.ts';
import { createEdgeMachine, networkObstacle, newMicroVM, type EdgeMachine } from './edge/machine.ts';
import { createRandom, isFullRun, sample, testSeed } from './seed.ts';

/** Kills in `npm test`; `npm run test:long` does all points, and as many random ones as the issue asks for. */
const pointsInSample = 10;
const randomKills = isFullRun ? 1_000 : 20;
const guestsUnderLoad = isFullRun ? 8 : 4;
/** Longest life of an agent under load before it is killed, counted in fault points. */
const pointsBetweenKillsMax = 160;
const longMs = 3_600_000;

if (networkObstacle !== null) process.stdout.write(`[E1] without networks of guests: ${networkObstacle}\n`);

let machine: EdgeMachine;
let counter: KillCounter;
let observer: VmmObserver;
let bystander: LiveVmm;
let bystanderId: MicroVMId;
let pristine: Look;
const used: MicroVMId[] = [];
/** Points that the last operation without a kill reached. */
let lastCount = 0;

beforeAll(async () => {
  counter = await startKillCounter();
  machine = await createEdgeMachine({ environment: { NKUDO_FAULT_SOCKET: counter.socketPath }, heartbeatIntervalMs: 1_000 });
  await machine.start();
  await machine.plane.when('the agent', () => machine.plane.hellos.length > 0);
  bystanderId = fresh();
  await machine.carryOut(machine.order(bystanderId, 'Create', machine.desired(bystanderId)));
  bystander = theVmm(bystanderId);
  pristine = await lookForLeaks(machine, used);
  observer = observeVmms(machine.stateDirectory, machine.hypervisor);
  fileScope().defer(() => observer.stop());
});

function fresh(): MicroVMId {
  const id = newMicroVM();
  used.push(id);
  return id;
}

function theVmm(id: MicroVMId): LiveVmm {
  const found = machine.vmmsOf(id);
  const [vmm] = found;
  if (vmm === undefined || found.length !== 1) throw new Error(`${id} has ${found.length} VMMs`);
  return vmm;
}

const isSame = (one: LiveVmm, other: LiveVmm): boolean => one.pid === other.pid && one.startTime === other.startTime;

interface Kind {
  /** What it starts from; null: nothing there. */
  readonly from: (desired: DesiredMicroVM) => DesiredMicroVM | null;
  readonly to: (desired: DesiredMicroVM) => DesiredMicroVM | null;
  /** What it does to the VMM. */
  readonly vmm: 'starts' | 'ends' | 'stays' | 'isReplaced';
}

const withPort = ({ networks = [], ...desired }: DesiredMicroVM, hostPort: number): DesiredMicroVM => ({
  ...desired,
  ...(networks.length === 0 ? {} : { networks: networks.map((network): NetworkSpec => ({ ...network, ports: [{ name: 'web', protocol: 'tcp', hostPort, guestPort: 80 }] })) }),
});
const runs = (desired: DesiredMicroVM): DesiredMicroVM => desired;
const halted = (desired: DesiredMicroVM): DesiredMicroVM => ({ ...desired, runPolicy: 'Halted' });
const paused = (desired: DesiredMicroVM): DesiredMicroVM => ({ ...desired, paused: true });

const kinds: Readonly<Record<OperationKind, Kind>> = {
  Create: { from: () => null, to: runs, vmm: 'starts' },
  Update: { from: runs, to: (desired) => withPort({ ...desired, terminationGracePeriodMs: 400 }, 18_080), vmm: 'stays' },
  Start: { from: halted, to: runs, vmm: 'starts' },
  Stop: { from: runs, to: halted, vmm: 'ends' },
  Pause: { from: runs, to: paused, vmm: 'stays' },
  Resume: { from: paused, to: runs, vmm: 'stays' },
  Restart: { from: runs, to: (desired) => ({ ...desired, restartNonce: 1 }), vmm: 'isReplaced' },
  Delete: { from: runs, to: () => null, vmm: 'ends' },
};

/** One operation of that kind, with a kill at the n-th point that it reaches. @returns where it was killed */
async function runKind(kind: OperationKind, nth: number | null): Promise<string | null> {
  const { from, to, vmm } = kinds[kind];
  const id = fresh();
  const whole = machine.desired(id);
  const start = from(whole);
  if (start !== null) await machine.carryOut(machine.order(id, 'Create', start));
  await counter.settled();
  const [old] = machine.vmmsOf(id);
  const boots = machine.record(id)?.run.incarnation ?? 0;
  observer.reset();
  counter.arm(nth);
  const operation = machine.order(id, kind, to(whole));
  const done = machine.carryOut(operation);
  await Promise.race([done, counterKill()]);
  const isKilledAtWork = counter.killedAt() !== null;
  await (isKilledAtWork ? restart() : done);
  await done;
  await counter.settled();
  // At a point behind the last report: its end may still be on the way here.
  if (counter.killedAt() !== null && !isKilledAtWork) await restart();
  const killedAt = counter.killedAt();
  if (nth === null) lastCount = counter.reached().length;
  counter.arm(null);
  const where = `${kind}, killed at ${killedAt ?? 'no point'}`;
  const { mostAtOnce, samples, seen } = observer.history();
  expect(samples, 'looks of the observer').toBeGreaterThan(0);
  expect(mostAtOnce, `${where}: VMMs of one microVM at one moment`).toBeLessThanOrEqual(1);
  const ever = (seen.get(machine.directory(id)) ?? []).filter((each) => old === undefined || !isSame(each, old));
  expect(ever.length, `${where}: new VMMs`).toBe(vmm === 'starts' || vmm === 'isReplaced' ? 1 : 0);
  const live = machine.vmmsOf(id);
  expect(live.length, `${where}: VMMs at the end`).toBe(vmm === 'ends' ? 0 : 1);
  if (vmm === 'stays' && old !== undefined) expect(live[0], where).toEqual(old);
  const record = machine.record(id);
  expect(record?.isTombstone, where).toBe(kind === 'Delete');
  expect(record?.run.incarnation, `${where}: boots of the guest`).toBe(boots + (vmm === 'starts' || vmm === 'isReplaced' ? 1 : 0));
  expect(record?.run.restarts, `${where}: restarts that were counted`).toBe(0);
  expect(theVmm(bystanderId), `${where}: the VM that nobody touched`).toEqual(bystander);
  if (kind !== 'Delete') await machine.carryOut(machine.order(id, 'Delete', null));
  return killedAt;
}

/** Resolves when the agent was killed by the counter; the agent's end is the event. */
async function counterKill(): Promise<void> {
  await machine.agent().exited;
}

async function restart(): Promise<void> {
  await machine.agent().exited;
  await machine.start();
}

async function expectNothingLeft(before: Look): Promise<void> {
  let left: readonly string[] = [];
  await until(async () => {
    left = leaked(before, await lookForLeaks(machine, used));
    return left.length === 0;
  }, 'nothing to be left').catch((error: unknown) => {
    throw new Error(`left behind:\n${left.join('\n')}`, { cause: error });
  });
}

describe('an agent that is killed with SIGKILL', () => {
  it('[E1] is watched by a checker that sees what a microVM has on the machine, and that it is gone after a deletion', async () => {
    const id = fresh();
    await machine.carryOut(machine.order(id, 'Create', machine.desired(id)));
    const seen = differing(pristine, await lookForLeaks(machine, used));
    const visible = belongings.filter((kind) => kind !== 'cgroup' && ((kind !== 'network' && kind !== 'socket') || machine.lab !== null));
    expect(seen).toEqual(expect.arrayContaining(visible));
    await machine.carryOut(machine.order(id, 'Delete', null));
    await expectNothingLeft(pristine);
  });

  it('[E1] at any point that an operation of any kind reaches loses, doubles and reboots no VM, and leaves nothing', async () => {
    const seed = testSeed();
    const killed = new Map<string, number>();
    let kills = 0;
    const kill = async (kind: OperationKind, nth: number): Promise<boolean> => {
      const at = await runKind(kind, nth);
      if (at === null) return false;
      kills += 1;
      killed.set(`${kind} ${at}`, (killed.get(`${kind} ${at}`) ?? 0) + 1);
      return true;
    };
    if (isFullRun) {
      for (const kind of operationKinds) {
        let nth = 1;
        while (await kill(kind, nth)) nth += 1;
        console.log(`[E1] ${kind}: killed at ${nth - 1} points, and not at the next`);
      }
    } else {
      const all: { readonly kind: OperationKind; readonly nth: number }[] = [];
      for (const kind of operationKinds) {
        await runKind(kind, null);
        // Counted before the deletion that cleans up is sent.
        all.push(...Array.from({ length: lastCount }, (_, index) => ({ kind, nth: index + 1 })));
      }
      console.log(`[E1] ${pointsInSample} of ${all.length} points, NKUDO_TEST_SEED=${seed} (npm run test:long does all)`);
      for (const { kind, nth } of sample(all, pointsInSample, createRandom(seed))) await kill(kind, nth);
    }
    expect(kills).toBeGreaterThan(0);
    console.log(`[E1] ${kills} kills at ${killed.size} different points of ${operationKinds.length} kinds: ${[...killed.keys()].join(', ')}`);
    await expectNothingLeft(pristine);
  }, longMs);

  it(`[E1] ${randomKills} times at random under load loses, doubles and reboots no VM, and leaves nothing`, async () => {
    const seed = testSeed();
    console.log(`[E1] NKUDO_TEST_SEED=${seed}`);
    const random = createRandom(seed);
    const below = (limit: number): number => Math.floor(random() * limit);
    observer.reset();
    counter.arm(null);
    interface Guest {
      readonly id: MicroVMId;
      /** Null: deleted. */
      wanted: DesiredMicroVM | null;
      /** Boots that the orders so far may have caused. */
      boots: number;
    }
    let isOver = false;
    let orders = 0;
    const guests: Guest[] = [];
    const everyone: Guest[] = [];
    const add = (): Guest => {
      const id = fresh();
      const guest = { id, wanted: machine.desired(id), boots: 1 };
      everyone.push(guest);
      return guest;
    };
    const changes: readonly OperationKind[] = ['Update', 'Start', 'Stop', 'Pause', 'Resume', 'Restart', 'Delete'];
    // Each life of the agent may be too short for it: what bounds it is that all have ended soon after the last kill.
    const whileKilled = { forMs: longMs };
    const create = async ({ id, wanted }: Guest): Promise<void> => {
      const operation = machine.order(id, 'Create', wanted);
      machine.plane.push(operation);
      await machine.plane.when('a creation under load', () => machine.isReported(operation), whileKilled);
    };
    /** Orders for one guest after the other, mostly each when the last was carried out, sometimes right behind it. */
    const drive = async (index: number): Promise<void> => {
      let guest = (guests[index] = add());
      await create(guest);
      while (!isOver) {
        const kind = changes[below(changes.length)] ?? 'Update';
        const before = guest.wanted ?? machine.desired(guest.id);
        const nonce = before.restartNonce + (kind === 'Restart' ? 1 : 0);
        guest.wanted = kind === 'Delete' ? null : { ...(kind === 'Start' ? { ...before, runPolicy: 'Always' } : kind === 'Restart' ? before : (kinds[kind].to(before) ?? before)), restartNonce: nonce };
        if (kind === 'Resume') guest.wanted = { ...before, paused: false };
        // A halted guest that is asked to run boots; so does one whose nonce changed.
        guest.boots += kind === 'Start' || kind === 'Restart' ? 1 : 0;
        orders += 1;
        const operation = machine.order(guest.id, kind, guest.wanted);
        machine.plane.push(operation);
        if (random() < 0.8 || kind === 'Delete') await machine.plane.when(`${kind} under load`, () => isOver || machine.isReported(operation), whileKilled);
        if (kind === 'Delete') {
          await machine.plane.when('the deletion', () => machine.isReported(operation), whileKilled);
          guest = guests[index] = add();
          await create(guest);
        }
      }
    };
    let driving = guestsUnderLoad;
    const drivers = Promise.all(Array.from({ length: guestsUnderLoad }, (_, index) => drive(index).then(() => (driving -= 1))));
    void drivers.catch(() => {}); // Awaited below; until then nobody listens.
    let atPoints = 0;
    let whileWorking = 0;
    for (let kill = 0; kill < randomKills; kill += 1) {
      // Some die before they ever had a session, most while they work.
      if (random() < 0.8) {
        const { length } = machine.plane.receipts;
        await machine.plane.when('an order to be accepted', () => machine.plane.receipts.length > length);
        whileWorking += 1;
      }
      // Half of them at a point, half at a moment that has nothing to do with one.
      if (random() < 0.5) {
        counter.arm(1 + below(pointsBetweenKillsMax));
        atPoints += 1;
        await machine.agent().exited;
      } else {
        counter.arm(null);
        await delay(below(600));
        await machine.crash();
      }
      counter.arm(null);
      expect(observer.history().mostAtOnce, 'VMMs of one microVM at one moment').toBeLessThanOrEqual(1);
      await machine.start();
    }
    isOver = true;
    // Drivers that wait for a report look again with the next one.
    const nudge = fresh();
    await machine.carryOut(machine.order(nudge, 'Create', machine.desired(nudge)));
    await Promise.race([drivers, until(() => driving === 0, 'what was ordered to be carried out, with nobody killing any more')]);
    const { samples, mostAtOnce, seen } = observer.history();
    expect(samples).toBeGreaterThan(0);
    expect(orders, 'orders besides the first creations').toBeGreaterThan(0);
    expect(mostAtOnce, 'VMMs of one microVM at one moment').toBeLessThanOrEqual(1);
    for (const { id, wanted, boots } of guests) {
      const isRunning = wanted !== null && wanted.runPolicy !== 'Halted';
      await until(() => machine.record(id)?.operation?.state === 'done' && machine.vmmsOf(id).length === (isRunning ? 1 : 0), `${id} to be as it is wanted`);
      expect(machine.record(id)?.run.incarnation, 'boots of a guest').toBeLessThanOrEqual(boots);
    }
    for (const { id, boots } of everyone) {
      expect((seen.get(machine.directory(id)) ?? []).length, 'VMMs that a guest ever had').toBeLessThanOrEqual(boots);
      const record = machine.record(id);
      if (record !== undefined && !record.isTombstone) expect(record.run.restarts, 'restarts that nobody ordered').toBe(0);
    }
    expect(theVmm(bystanderId), 'the VM that nobody touched').toEqual(bystander);
    console.log(`[E1] ${randomKills} kills, ${whileWorking} of them behind a receipt, ${atPoints} at points, during ${orders} orders for ${everyone.length} microVMs; ${samples} looks of the observer`);
    for (const { id } of [...guests, { id: nudge }]) await machine.carryOut(machine.order(id, 'Delete', null));
    await expectNothingLeft(pristine);
  }, longMs);
});
