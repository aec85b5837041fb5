/**
 * Every row of the table of fields is checked: what it says of the VMM on each target, through the agent's worker, and
 * what it says of the host by a test that exists. Requests and answers are held to the VMM's own description.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { fieldEffects, type FieldEffect } from '#edge-agent/domain/field-effects.ts';
import { fieldChecks, type FieldCheck, type NamedTest, type VmmCase } from './field-checks.ts';
import { countCells, describeOnTargets, type Target } from './targets.ts';
import { answerProblems, differenceOf, requestProblems, type Members } from './vmm-description.ts';
import { createWorkerUnderTest, type Change, type WorkerUnderTest } from './worker-under-test.ts';

const repository = join(import.meta.dirname, '..', '..', '..');
const rows: readonly FieldEffect[] = fieldEffects;
const checkOf = (field: string): FieldCheck => fieldChecks[field as keyof typeof fieldChecks]; // Every row has one: `satisfies`.

/** Fields of the resource that say where and under what terms it may run: the control plane's, nothing of them is told to a host. */
const ofTheControlPlane = ['siteRef.', 'className', 'placement.', 'evictionStrategy', 'updateStrategy', 'disconnect.lostAfter', 'disconnect.data', 'disconnect.reconcile'];
/** Refused as reserved. */
const reserved = ['disks[].snapshot.', 'networks[].mesh.groups'];

describe('the table of fields', () => {
  test('[E2] every row is checked: what it says of the VMM by a case here, else by a test that exists and speaks of it', () => {
    const problems = rows.flatMap(({ field, config, calls = [] }) => {
      const { vmm = [], tests = [] } = checkOf(field);
      const speaksOfVmm = config.length > 0 || calls.length > 0;
      return [
        ...(speaksOfVmm && vmm.length === 0 ? [`${field}: no case`] : []),
        ...(!speaksOfVmm && tests.length === 0 ? [`${field}: no test`] : []),
        ...tests.flatMap((named) => problemsOf(field, named)),
      ];
    });
    expect(problems).toEqual([]);
    expect(Object.keys(fieldChecks).sort()).toEqual(rows.map(({ field }) => field).sort());
    expect(Object.values<FieldCheck>(fieldChecks).flatMap(({ tests = [] }) => tests).length).toBeGreaterThan(40);
  });

  test('[E2] a test that is named is missed when it is gone, is no test, or speaks of something else', () => {
    const file = 'edge-agent/domain/diff.test.ts';
    expect(problemsOf('secrets.name', { file: 'edge-agent/domain/no.test.ts', test: 'x' })).toEqual([expect.stringContaining('no such file')]);
    expect(problemsOf('secrets.name', { file, test: 'no such test' })).toEqual([expect.stringContaining('has no test')]);
    // A name of a test, though not the whole of it.
    expect(problemsOf('secrets.name', { file, test: 'a guest that no journal' })).toEqual([expect.stringContaining('has no test')]);
    expect(problemsOf('probes.http.tls', { file, test: 'a guest that no journal knows is adopted' })).toEqual([expect.stringContaining('does not speak of')]);
  });

  test('[E2] every field of the resource has a row, but for those that no host is told and those that are reserved', () => {
    const fields = fieldsOfResource();
    const columns = new Set(rows.flatMap(({ spec }) => columnFields(spec)));
    const isElsewhere = (field: string): boolean => [...ofTheControlPlane, ...reserved].some((prefix) => field.startsWith(prefix));
    const written = fields.filter((field) => !isElsewhere(field));
    // A reference to a Secret is one field for whoever writes it.
    expect(written.filter((field) => !columns.has(field) && !columns.has(field.replace(/\.name$/, '')))).toEqual([]);
    // The other way round: what the table says that people write, they can write.
    const isWritten = (column: string): boolean => column.startsWith('metadata.') || fields.some((field) => field === column || field.startsWith(`${column}.`));
    expect([...columns].filter((column) => !isWritten(column))).toEqual([]);
    expect(written.length).toBeGreaterThan(60);
    for (const prefix of [...ofTheControlPlane, ...reserved]) expect(fields.some((field) => field.startsWith(prefix)), prefix).toBe(true);
  });
});

