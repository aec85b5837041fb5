/**
 * Kills the agent, the controller and Postgres at every step that the code lists as its own. The steps
 * of each phase are recorded from a run without faults, so a step that no phase reaches fails the test.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { controllerFaultPoints } from '#controller/fault-points.ts';
import { edgeFaultPoints } from '#edge-agent/fault-points.ts';
import type { PostgresCluster } from '#hack/stack/postgres.ts';
import { createWorld, type TestHost, type World } from '#test/e2e/world.ts';
import { observeVmms, type VmmObserver } from '#test/e2e/vmm-observer.ts';
import { useFaultServer, type FaultServer } from '#test/harness/fault-server.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useDedicatedPostgres } from '#test/harness/postgres.ts';
import { until } from '#test/harness/until.ts';
import { createRandom, isFullRun, sample, testSeed } from './seed.ts';

/** Kills of Postgres in `npm test`; `npm run test:long` does all. */
const postgresSample = 14;

/** `stop` is the deletion of a guest that ignores its power button. */
type Phase = 'enroll' | 'create' | 'delete' | 'stop';
/** After the work is done, what was still to be reached is reached at once; the victim's new start takes the rest. */
const faultPatienceMs = 60_000;

type Victim = 'controller' | 'edge' | 'postgres';

interface Step {
  readonly phase: Phase;
  readonly process: 'controller' | 'edge';
  readonly point: string;
}

let postgres: PostgresCluster;
let faults: FaultServer;
let world: World;
let host: TestHost;
let observer: VmmObserver;
let bystander: { readonly pid: number; readonly startTime: string };
const steps: Step[] = [];
let serial = 0;

/** A name that was not used before, so that no run profits from an earlier one. */
const fresh = (prefix: string): string => `${prefix}-${(serial += 1)}`;

const live = (uid: string) => host.vmms().filter((vmm) => vmm.directory.includes(uid));

beforeAll(async () => {
  postgres = await useDedicatedPostgres();
  faults = await useFaultServer();
  world = await createWorld({ postgres, faults });
  await world.startController();
  await world.createSite();
  const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'guest', namespace: world.namespace, labels: { 'nkudo.dev/guest': 'true' } }, stringData: { 'user-data': '#cloud-config' } };
  await world.kubernetes.client.apply(`/api/v1/namespaces/${world.namespace}/secrets/guest`, secret);
  host = await world.addHost('edge-1');
  const recorded = await prepareMachine();
  faults.reset();
  await enroll(recorded);
  await remember('enroll');
  await removeMachine(recorded);
  observer = observeVmms(host.stateDirectory, world.hypervisor);
  fileScope().defer(() => observer.stop());
  await world.applyMicroVM('bystander');
  const object = await world.waitForCondition('microvms', 'bystander', { type: 'Running', status: 'True' });
  const [vmm] = live(String(object.metadata.uid));
  if (vmm === undefined) throw new Error('the bystander has no VMM');
  bystander = { pid: vmm.pid, startTime: vmm.startTime };
  // One life without faults tells which steps belong to which phase.
  for (const phase of ['delete', 'stop'] as const) {
    faults.reset();
    const name = fresh('recorded');
    await create(name, phase);
    if (phase === 'delete') await remember('create');
    faults.reset();
    await remove(name);
    await remember(phase);
  }
}, 300_000);

async function remember(phase: Phase): Promise<void> {
  // The object shows the end of a step before its process does: what has begun is waited for.
  const isReached = (point: string): boolean => faults.hits().some((hit) => hit.point === point);
  await until(() => faults.hits().every(({ point }) => isReached(point.replace(/:before$/, ':after'))), 'every step that began to end');
  for (const hit of faults.hits()) {
    // The stubborn guest is there for the steps that an obliging one spares.
    if (phase === 'stop' && steps.some((step) => step.phase === 'delete' && step.point === hit.point)) continue;
    const process = hit.process === 'controller' ? 'controller' : 'edge';
    if (!steps.some((step) => step.phase === phase && step.point === hit.point && step.process === process)) {
      steps.push({ phase, process, point: hit.point });
    }
  }
}

/** With a disk and a Secret, so that the steps for them have something to do. */
async function create(name: string, phase: Phase = 'create'): Promise<string> {
  const stubborn = { terminationGracePeriod: '100ms', boot: { kernel: { path: world.guest, cmdline: 'nobutton' } } };
  await world.applyMicroVM(name, { disks: [{ name: 'data', blank: {}, size: '1Mi', persistence: 'Persistent' }], cloudInit: { userDataSecretRef: { name: 'guest', key: 'user-data' } }, ...(phase === 'stop' ? stubborn : {}) });
  const object = await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
  return String(object.metadata.uid);
}

async function remove(name: string): Promise<void> {
  await world.deleteObject('microvms', name);
  await world.waitUntilGone('microvms', name);
}

/** Arms the fault; the promise settles when the victim is dead and was started again. */
function armed(step: Step, victim: Victim): Promise<void> {
  const where = { process: step.process, point: step.point };
  switch (victim) {
    case 'postgres':
      return faults.at(where, () => postgres.crash()).then(() => postgres.start());
    case 'controller':
      return faults.killAt(where).then(async () => {
        await world.controller().exited;
        await world.startController();
      });
    case 'edge':
      return faults.killAt(where).then(async () => {
        await host.agent().exited;
        await host.startAgent();
      });
  }
}

