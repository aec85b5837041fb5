/**
 * What can happen to the journal of an agent: a torn log, a damaged or lost file, a full disk, a disk that fails, a wall
 * clock that jumps, the file of another version, a second agent. Real agents on the simulated VMM; the microVM that runs
 * meanwhile must not notice any of it.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { build } from 'esbuild';
import { describe, expect, it } from 'vitest';
import type { MicroVMId } from '#api/model/ids.ts';
import { damagedJournalFile, journalReserveFile, openJournal } from '#edge-agent/adapters/journal-sqlite/journal-sqlite.ts';
import { repositoryRoot } from '#hack/build-cache.ts';
import type { RunningProcess } from '#hack/stack/process.ts';
import type { LiveVmm } from '#test/e2e/vmm-observer.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { createEdgeMachine, mountSmall, newMicroVM, type EdgeMachine, type MachineOptions } from './edge/machine.ts';
import { createRandom, isFullRun, sample, testSeed } from './seed.ts';

const longMs = 1_800_000;
const seed = testSeed();
const random = createRandom(seed);
/** Damages of a log of which `npm test` takes a sample. */
const damagesInSample = 150;
const agentsOnDamages = isFullRun ? 20 : 1;
const failingSyncsInSample = 3;

const journalOf = (machine: EdgeMachine): string => join(machine.stateDirectory, 'journal.db');

interface Running {
  readonly machine: EdgeMachine;
  readonly id: MicroVMId;
  readonly vmm: LiveVmm;
}

/** A host with one microVM that runs. */
async function runOne(options: MachineOptions = {}): Promise<Running> {
  const machine = await createEdgeMachine({ hasNetwork: false, ...options });
  await machine.start();
  const id = newMicroVM();
  await machine.carryOut(machine.order(id, 'Create', machine.desired(id)));
  return { machine, id, vmm: theVmm(machine, id) };
}

function theVmm(machine: EdgeMachine, id: MicroVMId): LiveVmm {
  const [vmm, ...others] = machine.vmmsOf(id);
  if (vmm === undefined || others.length > 0) throw new Error(`${id} has ${machine.vmmsOf(id).length} VMMs`);
  return vmm;
}

async function startAndWaitForSession(machine: EdgeMachine): Promise<void> {
  const sessions = machine.plane.hellos.length;
  await machine.start();
  await machine.plane.when('a new session', () => machine.plane.hellos.length > sessions);
}

const knownOf = (machine: EdgeMachine, id: MicroVMId) => machine.plane.hellos.at(-1)?.known.find(({ microvmId }) => microvmId === id);

/** The next order takes over the VM that runs: nothing else would show that the agent still has it. */
async function expectTakenOver({ machine, id, vmm }: Running): Promise<void> {
  const refused = machine.order(id, 'Update', machine.desired(id, { terminationGracePeriodMs: 200 }));
  await machine.carryOut(refused);
  expect(theVmm(machine, id)).toEqual(vmm);
  expect(machine.record(id)?.run.restarts).toBe(0);
}

