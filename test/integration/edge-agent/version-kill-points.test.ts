/**
 * The agent is killed with SIGKILL before and after each of its writes and effects on the way to another version. After
 * the next start the order is carried out, once, and the microVM noticed nothing. The test stands for the launcher.
 */
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { machine } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, operationId, planId } from '#api/model/ids.ts';
import type { ReleaseArchitecture } from '#api/model/release.ts';
import { versionFaultPoints } from '#edge-agent/fault-points.ts';
import { parseSelection, type SlotSelection } from '#edge-agent/domain/slot-selection.ts';
import { makeManifest } from '#hack/release/manifest.ts';
import { makeReleaseKey, readReleaseKey, signFile } from '#hack/release/sign.ts';
import { fakeHostId, startFakeControlPlane, type FakeControlPlane } from '#test/fakes/control-plane.ts';
import { useFaultServer, type FaultServer } from '#test/harness/fault-server.ts';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from './agent-fixture.ts';

const program = 'the program of another version';
const microvm = newMicroVM();
let fixture: AgentFixture;
let plane: FakeControlPlane;
let faults: FaultServer;
let server: Server;
let agent: RunningAgent;
let url = '';
let vmm: number | undefined;
let revision = 0;

const inRoot = (...names: string[]): string => join(fixture.stateDirectory, '..', ...names);
const agentDirectory = (): string => inRoot('agent');
const selection = (): SlotSelection => {
  try {
    return parseSelection(readFileSync(join(agentDirectory(), 'selection'), 'utf8'));
  } catch {
    return parseSelection(''); // None was written yet.
  }
};

async function startAgent(): Promise<void> {
  const environment = { NKUDO_FAULT_SOCKET: faults.socketPath, NKUDO_EDGE_AGENT_DIR: agentDirectory(), NKUDO_EDGE_LIB: inRoot('lib'), NKUDO_EDGE_START_ID: randomUUID(), NKUDO_EDGE_RELEASE_KEYS_DIR: inRoot('keys') };
  const sessions = plane.hellos.length;
  agent = await fixture.start(environment);
  await fixture.until('a session', () => plane.hellos.length > sessions);
}

beforeAll(async () => {
  faults = await useFaultServer();
  fixture = await createAgentFixture();
  plane = await startFakeControlPlane();
  for (const directory of ['agent', 'lib', 'keys', 'releases']) mkdirSync(inRoot(directory));
  writeFileSync(inRoot('lib', 'version'), '0.1.0\n');
  const key = makeReleaseKey();
  writeFileSync(inRoot('keys', 'test.pub'), key.publicKeyPem);
  const path = inRoot('releases', 'nkudo-edge-9.0.0');
  writeFileSync(path, program);
  const architecture = machine() as ReleaseArchitecture; // Any other one has no file in the release.
  writeFileSync(inRoot('releases', 'manifest.json'), await makeManifest({ version: '9.0.0', createdAtMs: Date.now(), expiresAtMs: Date.now() + 86_400_000, files: [{ path, name: 'nkudo-edge', architecture }] }));
  await signFile(inRoot('releases', 'manifest.json'), readReleaseKey(key.privateKeyPem));
  server = createServer((request, response) => response.end(readFileSync(inRoot('releases', (request.url ?? '').replaceAll('/', '')))));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/manifest.json`; // It listens on TCP.
  writeFileSync(inRoot('token'), plane.token(), { mode: 0o600 });
  expect(await fixture.run('enroll', '--state-dir', fixture.stateDirectory, '--token-file', inRoot('token'))).toMatchObject({ code: 0 });
  await startAgent();
  plane.push({ id: operationId(randomUUID()), planId: planId(randomUUID()), microvmId: microvm, hostId: hostId(fakeHostId), kind: 'Create', epoch: makeEpoch(1, 1), revision: 1, generation: 1, desired: fixture.desired() });
  await fixture.until('the microVM to run', () => plane.observations.some((seen) => seen.microvmId === microvm && seen.state === 'running'));
  [vmm] = fixture.vmmPids(microvm);
});

afterAll(async () => {
  server.close();
  plane.stop();
  await fixture.close();
});

test.each(versionFaultPoints)('%s: the version is staged whole and tried once', async (point) => {
  revision += 1;
  const killed = faults.killAt({ process: 'edge', point });
  plane.orderAgent({ version: '9.0.0', manifestUrl: url, revision });
  await killed;
  await agent.exited;
  if (selection().trial === null) {
    await startAgent();
    expect(await agent.exited).toEqual({ code: 75, signal: null });
  }
  expect(selection()).toMatchObject({ running: 'base', previous: null, trial: { slot: 'a', needs: 'session' } });
  expect(readFileSync(join(agentDirectory(), 'slots/a/nkudo-edge'), 'utf8')).toBe(program);
  // As the launcher does with a version that did not get ready.
  rmSync(join(agentDirectory(), 'selection'));
  mkdirSync(join(agentDirectory(), 'failed'), { recursive: true });
  writeFileSync(join(agentDirectory(), 'failed/a'), 'ended 3 times before it was ready\n');
  await startAgent();
  await fixture.until('the roll-back to be reported', () => plane.agentReports.some((report) => report.orderRevision === revision && report.phase === 'RolledBack'));
  expect(fixture.vmmPids(microvm)).toEqual([vmm]);
});
