/** The agent's side of the mesh: a real agent process, the simulated `netbird` command and management server. */
import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import { commandDeadlineMs, createMeshScene, type MeshScene } from './mesh-scene.ts';

let scene: MeshScene;

afterEach(() => scene.close());

test(
  '[N5] The agent with NetBird missing, logged out, hanging on `up`, and reporting unknown fields and states: a report with a problem, and the microVM keeps its process and runs all the time',
  async () => {
    scene = await createMeshScene();
    const { plane, fixture } = scene;
    const undisturbed = (after: string): void => expect(scene.disturbances(), after).toEqual([]);

    scene.order();
    expect(await scene.untilReported('a missing command', ({ state }) => state === 'Missing')).toMatchObject({ wantsKey: false, problem: expect.stringContaining('install netbird') as string });
    undisturbed('missing');

    scene.faults({ on: '*', do: 'no-daemon' });
    scene.installNetbird();
    expect(await scene.untilReported('a stopped service', ({ state }) => state === 'Stopped')).toMatchObject({ problem: expect.stringContaining('failed to connect to daemon') as string });
    undisturbed('stopped');

    scene.faults();
    await scene.untilReported('logged out', ({ state, wantsKey }) => state === 'NeedsLogin' && wantsKey);
    undisturbed('logged out');

    // It ignores signals and leaves a child: only the end of the whole group ends it.
    const wasted = await scene.makeKey();
    scene.faults({ on: 'up', do: 'hang', ignoreTerm: true, child: true });
    scene.order({}, () => wasted);
    expect(await scene.untilReported('an up that hangs', ({ problem }) => problem.includes('netbird up did not end'))).toMatchObject({ state: 'Failed', problem: expect.stringContaining(`within ${commandDeadlineMs / 1000} s`) as string });
    await fixture.until('the command to be gone', () => scene.upPids().length === 0);
    undisturbed('up hangs');

    scene.faults({ on: 'up', do: 'memory', bytes: 512 * 2 ** 20, ms: 60_000 });
    const alsoWasted = await scene.makeKey();
    scene.order({}, () => alsoWasted);
    // Less than the deadline: it was refused the memory, not killed for its time.
    expect((await scene.untilReported('an up that eats memory', ({ problem }) => problem.includes('netbird up ended with'))).problem).toContain('ended with 2');
    undisturbed('up eats memory');

    scene.faults({ on: 'status', do: 'hang' });
    scene.order();
    await scene.untilReported('a status that hangs', ({ state, problem }) => state === 'Failed' && problem.includes('netbird status did not end'));
    undisturbed('status hangs');

    scene.faults({ on: 'status', do: 'flood', bytes: 64 * 2 ** 20 });
    await scene.untilReported('a status without end', ({ state, problem }) => state === 'Failed' && problem.includes('more than 1 MiB'));
    scene.faults({ on: 'status', do: 'text', text: '<html>not the status</html>' });
    await scene.untilReported('a status that is none', ({ state, problem }) => state === 'Failed' && problem.includes('not its JSON'));
    undisturbed('status is noise');

    scene.faults({ on: 'status', do: 'state', state: 'Hibernating' }, { on: 'status', do: 'fields', fields: { shiny: { deep: [1, null] }, peers: 'many', netbirdIp: 7, management: null } });
    expect(await scene.untilReported('an unknown state', ({ state }) => state === 'Unknown')).toMatchObject({ rawState: 'Hibernating', address: '', wantsKey: false });
    undisturbed('unknown state');

    // Nothing of it is for good.
    scene.faults();
    const key = await scene.makeKey();
    scene.order({}, () => key);
    const connected = await scene.untilReported('the mesh to be joined', ({ state }) => state === 'Connected');
    expect(connected).toMatchObject({ rawState: 'Connected', isManagementConnected: true, problem: '', wantsKey: false });
    const [peer] = await scene.peers();
    expect(peer).toMatchObject({ name: 'edge-1', ip: connected.address });
    undisturbed('joined');

    // Logged out by the account: a new key, a new peer.
    const next = await scene.makeKey();
    scene.order({}, () => next);
    await scene.deletePeer(peer?.id ?? '');
    await scene.untilReported('the session to have expired', ({ rawState, wantsKey }) => rawState === 'SessionExpired' && wantsKey);
    await scene.untilReported('the mesh to be joined again', ({ state }) => state === 'Connected');
    undisturbed('joined again');
    expect(plane.hellos).toHaveLength(1);
  },
  120_000,
);