async function expectOneVmm(uid: string): Promise<void> {
  const found = live(uid);
  expect(found, 'live VMMs of the microVM').toHaveLength(1);
  const { mostAtOnce, samples, seen } = observer.history();
  expect(samples).toBeGreaterThan(0);
  expect(mostAtOnce, 'VMMs of one microVM at one moment').toBeLessThanOrEqual(1);
  const ever = seen.get(String(found[0]?.directory)) ?? [];
  expect(ever.length, 'VMMs that the microVM ever had').toBe(1);
}

function expectBystander(): void {
  const [vmm] = host.vmms().filter(({ pid }) => pid === bystander.pid);
  expect(vmm?.startTime, 'start time of the VM that nobody touched').toBe(bystander.startTime);
}

async function runStep(step: Step, victim: Victim): Promise<void> {
  faults.reset();
  observer.reset();
  if (step.phase === 'enroll') return enrollWithFault(step, victim);
  const name = fresh(`${step.phase}-${victim}`);
  if (step.phase === 'create') {
    const fault = armed(step, victim);
    const uid = await reached(step, fault, create(name));
    await expectOneVmm(uid);
    await remove(name);
    expect(live(uid)).toEqual([]);
  } else {
    const uid = await create(name, step.phase);
    const directory = String(live(uid)[0]?.directory);
    const fault = armed(step, victim);
    await reached(step, fault, remove(name));
    expect(observer.history().mostAtOnce).toBeLessThanOrEqual(1);
    expect(live(uid)).toEqual([]);
    await until(() => !existsSync(directory), `${directory} to be removed`);
  }
  expectBystander();
}

interface Newcomer {
  readonly machine: TestHost;
  readonly tokenFile: string;
}

async function prepareMachine(): Promise<Newcomer> {
  const machine = world.createMachine(fresh('machine'));
  const tokenFile = join(machine.stateDirectory, '..', 'token');
  writeFileSync(tokenFile, await world.createToken(`token-${machine.name}`), { mode: 0o600 });
  return { machine, tokenFile };
}

/** Again and again with one token, as an installer does, until it worked. */
async function enroll({ machine, tokenFile }: Newcomer): Promise<void> {
  const { name } = machine;
  await until(async () => (await machine.command(['enroll', '--token-file', tokenFile, '--name', name])).code === 0, `${name} to be enrolled`);
  await machine.startAgent();
  await world.waitForCondition('hosts', name, { type: 'Ready', status: 'True' });
}

async function removeMachine({ machine }: Newcomer): Promise<void> {
  await machine.stopAgent();
  await world.deleteObject('hosts', machine.name);
  await world.waitUntilGone('hosts', machine.name);
}

async function enrollWithFault(step: Step, victim: Victim): Promise<void> {
  const newcomer = await prepareMachine();
  faults.reset();
  await reached(step, armed(step, victim), enroll(newcomer));
  const rows = await world.database.query('SELECT (SELECT count(*) FROM nkudo.certificates c WHERE c.host_id = h.id)::int AS certificates FROM nkudo.hosts h WHERE h.name = $1', [newcomer.machine.name]);
  expect(rows).toEqual([{ certificates: 1 }]);
  await removeMachine(newcomer);
}

/** Waits for both, and says so when the work was done without ever coming to the point. */
async function reached<Result>(step: Step, fault: Promise<void>, work: Promise<Result>): Promise<Result> {
  const result = await work;
  let hasHappened = false;
  await Promise.race([fault.then(() => (hasHappened = true)), delay(faultPatienceMs)]);
  if (!hasHappened) throw new Error(`${step.point} was not reached`);
  return result;
}

/** Runs all, so that one failure does not hide the next, and prints what happened at each point. */
async function runAll(selected: readonly Step[], victim: Victim): Promise<void> {
  expect(selected.length).toBeGreaterThan(0);
  const failures: string[] = [];
  for (const step of selected) {
    const title = `${step.phase} ${step.process} ${step.point}: ${victim} killed`;
    try {
      await runStep(step, victim);
      console.log(`[S2] ${title}: converged`);
    } catch (error) {
      console.log(`[S2] ${title}: FAILED`);
      failures.push(`${title}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  console.log(`[S2] ${victim}: ${selected.length} points, ${selected.length - failures.length} converged, ${failures.length} failed`);
  expect(failures).toEqual([]);
}

const longMs = 1_800_000;

describe('kill -9 at every step', () => {
  it('[S2] reaches every step that the code lists', () => {
    const listed = [...controllerFaultPoints.map((point) => `controller ${point}`), ...edgeFaultPoints.map((point) => `edge ${point}`)];
    expect(listed.length).toBeGreaterThan(0);
    const reached = new Set(steps.map((step) => `${step.process} ${step.point}`));
    expect(listed.filter((step) => !reached.has(step))).toEqual([]);
  });

  it('[S2] converges after the agent was killed at each of its steps', () => runAll(steps.filter((step) => step.process === 'edge' && step.phase !== 'enroll'), 'edge'), longMs);

  it('[S2] converges after the controller was killed at each of its steps', () => runAll(steps.filter((step) => step.process === 'controller'), 'controller'), longMs);

  it('[S2] converges after Postgres was killed at the steps of both', () => {
    const seed = testSeed();
    const chosen = isFullRun ? steps : sample(steps, postgresSample, createRandom(seed));
    console.log(`[S2] Postgres at ${chosen.length} of ${steps.length} points, seed ${seed} (NKUDO_TEST_SEED repeats it; npm run test:long does all)`);
    return runAll(chosen, 'postgres');
  }, longMs);
});