describeOnTargets('fields', (target) => {
  const cells = countCells(target, 'fields');
  const workers: WorkerUnderTest[] = [];
  /** Guests that go on as they are whatever is desired: one serves many rows. */
  const lasting = new Map<Change, WorkerUnderTest>();
  const base = mkdtempSync(join(tmpdir(), 'nkudo-fields-'));
  const hugepagesDirectory = join(base, 'hugepages');
  mkdirSync(join(hugepagesDirectory, 'hugepages-2048kB'), { recursive: true });
  writeFileSync(join(hugepagesDirectory, 'hugepages-2048kB', 'free_hugepages'), '1024\n');
  const withTaps = programWithTaps(target, base);
  if ('obstacle' in withTaps) process.stdout.write(`skipped: cards on the ${target.name} cloud-hypervisor: ${withTaps.obstacle}\n`);

  afterEach(async () => {
    await Promise.all(workers.splice(0).map((worker) => worker.close()));
  });
  afterAll(async () => {
    await Promise.all([...lasting.values()].map((worker) => worker.close()));
    rmSync(base, { recursive: true, force: true });
  });

  /** @returns a worker whose VMM was started with it, and says so */
  async function start({ needsTap = false, isNotBooted = false }: VmmCase, change: Change): Promise<WorkerUnderTest> {
    const worker = createWorkerUnderTest({ binary: needsTap && 'binary' in withTaps ? withTaps.binary : target.binary, guest: target.guest, hugepagesDirectory });
    workers.push(worker);
    await (isNotBooted ? worker.configure(change) : worker.bring(change));
    expect(checkedCalls(worker).slice(0, 2)).toEqual(isNotBooted ? ['/vm.create'] : ['/vm.create', '/vm.boot']);
    expect((await infoOf(worker)).config).toMatchObject(worker.told());
    return worker;
  }

  async function startLasting(given: VmmCase): Promise<WorkerUnderTest> {
    const known = lasting.get(given.from);
    if (known !== undefined) return known;
    const worker = await start(given, given.from);
    workers.splice(workers.indexOf(worker), 1);
    lasting.set(given.from, worker);
    return worker;
  }

  /** @returns the members that differ between guests that are started with one and with the other */
  function atStart(row: FieldEffect, given: VmmCase, [running, fresh]: readonly WorkerUnderTest[]): readonly string[] {
    const { members, around } = differenceOf(running?.toldWithContent() ?? {}, fresh?.toldWithContent() ?? {});
    expect([...members].filter((member) => !row.config.includes(member)).sort(), 'beside the members of the row').toEqual([...(given.also ?? [])].sort());
    return [...members, ...around];
  }

  /** A guest that runs follows at once, as if it had been started so, and back. */
  async function live({ calls = [] }: FieldEffect, given: VmmCase, running: WorkerUnderTest, fresh: WorkerUnderTest): Promise<void> {
    const before = { info: await infoOf(running), pid: await running.pid() };
    await running.guestIsUp();
    await running.bring(given.to);
    const made = checkedCalls(running);
    const info = await infoOf(running);
    expect([info.state, await running.pid()]).toEqual([given.state ?? 'Running', before.pid]);
    const { members } = differenceOf((await infoOf(fresh)).config, info.config);
    expect([...members].sort()).toEqual([...(given.leaves ?? [])].sort());
    if (given.isOneWay !== true) {
      await running.bring(given.from);
      made.push(...checkedCalls(running));
      const back = differenceOf(before.info.config, (await infoOf(running)).config);
      expect([...back.members].filter((member) => given.leaves?.includes(member) !== true)).toEqual([]);
      expect([(await infoOf(running)).state, await running.pid()]).toEqual([before.info.state, before.pid]);
    }
    expect([...new Set(made)].sort()).toEqual([...calls].sort());
  }

  /** A guest that runs goes on as it is. */
  async function later(given: VmmCase, running: WorkerUnderTest): Promise<void> {
    const before = [await running.info(), await running.pid()];
    await running.bring(given.to);
    expect(checkedCalls(running)).toEqual([]);
    expect([await running.info(), await running.pid()]).toEqual(before);
    await running.bring(given.from);
    expect(checkedCalls(running)).toEqual([]);
  }

  async function end(given: VmmCase, ends: NonNullable<VmmCase['ends']>, running: WorkerUnderTest): Promise<void> {
    const pid = await running.pid();
    await running.guestIsUp();
    await running.bring(given.to);
    expect(checkedCalls(running)).toEqual([...ends.calls, ...(ends.startsAgain ? ['/vm.create', '/vm.boot'] : [])]);
    expect(await running.pid()).not.toBe(pid);
    expect((await running.pid()) === null).toBe(!ends.startsAgain);
  }

  const tested = rows.filter(({ field }) => (checkOf(field).vmm ?? []).length > 0);
  test.each(tested)('[E2] $field does what the table says', async (row) => {
    const { vmm = [] } = checkOf(row.field);
    if ('obstacle' in withTaps && vmm.some(({ needsTap }) => needsTap)) return;
    const shown = new Set<string>();
    for (const given of vmm) {
      const isLasting = row.change === 'restart' && given.isOnlyAtStart !== true && given.isNotBooted !== true;
      const [running, fresh] = await Promise.all([isLasting ? startLasting(given) : start(given, given.from), ...(given.ends === undefined ? [start(given, given.to)] : [])]);
      if (given.ends !== undefined) await end(given, given.ends, running);
      else for (const member of [...atStart(row, given, [running, ...(fresh === undefined ? [] : [fresh])]), ...(given.leaves ?? [])]) shown.add(member);
      if (isLasting) await later(given, running);
      if (row.change === 'live' && fresh !== undefined) await live(row, given, running, fresh);
      expect(running.restarts()).toBe(0);
      cells.add();
    }
    expect(row.config.filter((member) => !shown.has(member)), 'members that no case changes').toEqual([]);
    if (row.change !== 'live' && row.calls !== undefined) expect(new Set(vmm.flatMap(({ ends }) => ends?.calls ?? []))).toEqual(new Set(row.calls));
  });

  test('[E2] the cases are of every kind', () => {
    expect(tested.length).toBeGreaterThan(35);
    for (const change of ['agent', 'live', 'restart']) expect(tested.some((row) => row.change === change), change).toBe(true);
  });
});

