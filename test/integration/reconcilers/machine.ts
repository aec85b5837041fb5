/**
 * A machine as the rows see it: it enrolls with the token of a Secret, opens a session, takes operations and
 * reports, through the stores that the gateway calls for a real agent.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { parseEnrollmentToken, tokenSecretBytes } from '#api/codec/enrollment-token.ts';
import type { HostFacts } from '#api/model/host.ts';
import { executionId, hostId, sessionId, tenantId, type HostId, type SessionId, type TenantId } from '#api/model/ids.ts';
import type { MicroVMObservation } from '#api/model/microvm.ts';
import type { Operation } from '#api/model/plan.ts';
import type { AgentReport } from '#api/model/release.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { statusOf, siteName, type Leader } from './leader.ts';

const dayMs = 86_400_000;

export interface Machine {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
  readonly name: string;
  /** @param changes what its facts are from now on, such as another version of the agent */
  connect(changes?: Partial<HostFacts>): Promise<void>;
  /** What its agent says of the order for its version. */
  reportAgent(report: AgentReport): Promise<void>;
  /** Beats from now on, until stopped. */
  startBeating(intervalMs: number): () => void;
  /** Takes what is pending. */
  claim(): Promise<readonly Operation[]>;
  /** Reports the operation as done together with what is seen. */
  report(operation: Operation, seen: Partial<MicroVMObservation> & Pick<MicroVMObservation, 'state'>, ended?: 'Succeeded' | 'Dropped'): Promise<void>;
  /** Does at once what it is told, as a perfect agent would, until its link is cut by the result. */
  obey(): () => void;
}

export async function enrollMachine(leader: Leader, name: string, overrides: Partial<HostFacts> = {}): Promise<Machine> {
  const token = `for-${name}`;
  await leader.apply('enrollmenttokens', token, { siteRef: { name: siteName } });
  const ready = await leader.waitForCondition('enrollmenttokens', token, 'Ready=True');
  const secret = await leader.kubernetes.client.get(`/api/v1/namespaces/${leader.namespace}/secrets/${String(statusOf(ready)['secretName'])}`);
  const text = Buffer.from((secret['data'] as { token: string }).token, 'base64').toString('utf8'); // Shape of every Secret.
  const facts: HostFacts = {
    hostName: name, machineId: `machine-${name}`, bootId: 'boot-1', kernel: '6.12.0', architecture: 'x86_64', cpuModel: 'test', cpuCount: 4,
    memoryBytes: 8 * 2 ** 30, hasKvm: true, agentVersion: '0.1.0', hypervisor: { kind: 'simulated', version: '54.0.0', problem: '' }, ...overrides,
  };
  const enrolled = await leader.database.enrollment.enroll({
    secretHash: createHash('sha256').update(tokenSecretBytes(parseEnrollmentToken(text).secret)).digest(),
    publicKeyHash: randomBytes(32),
    hostName: name,
    facts,
    nowMs: Date.now(),
    newHostId: hostId(randomUUID()),
    actor: { kind: 'host', name, from: '' },
    issue: async ({ counter }) => ({ serial: randomBytes(16).toString('hex'), chainPem: `certificate ${counter}`, notBeforeMs: Date.now(), notAfterMs: Date.now() + dayMs }),
  });
  const tenant = tenantId(enrolled.tenantId);
  leader.hint({ kind: 'host', tenantId: tenant, hostId: enrolled.hostId });
  return createMachine(leader, { tenant, id: enrolled.hostId, name, facts, serial: enrolled.certificate.serial });
}

interface Identity {
  readonly tenant: TenantId;
  readonly id: HostId;
  readonly name: string;
  readonly facts: HostFacts;
  readonly serial: string;
}

function createMachine(leader: Leader, { tenant, id, name, facts: first, serial }: Identity): Machine {
  const { database } = leader;
  const actor = { kind: 'host', name: id, from: '' } as const;
  let session: SessionId = sessionId(randomUUID());
  let sequence = 0;
  let facts = first;
  let running: Promise<void> = Promise.resolve();
  const machine: Machine = {
    tenantId: tenant,
    hostId: id,
    name,
    connect: async (changes = {}) => {
      facts = { ...facts, ...changes };
      session = sessionId(randomUUID());
      await database.hosts.openSession({ tenantId: tenant, hostId: id, sessionId: session, replica: 'test', facts, known: [], certificateSerial: serial }, actor);
      leader.hint({ kind: 'host', tenantId: tenant, hostId: id });
    },
    reportAgent: async (report) => {
      await database.agentOrders.recordReport({ tenantId: tenant, hostId: id, sessionId: session }, report);
      leader.hint({ kind: 'host', tenantId: tenant, hostId: id });
    },
    startBeating: (intervalMs) => {
      const beat = (): void => {
        // A beat that is lost is one of the things that the other side has to stand.
        database.hosts.flushBeats([{ tenantId: tenant, hostId: id, sessionId: session, ageMs: 0 }]).catch(() => {});
      };
      beat();
      const timer = setInterval(beat, intervalMs);
      fileScope().defer(() => clearInterval(timer));
      return () => clearInterval(timer);
    },
    claim: () => database.dispatch.claim({ tenantId: tenant, hostId: id, sessionId: session, includeDispatched: false }),
    report: async (operation, seen, ended = 'Succeeded') => {
      sequence += 1;
      const nowMs = Date.now();
      const { changed } = await database.dispatch.recordReports(
        {
          tenantId: tenant,
          hostId: id,
          executions: [{ executionId: executionId(randomUUID()), operationId: operation.id, attempt: 1, status: ended, startedAtMs: nowMs, finishedAtMs: nowMs, isFinal: true }],
          observations: [
            {
              microvmId: operation.microvmId, epoch: operation.epoch, revision: operation.revision, generation: operation.generation, sequence, observedAtMs: nowMs,
              restarts: 0, isCrashLooping: false, isRestartRequired: false, ...(seen.state === 'running' ? { bootedAtMs: nowMs } : {}), ...seen,
            },
          ],
        },
        actor,
      );
      for (const microvmId of changed) leader.hint({ kind: 'microvm', tenantId: tenant, microvmId });
    },
    obey: () => {
      const work = async (): Promise<void> => {
        for (const operation of await machine.claim()) {
          await machine.report(operation, { state: stateFor(operation) });
        }
      };
      let isLinked = true;
      leader.onHint((hint) => {
        if (isLinked && hint.kind === 'operations' && hint.hostId === id) running = running.then(work);
      });
      return () => void (isLinked = false);
    },
  };
  return machine;
}

function stateFor({ kind, desired }: Operation): MicroVMObservation['state'] {
  if (kind === 'Delete' || desired === undefined) return 'absent';
  if (desired.runPolicy === 'Halted') return 'stopped';
  return desired.paused ? 'paused' : 'running';
}
