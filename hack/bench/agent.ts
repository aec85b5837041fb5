/**
 * What the agent costs a host at rest, and how soon it has its microVMs back: the one executable with 100 simulated VMMs,
 * without a control plane. Memory and CPU are the agent's own; the VMMs' are not counted. Adoption is counted from the
 * start of the process to the line that says that the last microVM is as it should be.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { createAgentFixture, newMicroVM, type AgentFixture, type RunningAgent } from '#test/integration/edge-agent/agent-fixture.ts';
import { buildEdge } from '../build-edge.ts';

const microvmCount = 100;
const rounds = 5;
/** Memory and CPU are looked at when all is quiet. */
const quietMs = 5_000;
const cpuWindowMs = 60_000;
/** Design. */
const budget = { residentMB: 70, cpuPercent: 1, perMicroVMKB: 100, adoptedMs: 1_000 };
const ticksPerSecond = 100;

function residentKB(pid: number): { readonly all: number; readonly own: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]);
  return { all: field('VmRSS'), own: field('RssAnon') };
}

function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / ticksPerSecond;
}

const countOf = (agent: RunningAgent, text: string): number => agent.log().split(text).length - 1;

/** From the start of the process until every microVM was found to be as it should be. */
async function adopt(fixture: AgentFixture): Promise<{ readonly agent: RunningAgent; readonly ms: number; readonly readyMs: number }> {
  const beganAt = performance.now();
  const agent = await fixture.start();
  const readyMs = performance.now() - beganAt;
  while (countOf(agent, '"msg":"converged"') < microvmCount) await delay(1);
  return { agent, ms: performance.now() - beganAt, readyMs };
}

export async function benchAgent(say: (text: string) => void): Promise<boolean> {
  const { path, bytes } = await buildEdge();
  const fixture = await createAgentFixture(undefined, [path]);
  try {
    say(`agent, ${microvmCount} microVMs, executable of ${(bytes / 2 ** 20).toFixed(0)} MiB; budget ${budget.residentMB} MB resident, ${budget.cpuPercent} % of a core, ${budget.perMicroVMKB} KB for each microVM, ${budget.adoptedMs} ms to adopt`);
    const empty = await fixture.start();
    await delay(quietMs);
    const idle = residentKB(empty.pid);
    await empty.kill('SIGTERM');
    const ids = Array.from({ length: microvmCount }, newMicroVM);
    for (const id of ids) fixture.seed(id, fixture.desired());
    const first = await adopt(fixture);
    say(`  ${microvmCount} microVMs started: ${(first.ms / 1000).toFixed(1)} s`);
    const pids = ids.map((id) => fixture.vmmPids(id).join());
    await first.agent.kill('SIGKILL');
    const times: number[] = [];
    let { agent } = first;
    let readyMs = 0;
    for (let round = 0; round < rounds; round += 1) {
      if (round > 0) await agent.kill('SIGKILL');
      const adopted = await adopt(fixture);
      ({ agent, readyMs } = adopted);
      times.push(adopted.ms);
    }
    const isSame = ids.every((id, index) => fixture.vmmPids(id).join() === pids[index]);
    times.sort((a, b) => a - b);
    const adoptedMs = times[Math.floor(rounds / 2)] ?? 0;
    say(`  adopted after kill -9: ${adoptedMs.toFixed(0)} ms in the middle of ${rounds} (${times.map((ms) => ms.toFixed(0)).join(', ')}), of which the program's own start ${readyMs.toFixed(0)} ms; ${isSame ? 'the same' : 'OTHER'} pids`);
    await delay(quietMs);
    const before = cpuMs(agent.pid);
    await delay(cpuWindowMs);
    const cpuPercent = ((cpuMs(agent.pid) - before) / cpuWindowMs) * 100;
    const full = residentKB(agent.pid);
    const perMicroVMKB = (full.all - idle.all) / microvmCount;
    say(`  resident without microVMs: ${(idle.all / 1000).toFixed(1)} MB, of which its own ${(idle.own / 1000).toFixed(1)} MB; with ${microvmCount}: ${(full.all / 1000).toFixed(1)} MB, own ${(full.own / 1000).toFixed(1)} MB; ${perMicroVMKB.toFixed(0)} KB for each`);
    say(`  CPU at rest with ${microvmCount}: ${cpuPercent.toFixed(2)} % of a core over ${cpuWindowMs / 1000} s`);
    return isSame && idle.all / 1000 <= budget.residentMB && perMicroVMKB <= budget.perMicroVMKB && cpuPercent <= budget.cpuPercent && adoptedMs <= budget.adoptedMs;
  } finally {
    await fixture.close();
  }
}
