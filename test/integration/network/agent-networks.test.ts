/**
 * The agent and the networks of its guests together: a real agent in a namespace of its own with the
 * simulated Cloud Hypervisor, real taps and rules, and packets through the tap that it made.
 */
import { rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { deriveMac } from '#api/model/mac.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { DesiredMicroVM, NetworkSpec } from '#api/model/microvm.ts';
import { tapName } from '#edge-agent/domain/tap-name.ts';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from '../edge-agent/agent-fixture.ts';
import { findObstacle, hostAddress, openLab, worldAddress, type Lab } from './lab.ts';

const obstacle = await findObstacle();
if (obstacle !== null) process.stdout.write(`skipped: the agent's networks: ${obstacle}\n`);

describe.skipIf(obstacle !== null)('the agent with networks', () => {
  let lab: Lab;
  let fixture: AgentFixture;
  let faults: Server;
  let pristine: string;
  let armed: string | null = null;
  let faultSocket: string;

  beforeAll(async () => {
    lab = await openLab();
    fixture = await createAgentFixture();
    faultSocket = join(fixture.stateDirectory, '..', 'faults');
    faults = createServer((socket) => {
      const lines = createInterface({ input: socket });
      // The agent was killed at a point; readline repeats its input's errors as its own.
      for (const source of [socket, lines]) source.on('error', () => socket.destroy());
      lines.on('line', (line) => {
        const { pid, point } = JSON.parse(line) as { pid: number; point: string }; // The protocol of api/fault-points.
        if (point !== armed) return void socket.write('go\n');
        armed = null;
        process.kill(pid, 'SIGKILL');
      });
    });
    await new Promise<void>((resolve) => faults.listen(faultSocket, resolve));
    pristine = await lab.snapshot();
  });
  afterAll(async () => {
    await fixture?.close();
    faults?.close();
    await lab?.close();
  });

  const startAgent = (): Promise<RunningAgent> =>
    fixture.start({ NKUDO_RUNTIME_DIR: lab.runtimeDirectory, ...(armed === null ? {} : { NKUDO_FAULT_SOCKET: faultSocket }) }, ['ip', 'netns', 'exec', lab.namespaces.host]);

  function wanted(id: MicroVMId, address: string, ports: NetworkSpec['ports'] = []): DesiredMicroVM {
    return fixture.desired({ networks: [{ name: 'lan', kind: 'nat', mac: deriveMac(id, 'lan'), address: `${address}/24`, gateway: '10.87.0.1', ports }] });
  }

  const isRunning = (id: MicroVMId) => () => fixture.record(id).run.phase === 'started' && fixture.record(id).operation?.state === 'done';

  async function plug(id: MicroVMId, address: string): Promise<string> {
    const { namespace } = await lab.plugGuest(tapName(id, 'lan'), deriveMac(id, 'lan'));
    await lab.run(namespace, 'ip', 'address', 'add', `${address}/24`, 'dev', 'eth0');
    await lab.run(namespace, 'ip', 'route', 'add', 'default', 'via', '10.87.0.1');
    return namespace;
  }

  const web = { name: 'web', protocol: 'tcp', hostPort: 8080, guestPort: 80 } as const;

  test('[E6] the network of a guest works while the agent is dead, is mended by its next start, follows new ports, and goes with the microVM', async () => {
    const id = newMicroVM();
    fixture.seed(id, wanted(id, '10.87.0.5'));
    let agent = await startAgent();
    await fixture.until('the guest runs', isRunning(id));
    const [pid] = fixture.vmmPids(id);
    const guest = await plug(id, '10.87.0.5');
    await lab.start(guest, 'serve', 'tcp', '80');
    await lab.start(lab.namespaces.world, 'serve', 'tcp', '80');
    expect(await lab.ask(guest, 'tcp', worldAddress, 80)).toBe(hostAddress);
    await agent.kill('SIGKILL');
    expect(await lab.ask(guest, 'tcp', worldAddress, 80)).toBe(hostAddress);

    // Somebody else's service flushed all rules of the host.
    await lab.run(lab.namespaces.host, 'nft', 'flush', 'ruleset');
    fixture.seed(id, wanted(id, '10.87.0.5', [web]), 2);
    agent = await startAgent();
    await fixture.until('the operation is done', isRunning(id));
    expect(await lab.ask(lab.namespaces.world, 'tcp', hostAddress, 8080)).toBe(worldAddress);
    expect(await lab.ask(guest, 'tcp', worldAddress, 80)).toBe(hostAddress);
    expect(fixture.vmmPids(id)).toEqual([pid]);

    await agent.kill('SIGTERM');
    fixture.seed(id, null, 3);
    agent = await startAgent();
    await fixture.until('the microVM is gone', () => fixture.record(id).isTombstone);
    await agent.kill('SIGTERM');
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] an agent killed around each of its network steps leaves one network for a guest that is wanted and none for one that is not', async () => {
    for (const point of ['net.ensure:before', 'net.ensure:after', 'net.remove:before', 'net.remove:after']) {
      const id = newMicroVM();
      fixture.seed(id, wanted(id, '10.87.0.6', [web]));
      const isMaking = point.startsWith('net.ensure');
      armed = isMaking ? point : null;
      let agent = await startAgent();
      if (isMaking) await agent.exited;
      if (isMaking) agent = await startAgent();
      await fixture.until('the guest runs', isRunning(id));
      expect(fixture.vmmPids(id)).toHaveLength(1);
      expect((await lab.snapshot()).split('\n').filter((line) => line.startsWith('nkt'))).toHaveLength(1);
      await agent.kill('SIGTERM');
      fixture.seed(id, null, 2);
      armed = isMaking ? null : point;
      agent = await startAgent();
      if (!isMaking) await agent.exited;
      if (!isMaking) agent = await startAgent();
      await fixture.until('the microVM is gone', () => fixture.record(id).isTombstone);
      await agent.kill('SIGTERM');
      expect(await lab.snapshot(), point).toBe(pristine);
    }
  });

  test('[E6] an agent that starts on a host with the network of a microVM that nothing knows any more removes it', async () => {
    const id = newMicroVM();
    fixture.seed(id, wanted(id, '10.87.0.7', [web]));
    let agent = await startAgent();
    await fixture.until('the guest runs', isRunning(id));
    await agent.kill('SIGKILL');
    for (const pid of fixture.vmmPids(id)) process.kill(pid, 'SIGKILL');
    // The reaper writes the exit into the directory that is about to go: a directory with a file of its own would stay, and keep the network.
    await fixture.until('VMM and reaper are gone', () => !fixture.isDirectoryInUse(id));
    for (const lost of ['journal.db', 'journal.db-wal', 'journal.db-shm', 'vms']) rmSync(join(fixture.stateDirectory, lost), { recursive: true, force: true });
    expect(await lab.snapshot()).not.toBe(pristine);
    agent = await startAgent();
    const swept = agent;
    await fixture.until('the agent says that it removed them', () => swept.log().includes('removed network devices of microVMs that are gone'));
    await agent.kill('SIGTERM');
    expect(await lab.snapshot()).toBe(pristine);
  });

  test('[E6] a port that a program of the host holds keeps the guest down with that reason, and its end lets the guest start', async () => {
    const id = newMicroVM();
    const listener = await lab.start(lab.namespaces.host, 'serve', 'tcp', '8080');
    fixture.seed(id, wanted(id, '10.87.0.8', [web]));
    let agent = await startAgent();
    await fixture.until('the reason is known', () => fixture.record(id).problem?.code === 'PORT_IN_USE');
    expect(fixture.vmmPids(id)).toEqual([]);
    await listener.stop();
    await agent.kill('SIGTERM');
    agent = await startAgent();
    await fixture.until('the guest runs', () => fixture.record(id).run.phase === 'started' && fixture.record(id).problem === undefined);
    await agent.kill('SIGTERM');
    fixture.seed(id, null, 2);
    agent = await startAgent();
    await fixture.until('the microVM is gone', () => fixture.record(id).isTombstone);
    await agent.kill('SIGTERM');
    expect(await lab.snapshot()).toBe(pristine);
  });
});