describe('the journal', () => {
  it('[E8] is held by one agent: of several that are started at once one runs, and the others say why not', async () => {
    const machine = await createEdgeMachine({ hasNetwork: false });
    const agents: RunningProcess[] = [];
    for (let count = 0; count < 4; count += 1) agents.push(await machine.start({ awaitsReadiness: false }));
    const isDecided = () => agents.filter((agent) => agent.exitStatus() !== null).length === agents.length - 1 && agents.some((agent) => agent.lines().some((line) => line.includes('"msg":"running"')));
    await until(isDecided, 'one to run and the others to end');
    const refused = agents.filter((agent) => agent.exitStatus() !== null);
    expect(refused.map((agent) => agent.exitStatus()?.code)).toEqual([1, 1, 1]);
    for (const agent of refused) expect(agent.lines().join('\n')).toContain('STATE_DIR_LOCKED');
  });

  it('[E8] with a log that is torn or damaged anywhere opens with what was committed before that place', async () => {
    const running = await runOne();
    const { machine, id } = running;
    for (let count = 0; count < 12; count += 1) await machine.carryOut(machine.order(id, 'Update', machine.desired(id, { terminationGracePeriodMs: 300 + count })));
    await machine.crash();
    const scope = fileScope();
    const [database, log] = [readFileSync(journalOf(machine)), readFileSync(`${journalOf(machine)}-wal`)];
    const copy = join(scope.makeDirectory('w'), 'journal.db');
    const contentOf = (torn: Buffer): string => {
      rmSync(`${copy}-shm`, { force: true });
      writeFileSync(copy, database);
      writeFileSync(`${copy}-wal`, torn);
      const journal = openJournal(copy, { reserveBytes: 0 });
      try {
        return JSON.stringify([journal.loadMicroVMs(), journal.loadOutbox(1_000)]);
      } finally {
        journal.close();
      }
    };
    // A header of 32 bytes, then frames of a page and 24 bytes each. Source: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
    const frameBytes = database.readUInt16BE(16) + 24;
    const frames = Math.floor((log.length - 32) / frameBytes);
    const committed = new Set([contentOf(Buffer.alloc(0))]);
    for (let frame = 0; frame <= frames; frame += 1) committed.add(contentOf(log.subarray(0, 32 + frame * frameBytes)));
    const whole = contentOf(log);
    expect(frames).toBeGreaterThan(20);
    expect(committed.size, 'states of the journal in its log').toBeGreaterThan(12);
    const offsets = [...[0, 8, 16, 24, 31], ...Array.from({ length: frames }, (_, frame) => [0, 4, 8, 16, 23, 24, 200, frameBytes - 1].map((at) => 32 + frame * frameBytes + at)).flat()];
    const damages = offsets.flatMap((at) => [
      { what: `cut at ${at}`, make: () => log.subarray(0, at) },
      { what: `a byte changed at ${at}`, make: () => damageAt(log, at, (byte) => byte ^ 0x40) },
      { what: `zeros from ${at}`, make: () => Buffer.concat([log.subarray(0, at), Buffer.alloc(log.length - at)]) },
    ]);
    const chosen = isFullRun ? damages : sample(damages, damagesInSample, random);
    let lost = 0;
    for (const { what, make } of chosen) {
      const content = contentOf(make());
      expect(committed.has(content), `${what}: the journal is as it once was`).toBe(true);
      if (content !== whole) lost += 1;
    }
    expect(lost, 'damages that cost something').toBeGreaterThan(0);
    console.log(`[E8] ${chosen.length} of ${damages.length} damages to a log of ${frames} frames with ${committed.size} states, NKUDO_TEST_SEED=${seed}`);
    // Agents on some of them, with the VM alive: the directory is ahead of a journal that lost its end.
    for (const { make } of sample(damages, agentsOnDamages, random)) {
      writeFileSync(journalOf(machine), database);
      writeFileSync(`${journalOf(machine)}-wal`, make());
      await startAndWaitForSession(machine);
      expect(theVmm(machine, id)).toEqual(running.vmm);
      await expectTakenOver(running);
      await machine.crash();
    }
  }, longMs);

  it.each([
    ['damaged in the middle', (path: string) => writeFileSync(path, damageAt(readFileSync(path), 4_096, () => 0xff, 3_000)), true],
    ['no database any more', (path: string) => writeFileSync(path, 'This is a text, and longer than the header of a database would be. '.repeat(40)), true],
    ['cut to half', (path: string) => truncateSync(path, Math.floor(statSync(path).size / 2)), true],
    ['a file with a document that can not be read', breakDocument, true],
    ['lost', (path: string) => rmSync(path), false],
  ] as const)('[E8] that is %s is begun anew; the directory keeps the fence, and the VM goes on', async (_what, damage, isPutAside) => {
    const running = await runOne();
    const { machine, id, vmm } = running;
    const old = machine.order(id, 'Update', machine.desired(id, { terminationGracePeriodMs: 250 }));
    await machine.carryOut(old);
    await machine.stop();
    rmSync(`${journalOf(machine)}-shm`, { force: true });
    damage(journalOf(machine));
    await startAndWaitForSession(machine);
    expect(existsSync(join(machine.stateDirectory, damagedJournalFile))).toBe(isPutAside);
    expect(knownOf(machine, id)).toMatchObject({ revision: old.revision, isLive: true, isOrphan: true });
    if (isPutAside) {
      expect(machine.agent().lines().join('\n')).toContain('the journal was damaged');
      expect((await machine.command('status')).output).toContain('begun anew');
    }
    // What was carried out before looks new to the journal, and is refused by the directory.
    machine.plane.push(old);
    await machine.plane.when('the old order to be refused', () => machine.plane.receipts.some(({ operationId, errorCode }) => operationId === old.id && errorCode === 'STALE_OPERATION'));
    expect(theVmm(machine, id)).toEqual(vmm);
    await expectTakenOver(running);
    await machine.carryOut(machine.order(id, 'Delete', null));
    expect([machine.vmmsOf(id), existsSync(machine.directory(id))]).toEqual([[], false]);
  });

  it('[E8] goes on with a full disk by what was kept for it: new orders are refused, what was accepted is kept, and it recovers when space returns', async () => {
    if (process.getuid?.() !== 0) return void process.stdout.write('skipped: [E8] full disk: it needs root for a small file system\n');
    const stateDirectory = join(fileScope().makeDirectory('full'), 'state');
    mountSmall(stateDirectory, 24 * 2 ** 20);
    const running = await runOne({ stateDirectory });
    const { machine, id, vmm } = running;
    const { plane } = machine;
    const isRefused = (of: string): boolean => plane.receipts.some(({ operationId, errorCode }) => operationId === of && errorCode === 'JOURNAL_FAILED');
    const other = newMicroVM();
    await machine.carryOut(machine.order(other, 'Create', machine.desired(other)));
    const fill = (name: string): void => {
      try {
        for (;;) writeFileSync(join(stateDirectory, name), Buffer.alloc(65_536), { flag: 'a' });
      } catch {
        // Full, as it should be.
      }
    };
    fill('filler-1');
    // Orders go on until the log of the journal does not fit any more.
    let accepted = 0;
    for (let isOpen = true; isOpen; ) {
      const operation = machine.order(id, 'Update', machine.desired(id, { terminationGracePeriodMs: 300 + accepted }));
      plane.push(operation);
      await plane.when('an answer', () => isRefused(operation.id) || machine.isReported(operation));
      isOpen = !isRefused(operation.id);
      if (isOpen) accepted = operation.revision;
      expect(operation.revision, 'orders until the disk is full').toBeLessThan(2_000);
    }
    expect(existsSync(join(stateDirectory, journalReserveFile))).toBe(false);
    expect(machine.record(id)?.revision, 'what was accepted').toBe(accepted);
    await plane.when('the host to say so', () => (plane.facts()?.hypervisor?.problem ?? '').includes('no space is left'));
    // A restart of an agent changes nothing of that, and a guest that ends is started again all the same.
    await machine.crash();
    await startAndWaitForSession(machine);
    expect(plane.facts()?.hypervisor?.problem).toContain('no space is left');
    process.kill(theVmm(machine, other).pid, 'SIGKILL');
    await until(() => machine.record(other)?.run.restarts === 1 && machine.vmmsOf(other).length === 1, 'the guest to be started again');
    const create = machine.order(newMicroVM(), 'Create', machine.desired(newMicroVM()));
    plane.push(create);
    await plane.when('a creation to be refused', () => isRefused(create.id));
    // The rest is taken as well. What can't be written down is not acknowledged, and the process ends.
    fill('filler-2');
    let stopped = 0;
    const ended = machine.agent().exited;
    while (machine.agent().exitStatus() === null && stopped < 2_000) {
      const stop = machine.order(other, 'Stop', machine.desired(other, { runPolicy: 'Halted' }));
      plane.push(stop);
      await Promise.race([ended, plane.when('the stop to be answered', () => plane.receipts.some(({ operationId }) => operationId === stop.id))]);
      if (plane.receipts.some(({ operationId, errorCode }) => operationId === stop.id && errorCode === '')) stopped = stop.revision;
    }
    expect((await ended).code).toBe(1);
    expect(machine.agent().lines().join('\n')).toContain('no space is left on its file system');
    expect(theVmm(machine, id)).toEqual(vmm);
    rmSync(join(stateDirectory, 'filler-1'));
    rmSync(join(stateDirectory, 'filler-2'));
    await startAndWaitForSession(machine);
    expect(machine.record(other)?.revision ?? 0, 'what was acknowledged').toBeGreaterThanOrEqual(stopped);
    expect(existsSync(join(stateDirectory, journalReserveFile)), 'room is kept again').toBe(true);
    expect(plane.facts()?.hypervisor?.problem).toBe('');
    await expectTakenOver(running);
    console.log(`[E8] full disk: ${accepted} orders accepted before the first refusal, ${stopped} acknowledged before the end`);
  }, longMs);

  it('[E8] of a disk that fails a sync ends the process, which acknowledges nothing; the next agent goes on', async () => {
    const obstacle = straceObstacle();
    if (obstacle !== null) return void process.stdout.write(`skipped: [E8] a sync that fails: ${obstacle}\n`);
    const running = await runOne();
    const { machine } = running;
    await machine.stop();
    let ends = 0;
    const numbers = isFullRun ? Array.from({ length: 40 }, (_, index) => index + 1) : sample([4, 5, 6, 7, 8, 9, 10, 11, 12], failingSyncsInSample, random);
    for (const nth of numbers) {
      // -D: else the end of strace would be awaited, which goes on as long as the VMM that the agent started.
      const agent = await machine.start({ through: ['strace', '-D', '-f', '-qq', '-o', '/dev/null', '-e', 'trace=fsync,fdatasync', '-e', `inject=fsync,fdatasync:error=EIO:when=${nth}`], awaitsReadiness: false });
      let isOver = false;
      const carryOut = async (operation: ReturnType<typeof machine.order>): Promise<void> => {
        machine.plane.push(operation);
        const reported = machine.plane.when(`${operation.kind} to be reported`, () => machine.isReported(operation));
        if (!isOver && (await Promise.race([agent.exited.then(() => true), reported.then(() => false)]))) {
          isOver = true;
          ends += 1;
          expect(agent.exitStatus()?.code, agent.lines().slice(-5).join('\n')).toBe(1);
          expect(agent.lines().join('\n')).toMatch(/JOURNAL_FAILED/);
          await machine.start();
        }
        await reported;
      };
      const id = newMicroVM();
      await carryOut(machine.order(id, 'Create', machine.desired(id)));
      expect(theVmm(machine, id)).toBeDefined();
      await carryOut(machine.order(id, 'Delete', null));
      await machine.stop();
    }
    expect(ends, 'agents that a failed sync ended').toBeGreaterThan(0);
    expect(theVmm(machine, running.id)).toEqual(running.vmm);
    console.log(`[E8] ${ends} of ${numbers.length} agents met a sync that failed and ended; their numbers: ${numbers.join(', ')}`);
  }, longMs);

  it('[E8] and the microVMs do not care for a wall clock that jumps by years', async () => {
    const clock = join(fileScope().makeDirectory('c'), 'offset');
    const yearMs = 365 * 86_400_000;
    writeFileSync(clock, '0');
    const running = await runOne({ environment: { NODE_OPTIONS: `--import=${new URL('fencing/jumping-clock.ts', import.meta.url).href}`, NKUDO_TEST_CLOCK: clock } });
    const { machine, id } = running;
    const { plane } = machine;
    const other = newMicroVM();
    await machine.carryOut(machine.order(other, 'Create', machine.desired(other, { restart: { initialBackoffMs: 50, maxBackoffMs: 60_000, maxRetries: 20, windowMs: 3_600_000 } })));
    await plane.when('the first observation', () => plane.observations.some(({ microvmId, state }) => microvmId === other && state === 'running'));
    const before = Math.max(...plane.observations.map(({ sequence }) => sequence));
    plane.stop();
    for (const [index, years] of [10, -10, 25, -3].entries()) {
      writeFileSync(clock, String(years * yearMs));
      process.kill(theVmm(machine, other).pid, 'SIGKILL');
      await until(() => machine.record(other)?.run.restarts === index + 1 && machine.record(other)?.run.phase === 'started', `a restart with a clock that is ${years} years off`);
      if (index === 1) {
        await machine.crash();
        await machine.start();
      }
      expect(theVmm(machine, id)).toEqual(running.vmm);
    }
    writeFileSync(clock, '0');
    const restarted = theVmm(machine, other);
    await plane.restart();
    await plane.when('its observations', () => plane.observations.some(({ microvmId, restarts }) => microvmId === other && restarts === 4));
    expect(Math.min(...plane.observations.filter(({ restarts }) => restarts === 4).map(({ sequence }) => sequence)), 'numbers of observations go on').toBeGreaterThan(before);
    expect([theVmm(machine, id), theVmm(machine, other)]).toEqual([running.vmm, restarted]);
    expect(machine.record(id)?.run.restarts).toBe(0);
  });

  it('[E8] with what a later version added opens, and keeps that; one of a later schema is refused and not touched', async () => {
    const { machine, id, vmm } = await runOne();
    await machine.crash();
    const database = new DatabaseSync(journalOf(machine));
    database.exec(`
      CREATE TABLE later (name TEXT PRIMARY KEY) STRICT;
      ALTER TABLE microvms ADD COLUMN later TEXT;
      UPDATE microvms SET document = json_set(document, '$.later', json('{"kept":true}'), '$.run.later', 1, '$.desired.later', 'x');
    `);
    database.close();
    await startAndWaitForSession(machine);
    await machine.carryOut(machine.order(id, 'Pause', machine.desired(id, { paused: true })));
    expect(theVmm(machine, id)).toEqual(vmm);
    expect(machine.record(id)).toMatchObject({ later: { kept: true }, run: { later: 1 } });
    await machine.stop();
    const later = new DatabaseSync(journalOf(machine));
    later.exec('PRAGMA user_version = 99');
    later.close();
    const content = readFileSync(journalOf(machine));
    const refused = await machine.start({ awaitsReadiness: false });
    expect((await refused.exited).code).toBe(1);
    expect(refused.lines().join('\n')).toContain('written by a later version');
    expect(readFileSync(journalOf(machine)).equals(content)).toBe(true);
    expect(theVmm(machine, id)).toEqual(vmm);
  });

  it('[E8] of this version is read by the one before it, and the other way round', async () => {
    const tag = 'v0.1.0';
    const earlier = await buildEarlier(tag);
    if (earlier === null) return void process.stdout.write(`skipped: [E8] the version before: this clone has no tag ${tag}\n`);
    const machine = await createEdgeMachine({ hasNetwork: false });
    const plain = newMicroVM();
    await machine.start();
    const rich = newMicroVM();
    const bare = machine.desired(plain, { disks: [] });
    await machine.carryOut(machine.order(plain, 'Create', bare));
    await machine.carryOut(machine.order(rich, 'Create', machine.desired(rich)));
    const vmms = [theVmm(machine, plain), theVmm(machine, rich)];
    const record = machine.record(rich);
    await machine.crash();
    const sessions = machine.plane.hellos.length;
    await machine.start({ program: earlier });
    await machine.plane.when('a session of the earlier version', () => machine.plane.hellos.length > sessions);
    expect(knownOf(machine, plain)).toMatchObject({ revision: 1, isOrphan: false });
    expect([theVmm(machine, plain), theVmm(machine, rich)]).toEqual(vmms);
    await machine.carryOut(machine.order(plain, 'Pause', { ...bare, paused: true }));
    await machine.carryOut(machine.order(plain, 'Resume', bare));
    await machine.crash();
    await startAndWaitForSession(machine);
    await machine.carryOut(machine.order(plain, 'Update', { ...bare, terminationGracePeriodMs: 500 }));
    expect([theVmm(machine, plain), theVmm(machine, rich)]).toEqual(vmms);
    expect(machine.record(rich)?.desired).toEqual(record?.desired);
    const commits = [tag, 'HEAD'].map((name) => execFileSync('git', ['rev-parse', '--short', `${name}^{commit}`], { cwd: repositoryRoot, encoding: 'utf8' }).trim());
    console.log(`[E8] the agents of ${commits.join(' and ')} on one journal`);
    expect(commits[0]).not.toBe(commits[1]);
  });
});

