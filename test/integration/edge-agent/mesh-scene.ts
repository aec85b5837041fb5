/**
 * A real agent with a microVM, the `netbird` command of mock-netbird and its management server, and a control plane in
 * memory. Owns what watches over the microVM: one process, running all the time.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, operationId, planId, type MicroVMId } from '#api/model/ids.ts';
import type { MeshOrder, MeshReport } from '#api/model/mesh.ts';
import { buildMockNetbird } from '#hack/build-mock-netbird.ts';
import { fakeHostId, startFakeControlPlane, type FakeControlPlane } from '#test/fakes/control-plane.ts';
import { startMockNetbird, type MockNetbird } from '#test/simulators/mock-netbird/server.ts';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from './agent-fixture.ts';

const token = 'nbp_test';
const pollMs = 100;
export const commandDeadlineMs = 4_000;

export interface MeshScene {
  readonly fixture: AgentFixture;
  readonly plane: FakeControlPlane;
  readonly netbird: MockNetbird;
  readonly microvm: MicroVMId;
  /** Where the simulated service keeps itself. */
  readonly daemonDirectory: string;
  /** Path that the agent is given for its `netbird` command. */
  readonly commandPath: string;
  agent(): RunningAgent;
  startAgent(environment?: Record<string, string>): Promise<void>;
  installNetbird(): void;
  removeNetbird(): void;
  /** The faults of the command from now on. */
  faults(...faults: readonly object[]): void;
  /** An order with a revision above all earlier ones. */
  order(change?: Partial<MeshOrder>, issueKey?: () => string | null): MeshOrder;
  lastOrder(): MeshOrder;
  /** Makes a one-off key on the management server; its value may be chosen. */
  makeKey(value?: string): Promise<string>;
  /** Waits for a report like that, made after this call, or the last one before it. */
  untilReported(what: string, isIt: (report: MeshReport) => boolean): Promise<MeshReport>;
  /** Arguments of every run of the command so far. */
  runs(): readonly (readonly string[])[];
  /** Processes that run `netbird up` now. */
  upPids(): readonly number[];
  /** What was observed of the microVM since it first ran, other than that it runs, and how often its process changed. */
  disturbances(): readonly string[];
  peers(): Promise<readonly { readonly id: string; readonly name: string; readonly ip: string }[]>;
  deletePeer(id: string): Promise<void>;
  close(): Promise<void>;
}

export async function createMeshScene(environment: Record<string, string> = {}): Promise<MeshScene> {
  const fixture = await createAgentFixture();
  const plane = await startFakeControlPlane();
  const netbird = await startMockNetbird({ tokens: [token] });
  const { netbird: binary } = await buildMockNetbird();
  const root = join(fixture.stateDirectory, '..');
  const daemon = join(root, 'netbird-daemon');
  const commandPath = join(root, 'bin', 'netbird');
  mkdirSync(daemon);
  mkdirSync(join(root, 'bin'));
  const microvm = newMicroVM();
  let agent: RunningAgent | undefined;
  let lastOrder: MeshOrder = { join: false, managementUrl: '', hostName: '', revision: 0 };

  const api = async (method: string, path: string, body?: unknown): Promise<unknown> => {
    const response = await fetch(`${netbird.managementUrl}${path}`, {
      method,
      headers: { authorization: `Token ${token}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw new Error(`${method} ${path} was answered with ${response.status}: ${await response.text()}`);
    return response.json();
  };

  const startAgent: MeshScene['startAgent'] = async (more = {}) => {
    agent = await fixture.start(
      { MOCK_NETBIRD_STATE: daemon, NKUDO_MESH_POLL_MS: String(pollMs), NKUDO_MESH_COMMAND_TIMEOUT_MS: String(commandDeadlineMs), ...environment, ...more },
      [],
      ['--netbird', commandPath],
    );
  };

  const tokenFile = join(root, 'token');
  writeFileSync(tokenFile, plane.token(), { mode: 0o600 });
  await fixture.run('enroll', '--state-dir', fixture.stateDirectory, '--token-file', tokenFile);
  await startAgent();
  plane.push({
    id: operationId(randomUUID()),
    planId: planId(randomUUID()),
    microvmId: microvm,
    hostId: hostId(fakeHostId),
    kind: 'Create',
    epoch: makeEpoch(1, 1),
    revision: 1,
    generation: 1,
    desired: fixture.desired(),
  });
  const firstRunning = (): number => plane.observations.findIndex((seen) => seen.microvmId === microvm && seen.state === 'running');
  await fixture.until('the microVM to run', () => firstRunning() >= 0);
  const [pid] = fixture.vmmPids(microvm);

  return {
    fixture,
    plane,
    netbird,
    microvm,
    daemonDirectory: daemon,
    commandPath,
    agent() {
      if (agent === undefined) throw new Error('the agent was not started');
      return agent;
    },
    startAgent,
    installNetbird: () => symlinkSync(binary, commandPath),
    removeNetbird: () => rmSync(commandPath),
    faults: (...faults) => {
      for (const name of readdirSync(daemon)) if (/^fault-\d+-bit$/.test(name)) rmSync(join(daemon, name));
      writeFileSync(join(daemon, 'faults.json'), JSON.stringify(faults));
    },
    order: (change = {}, issueKey) => {
      lastOrder = { join: true, managementUrl: netbird.managementUrl, hostName: 'edge-1', revision: lastOrder.revision + 1, ...change };
      plane.orderMesh(lastOrder, issueKey);
      return lastOrder;
    },
    lastOrder: () => lastOrder,
    async makeKey(value = `KEY-${randomUUID().toUpperCase()}`) {
      await fetch(`${netbird.adminUrl}/next-setup-keys`, { method: 'POST', body: JSON.stringify([value]) });
      await api('POST', '/api/setup-keys', { name: 'test', type: 'one-off', expires_in: 3_600, auto_groups: [], usage_limit: 1, ephemeral: false });
      return value;
    },
    async untilReported(what, isIt) {
      const from = Math.max(0, plane.meshReports.length - 1);
      let found: MeshReport | undefined;
      await fixture.until(what, () => {
        found = plane.meshReports.slice(from).find(isIt);
        return found !== undefined;
      });
      if (found === undefined) throw new Error(what);
      return found;
    },
    runs: () => {
      const file = join(daemon, 'runs.jsonl');
      if (!existsSync(file)) return [];
      return readFileSync(file, 'utf8').split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as string[]); // Written by the simulator.
    },
    upPids: () =>
      readdirSync('/proc')
        .filter((name) => /^\d+$/.test(name))
        .filter((name) => {
          try {
            return readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(`${commandPath}\0up\0`);
          } catch {
            return false; // It ended while we looked.
          }
        })
        .map(Number),
    disturbances: () => [
      ...plane.observations.slice(firstRunning()).filter((seen) => seen.microvmId === microvm && seen.state !== 'running').map((seen) => seen.state),
      ...(String(fixture.vmmPids(microvm)) === String(pid) ? [] : ['another process']),
    ],
    peers: async () => (await api('GET', '/api/peers')) as { id: string; name: string; ip: string }[], // As the description says.
    deletePeer: async (id) => void (await api('DELETE', `/api/peers/${id}`)),
    async close() {
      await fixture.close();
      plane.stop();
      await netbird.close();
    },
  };
}