/** Names of the PUTs since the last look; each is as described and was not refused. */
function checkedCalls(worker: WorkerUnderTest): string[] {
  return worker.takeCalls().map(({ call, body, status }) => {
    expect(requestProblems(call, body), call).toEqual([]);
    expect(status, call).toBeLessThan(300);
    return call;
  });
}

async function infoOf(worker: WorkerUnderTest): Promise<{ readonly state: unknown; readonly config: Members }> {
  const info = await worker.info();
  expect(answerProblems(info)).toEqual([]);
  return { state: info?.['state'], config: info?.['config'] as Members }; // As described, which was just looked at.
}

/** A program whose taps are its own: each VMM in a network that ends with it. The simulator's taps are only names. */
function programWithTaps({ name, binary }: Target, base: string): { readonly binary: string } | { readonly obstacle: string } {
  if (name === 'simulated') return { binary };
  const program = join(base, 'with-taps');
  // The VMM reads the flags of its taps in /sys.
  writeFileSync(program, `#!/bin/sh\nexec unshare --net --mount sh -c 'mount -t sysfs sysfs /sys && exec "$0" "$@"' '${binary}' "$@"\n`, { mode: 0o755 });
  try {
    execFileSync(program, ['--version'], { stdio: 'ignore' });
    closeSync(openSync('/dev/net/tun', 'r+'));
    return { binary: program };
  } catch (error) {
    return { obstacle: `no network of its own for a VMM, or no /dev/net/tun: ${error instanceof Error ? error.message.split('\n')[0] ?? '' : ''}` };
  }
}

function problemsOf(field: string, { file, test: name, word = modelWord(field) }: NamedTest): readonly string[] {
  let text;
  try {
    text = readFileSync(join(repository, file), 'utf8');
  } catch {
    return [`${field}: no such file: ${file}`];
  }
  const quoted = name.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
  // A call of test or it, or what test.each gave back, with exactly this name.
  const isTest = new RegExp(`(?:\\b(?:test|it)(?!\\.skip\\()\\b[^'"\`\\n]*|[\\])])\\((['"\`])${quoted}\\1`).test(text);
  return [...(isTest ? [] : [`${field}: ${file} has no test "${name}"`]), ...(text.includes(word) ? [] : [`${field}: ${file} does not speak of ${word}`])];
}

/** What the model calls the last part of a field. */
function modelWord(field: string): string {
  return (field.split('.').at(-1) ?? field).replaceAll(/_([a-z])/g, (_match, letter: string) => letter.toUpperCase());
}

interface ResourceSchema {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, ResourceSchema>>;
  readonly items?: ResourceSchema;
}

/** Paths below `spec` of the resource, down to what holds a value. */
function fieldsOfResource(): readonly string[] {
  const crd = parse(readFileSync(join(repository, 'crds/v1alpha1/microvm.yaml'), 'utf8')) as {
    readonly spec: { readonly versions: readonly { readonly schema: { readonly openAPIV3Schema: ResourceSchema } }[] };
  };
  const leaves = ({ properties = {}, items }: ResourceSchema, path: string): readonly string[] => {
    if (items?.properties !== undefined) return leaves(items, `${path}[]`);
    const inner = Object.entries(properties);
    return inner.length === 0 ? [path] : inner.flatMap(([name, schema]) => leaves(schema, path === '' ? name : `${path}.${name}`));
  };
  const spec = crd.spec.versions[0]?.schema.openAPIV3Schema.properties?.['spec'];
  if (spec === undefined) throw new Error('the resource has no spec');
  return leaves(spec, '');
}

/** The fields of a cell in the column of what people write: a list shares its first part, and `*` are the three probes. */
function columnFields(cell: string): readonly string[] {
  const [first = '', ...others] = cell.split(', ');
  if (first === '') return [];
  const head = first.slice(0, first.indexOf('.') + 1);
  const all = [first, ...others.map((other) => `${head}${other}`)];
  return all.flatMap((field) => (field.includes('*') ? ['startup', 'readiness', 'liveness'].map((role) => field.replace('*', role)) : [field]));
}