test(
  '[N4] the agent: a canary key is in no process list and environment while `up` runs, and afterwards in no log, journal or file',
  async () => {
    scene = await createMeshScene();
    const canary = 'CANARY-7D1F-4E0B-KEY';
    const { fixture } = scene;
    scene.installNetbird();
    scene.faults({ on: 'up', do: 'delay', ms: 1_500, once: true });
    await scene.makeKey(canary);
    scene.order({}, () => canary);
    const seenInProcesses: string[] = [];
    const modes = new Set<number>();
    let samples = 0;
    let upSamples = 0;
    await fixture.until('the mesh to be joined', () => {
      samples += 1;
      for (const { cmdline, environ } of processes()) {
        if (cmdline.includes('--setup-key-file') && cmdline.includes(scene.commandPath)) upSamples += 1;
        if (cmdline.includes(canary) || environ.includes(canary)) seenInProcesses.push(cmdline);
      }
      for (const file of filesBelow(fixture.stateDirectory)) if (contains(file, canary)) modes.add(statSync(file, { throwIfNoEntry: false })?.mode ?? 0);
      return scene.plane.meshReports.at(-1)?.state === 'Connected';
    });
    expect(seenInProcesses).toEqual([]);
    // The samples were taken while the command ran, and the file that it read was for the agent's user alone.
    expect(upSamples).toBeGreaterThan(10);
    expect([...modes].map((mode) => mode & 0o777)).toEqual([0o600]);

    const left = (): readonly string[] => filesBelow(fixture.stateDirectory).filter((file) => contains(file, canary));
    expect(left()).toEqual([]);
    expect(scene.agent().log()).toContain('joining the mesh');
    expect(scene.agent().log()).not.toContain(canary);
    expect(JSON.stringify([scene.runs(), scene.plane.meshReports])).not.toContain(canary);

    // A key that is refused is not in the problem either, and an agent that was killed while it joined leaves none behind.
    scene.faults({ on: 'up', do: 'fail', code: 1, text: `the key ${canary} is not good` });
    const [peer] = await scene.peers();
    scene.order({}, () => canary);
    await scene.deletePeer(peer?.id ?? '');
    expect((await scene.untilReported('the key to be refused', ({ state }) => state === 'Failed')).problem).toContain('the key [key] is not good');
    expect(scene.agent().log()).not.toContain(canary);
    scene.faults({ on: 'up', do: 'hang' });
    scene.order({}, () => canary);
    await fixture.until('the key file to be there', () => left().length === 1);
    const killed = scene.agent();
    await killed.kill('SIGKILL');
    expect(left()).toHaveLength(1);
    scene.faults();
    scene.plane.orderMesh({ join: true, managementUrl: scene.netbird.managementUrl, hostName: 'edge-1', revision: 99 });
    await scene.startAgent();
    expect(left()).toEqual([]);
    expect(`${killed.log()}${scene.agent().log()}`).not.toContain(canary);
    expect(samples).toBeGreaterThan(10);
  },
  60_000,
);

test('the agent joins once, knows after a restart that it did, and leaves when it is ordered to', async () => {
  scene = await createMeshScene();
  const { fixture } = scene;
  scene.installNetbird();
  const key = await scene.makeKey();
  scene.order({}, () => key);
  await scene.untilReported('the mesh to be joined', ({ state }) => state === 'Connected');
  await scene.agent().kill('SIGTERM');
  const ups = (): number => scene.runs().filter(([name]) => name === 'up').length;
  await scene.startAgent();
  await fixture.until('the report of the second session', () => scene.plane.hellos.length === 2 && scene.plane.meshReports.at(-1)?.state === 'Connected');
  expect(ups()).toBe(1);
  expect(await scene.peers()).toHaveLength(1);

  scene.order({ join: false, managementUrl: '', hostName: '' });
  await scene.untilReported('the mesh to be left', ({ state, orderRevision }) => state === 'NotConfigured' && orderRevision === 2);
  expect(await scene.peers()).toEqual([]);
  const runs = scene.runs().length;
  // A program that starts and ends takes many times the poll interval: there is nothing to look for.
  await fixture.run('vm', 'ls', '--state-dir', fixture.stateDirectory);
  expect(scene.runs().length).toBe(runs);
  expect(scene.disturbances()).toEqual([]);
}, 60_000);

test('what a person joined is reported and never left', async () => {
  scene = await createMeshScene();
  scene.installNetbird();
  const key = await scene.makeKey();
  const byHand = ['up', '--setup-key', key, '--management-url', scene.netbird.managementUrl, '--hostname', 'mine'];
  await promisify(execFile)(scene.commandPath, byHand, { env: { MOCK_NETBIRD_STATE: scene.daemonDirectory } });
  scene.order();
  expect(await scene.untilReported('somebody else', ({ state }) => state === 'Failed')).toMatchObject({ problem: expect.stringContaining('did not join') as string, wantsKey: false });
  scene.order({ join: false, managementUrl: '', hostName: '' });
  await scene.untilReported('no membership of the agent', ({ state }) => state === 'NotConfigured');
  expect((await scene.peers()).map(({ name }) => name)).toEqual(['mine']);
}, 60_000);

function* processes(): Generator<{ readonly cmdline: string; readonly environ: string }> {
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const read = (name: string): string => {
      try {
        return readFileSync(`/proc/${pid}/${name}`, 'utf8');
      } catch {
        return ''; // It ended while we looked, or is not ours to look at.
      }
    };
    yield { cmdline: read('cmdline'), environ: read('environ') };
  }
}

function filesBelow(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

function contains(file: string, text: string): boolean {
  try {
    return readFileSync(file).includes(text);
  } catch {
    return false; // It was removed while we looked.
  }
}