function damageAt(bytes: Buffer, at: number, change: (byte: number) => number, count = 1): Buffer {
  const damaged = Buffer.from(bytes);
  for (let index = at; index < Math.min(at + count, damaged.length); index += 1) damaged[index] = change(damaged[index] ?? 0);
  return damaged;
}

function breakDocument(path: string): void {
  const database = new DatabaseSync(path);
  database.exec("PRAGMA ignore_check_constraints = ON; UPDATE microvms SET document = '{ not json'; PRAGMA wal_checkpoint(TRUNCATE);");
  database.close();
}

function straceObstacle(): string | null {
  try {
    execFileSync('strace', ['-f', 'true'], { stdio: 'ignore' });
    return null;
  } catch {
    return 'strace does not work here (apt-get install strace)';
  }
}

/** The agent of an earlier commit as one file, or null where this clone does not have it. */
async function buildEarlier(name: string): Promise<string | null> {
  const directory = join(fileScope().makeDirectory('v'), 'tree');
  mkdirSync(directory);
  try {
    const archive = execFileSync('git', ['archive', name, 'edge-agent', 'api', 'crds', 'package.json', 'tsconfig.json'], { cwd: repositoryRoot, maxBuffer: 2 ** 28, stdio: ['ignore', 'pipe', 'ignore'] });
    execFileSync('tar', ['-x', '-C', directory], { input: archive });
  } catch {
    return null;
  }
  symlinkSync(join(repositoryRoot, 'node_modules'), join(directory, 'node_modules'));
  const outfile = join(directory, 'nkudo-edge.mjs');
  const banner = "import { createRequire as nkudoCreateRequire } from 'node:module'; const require = nkudoCreateRequire(import.meta.url);";
  await build({ absWorkingDir: directory, entryPoints: ['edge-agent/main.ts'], outfile, bundle: true, platform: 'node', format: 'esm', target: 'node24', banner: { js: banner }, logLevel: 'silent' });
  return outfile;
}
