/**
 * The identity of a host after its enrollment, over real TLS on a real Postgres: recovery, two who claim one identity,
 * and streams that end when the right to them does. Polling is an hour wherever a hint must do the work alone.
 */
import { randomBytes, randomUUID, sign, X509Certificate } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { Goodbye_Reason, type EnrollResponse, type HostFacts, type RecoverCertificateRequest } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { hostId, type HostId } from '#api/model/ids.ts';
import { certificateCounterOf, createAuthority, rotateIntermediate } from '#controller/pki/certificates.ts';
import { startControlPlane, type ControlPlane } from '#test/integration/gateway/control-plane.ts';
import { call, codeOf, enroll, makeHostKey, openHeartbeat, testFacts, type EdgeClient, type HeartbeatStream, type HostKey } from '#test/integration/gateway/edge-client.ts';

const dayMs = 86_400_000;
const actor = { kind: 'controller', name: 'test', from: '' } as const;

let plane: ControlPlane;
beforeAll(async () => {
  plane = await startControlPlane();
});

interface Machine {
  readonly key: HostKey;
  readonly enrolled: EnrollResponse;
  readonly id: HostId;
  readonly name: string;
}

async function makeMachine(on = plane): Promise<Machine> {
  const { text } = await on.issueToken();
  const key = await makeHostKey();
  const name = `m-${randomUUID().slice(0, 8)}`;
  const enrolled = await enroll(on.dial(), { token: text, key, hostName: name });
  return { key, enrolled, id: hostId(enrolled.hostId), name };
}

interface Self {
  readonly machineId?: string;
  readonly bootId?: string;
  readonly agentInstance?: string;
}

function helloOf(self: Self): Parameters<HeartbeatStream['send']>[0] {
  const facts: HostFacts = { ...testFacts, ...(self.machineId === undefined ? {} : { machineId: self.machineId }), ...(self.bootId === undefined ? {} : { bootId: self.bootId }) };
  return { $case: 'hello', value: { sessionId: randomUUID(), facts, known: [], agentInstance: self.agentInstance ?? '', sentAt: undefined } };
}

function dial(machine: Machine, chainPem = machine.enrolled.certificateChainPem, on = plane): EdgeClient {
  return on.dial({ keyPem: machine.key.keyPem, chainPem });
}

/** Opens a session; the welcome, or the reason of the goodbye. */
async function connect(machine: Machine, self: Self, chainPem?: string): Promise<{ readonly stream: HeartbeatStream; readonly welcome: { readonly renewNow: boolean } | null; readonly refused: number | null }> {
  const stream = openHeartbeat(dial(machine, chainPem));
  stream.send(helloOf(self));
  const answer = await stream.nextMessage();
  return { stream, welcome: answer.$case === 'welcome' ? answer.value : null, refused: answer.$case === 'goodbye' ? answer.value.reason : null };
}

async function renew(machine: Machine, chainPem?: string): Promise<string> {
  const client = dial(machine, chainPem);
  return (await call(client.enrollment.renewCertificate.bind(client.enrollment), { csrDer: machine.key.csrDer })).certificateChainPem;
}

async function audited(id: HostId): Promise<readonly unknown[]> {
  return (await plane.rows.query('select action from nkudo.audit_events where subject_id = $1 order by id', [id])).map((row) => row['action']);
}

async function certificateCount(id: HostId): Promise<number> {
  const [row] = await plane.rows.query('select count(*)::int as count from nkudo.certificates where host_id = $1', [id]);
  return Number(row?.['count']);
}

/** Moves the end of a certificate, past the trigger that keeps it as it is, instead of waiting for it. */
async function expire(chainPem: string, agoMs: number): Promise<void> {
  const serial = new X509Certificate(chainPem).serialNumber.toLowerCase();
  await plane.rows.query(`set session_replication_role = replica;
    update nkudo.certificates set not_before = now() - interval '${agoMs + dayMs} ms', not_after = now() - interval '${agoMs} ms' where serial = '${serial}'`);
}

interface ProofOptions {
  readonly signer?: HostKey;
  readonly csr?: HostKey;
  readonly nonceFrom?: EdgeClient;
  readonly nonce?: Buffer;
  readonly facts?: HostFacts;
}

async function recover(machine: Machine, chainPem: string, options: ProofOptions = {}): Promise<string> {
  const client = plane.dial();
  const asked = options.nonceFrom ?? client;
  const nonce = options.nonce ?? (await call(asked.enrollment.getRecoveryNonce.bind(asked.enrollment), {})).nonce;
  const request: RecoverCertificateRequest = {
    expiredCertificatePem: new X509Certificate(chainPem).toString(),
    csrDer: (options.csr ?? machine.key).csrDer,
    nonce,
    signature: sign('sha256', nonce, { key: (options.signer ?? machine.key).keyPem, dsaEncoding: 'der' }),
    facts: options.facts ?? testFacts,
  };
  return (await call(client.enrollment.recoverCertificate.bind(client.enrollment), request)).certificateChainPem;
}

describe('recovery of an expired certificate', () => {
  it('[C3] gives a host that proves its key the next certificate, and says so in the audit', async () => {
    const machine = await makeMachine();
    const old = machine.enrolled.certificateChainPem;
    await expire(old, dayMs);
    const recovered = await recover(machine, old);
    expect((await connect(machine, {}, recovered)).welcome).not.toBeNull();
    expect(await audited(machine.id)).toEqual(['enrolled', 'recovered']);
    const [row] = await plane.rows.query(`select action from nkudo.audit_events e join nkudo.certificates c on c.id = e.subject_id where c.host_id = $1 and c.counter = 2`, [machine.id]);
    expect(row).toEqual({ action: 'recovered' });
    expect(certificateCounterOf(recovered)).toBe(2);
  });

  it('[C3] gives nothing for another key, another nonce, a used nonce, or a nonce of another connection', async () => {
    const machine = await makeMachine();
    const old = machine.enrolled.certificateChainPem;
    await expire(old, dayMs);
    const stranger = await makeHostKey();
    const other = plane.dial();
    const nonce = (await call(other.enrollment.getRecoveryNonce.bind(other.enrollment), {})).nonce;
    const outcomes = {
      signature: await codeOf(recover(machine, old, { signer: stranger })),
      request: await codeOf(recover(machine, old, { csr: stranger })),
      invented: await codeOf(recover(machine, old, { nonce: randomBytes(32) })),
      elsewhere: await codeOf(recover(machine, old, { nonce })),
      unknownCertificate: await codeOf(recover({ ...machine, key: stranger }, await selfMade(stranger))),
    };
    expect(new Set(Object.values(outcomes))).toEqual(new Set(['RECOVERY_PROOF_INVALID']));
    expect(await certificateCount(machine.id)).toBe(1);
  });

  it('[C3] is bounded in time, and refused to a host that was revoked', async () => {
    const late = await makeMachine();
    await expire(late.enrolled.certificateChainPem, 91 * dayMs);
    expect(await codeOf(recover(late, late.enrolled.certificateChainPem))).toBe('RECOVERY_WINDOW_PASSED');
    await expire(late.enrolled.certificateChainPem, 89 * dayMs);
    expect(await codeOf(recover(late, late.enrolled.certificateChainPem))).toBe('OK');
    const gone = await makeMachine();
    await plane.database.hosts.revoke({ tenantId: plane.tenant, hostId: gone.id, force: false }, plane.epoch, actor);
    expect(await codeOf(recover(gone, gone.enrolled.certificateChainPem))).toBe('HOST_REVOKED');
    expect(await certificateCount(gone.id)).toBe(1);
  });

  it('[C3] is bounded in number for one certificate', async () => {
    const machine = await makeMachine();
    const stranger = await makeHostKey();
    const codes: string[] = [];
    for (let attempt = 0; attempt < 8; attempt += 1) codes.push(await codeOf(recover(machine, machine.enrolled.certificateChainPem, { csr: stranger })));
    expect(codes.slice(0, 6)).toEqual(Array.from({ length: 6 }, () => 'RECOVERY_PROOF_INVALID'));
    expect(codes.slice(6)).toEqual(['RECOVERY_LIMITED', 'RECOVERY_LIMITED']);
  });

  it('[C3] repeated after a lost answer is no clone', async () => {
    const machine = await makeMachine();
    const old = machine.enrolled.certificateChainPem;
    await expire(old, dayMs);
    await recover(machine, old);
    const second = await recover(machine, old);
    expect((await connect(machine, {}, second)).welcome).not.toBeNull();
  });
});

/** A certificate of nobody's authority, made by another control plane. */
async function selfMade(key: HostKey): Promise<string> {
  foreign ??= await startControlPlane();
  const { text } = await foreign.issueToken();
  return (await enroll(foreign.dial(), { token: text, key, hostName: `f-${randomUUID().slice(0, 8)}` })).certificateChainPem;
}
let foreign: ControlPlane | undefined;

describe('two who claim one identity', () => {
  const claimsOf = async (id: HostId) => (await plane.database.hosts.load(plane.tenant, id))?.quarantine ?? null;

  it('[C3] a renewal whose answer was lost, a reboot and an agent that was started again are no clones', async () => {
    const machine = await makeMachine();
    expect((await connect(machine, { bootId: 'boot-1', agentInstance: 'run-1' })).welcome).not.toBeNull();
    await renew(machine); // Nobody got it.
    const next = await renew(machine);
    expect((await connect(machine, { bootId: 'boot-1', agentInstance: 'run-2' }, next)).welcome).not.toBeNull();
    expect((await connect(machine, { bootId: 'boot-2', agentInstance: 'run-3' }, next)).welcome).not.toBeNull();
    expect(await claimsOf(machine.id)).toBeNull();
  });

  it('[C3] a certificate older than one that was used quarantines the host, by a session, a renewal and a recovery alike', async () => {
    const attempts: Readonly<Record<string, (machine: Machine) => Promise<unknown>>> = {
      session: async (machine) => expect((await connect(machine, {})).refused).toBe(Goodbye_Reason.QUARANTINED),
      renewal: async (machine) => expect(await codeOf(renew(machine))).toBe('HOST_QUARANTINED'),
      recovery: async (machine) => expect(await codeOf(recover(machine, machine.enrolled.certificateChainPem))).toBe('HOST_QUARANTINED'),
    };
    for (const [name, attempt] of Object.entries(attempts)) {
      const machine = await makeMachine();
      const next = await renew(machine);
      expect((await connect(machine, {}, next)).welcome, name).not.toBeNull();
      await attempt(machine);
      expect(await claimsOf(machine.id), name).toMatchObject({ reason: 'CertificateReplayed' });
      expect(await audited(machine.id), name).toContain('quarantined');
      // Neither is trusted: the one that went on is out as well.
      expect((await connect(machine, {}, next)).refused, name).toBe(Goodbye_Reason.QUARANTINED);
    }
  });

  it('[C3] another machine-id beside a machine that is heard, a boot that comes back, and an agent that comes back', async () => {
    const cases: readonly (readonly [string, readonly Self[]])[] = [
      ['OtherMachine', [{ machineId: 'one' }, { machineId: 'two' }]],
      ['BootReturned', [{ bootId: 'a' }, { bootId: 'b' }, { bootId: 'a' }]],
      ['AgentReturned', [{ agentInstance: 'a' }, { agentInstance: 'b' }, { agentInstance: 'a' }]],
    ];
    for (const [reason, selves] of cases) {
      const machine = await makeMachine();
      for (const self of selves.slice(0, -1)) expect((await connect(machine, self)).welcome, reason).not.toBeNull();
      expect((await connect(machine, selves.at(-1) ?? {})).refused, reason).toBe(Goodbye_Reason.QUARANTINED);
      expect(await claimsOf(machine.id)).toMatchObject({ reason, acceptedId: null });
    }
  });

  it('[C3] the one that an operator accepts goes on, and what the other holds is worth nothing once it has renewed', async () => {
    const machine = await makeMachine();
    const [genuine, copy] = [{ machineId: 'genuine', bootId: 'g' }, { machineId: 'copy', bootId: 'c' }];
    const first = await connect(machine, genuine);
    expect((await connect(machine, copy)).refused).toBe(Goodbye_Reason.QUARANTINED);
    // The hint that the gateway publishes ends the other stream, wherever it is.
    expect(plane.published).toContainEqual({ kind: 'host', tenantId: plane.tenant, hostId: machine.id });
    plane.hint({ kind: 'host', tenantId: plane.tenant, hostId: machine.id });
    expect((await first.stream.next('goodbye')).reason).toBe(Goodbye_Reason.QUARANTINED);
    const claims = (await claimsOf(machine.id))?.claims ?? [];
    expect(claims.map(({ machineId }) => machineId).toSorted()).toEqual(['copy', 'genuine']);
    const chosen = claims.find(({ machineId }) => machineId === 'genuine')?.id ?? '';
    const accept = (claimId: string) => plane.database.hosts.acceptClaim({ tenantId: plane.tenant, hostId: machine.id, claimId }, plane.epoch, actor);
    expect(await accept('00000000')).toBe(false);
    expect(await accept(chosen)).toBe(true);
    expect(await accept(chosen)).toBe(true);

    expect((await connect(machine, copy)).refused).toBe(Goodbye_Reason.QUARANTINED);
    expect((await connect(machine, genuine)).welcome).toMatchObject({ renewNow: true });
    const stolen = await renew(machine); // The copy has the same certificate, and so can renew too.
    const own = await renew(machine);
    expect((await connect(machine, genuine, own)).welcome).toMatchObject({ renewNow: false });
    expect(await claimsOf(machine.id)).toBeNull();
    for (const worthless of [machine.enrolled.certificateChainPem, stolen]) {
      const stream = openHeartbeat(dial(machine, worthless));
      expect(await codeOf(stream.ended.then((error) => Promise.reject(error)))).toBe('HOST_REVOKED');
    }
    expect((await audited(machine.id)).filter((action) => action !== 'enrolled')).toEqual(['quarantined', 'claimAccepted', 'quarantineEnded']);
  });
});

describe('streams of a host that lost its right', () => {
  /** A log stream that says nothing; the code that ends it. */
  const openLogs = (client: EdgeClient): Promise<string> => {
    const stream = client.edge.streamLogs();
    stream.on('data', () => {});
    return codeOf(new Promise((_, reject) => stream.on('error', reject)));
  };

  it('[C3] are cut by the hint of the revocation alone, and nothing is renewed after it', async () => {
    const machine = await makeMachine();
    const { stream } = await connect(machine, {});
    await plane.database.hosts.revoke({ tenantId: plane.tenant, hostId: machine.id, force: true }, plane.epoch, actor);
    plane.hint({ kind: 'host', tenantId: plane.tenant, hostId: machine.id });
    expect((await stream.next('goodbye')).reason).toBe(Goodbye_Reason.REVOKED);
    expect(await stream.ended).toBeNull();
    expect(await codeOf(renew(machine))).toBe('HOST_REVOKED');
    expect(await audited(machine.id)).toEqual(['enrolled', 'revoked']);
  });

  it('[C3] are cut by the safety read when the hint was lost', async () => {
    const polling = await startControlPlane({ pollIntervalMs: 50 });
    const machine = await makeMachine(polling);
    const client = dial(machine, undefined, polling);
    const logsEnded = openLogs(client);
    const stream = openHeartbeat(client);
    stream.send(helloOf({}));
    await stream.next('welcome');
    await polling.database.hosts.revoke({ tenantId: polling.tenant, hostId: machine.id, force: true }, polling.epoch, actor);
    expect((await stream.next('goodbye')).reason).toBe(Goodbye_Reason.REVOKED);
    expect(await logsEnded).toBe('HOST_REVOKED');
  });

  it('[C3] end when a newer session of the host is known, on whatever replica it was opened', async () => {
    const machine = await makeMachine();
    const { stream } = await connect(machine, {});
    // As another replica does: in the rows alone.
    await plane.rows.query('update nkudo.host_liveness set session_id = gen_random_uuid() where host_id = $1', [machine.id]);
    plane.hint({ kind: 'host', tenantId: plane.tenant, hostId: machine.id });
    expect((await stream.next('goodbye')).reason).toBe(Goodbye_Reason.REPLACED);
  });
});

describe('rotation of the intermediate', () => {
  it('[C3] a host that missed three of them connects and renews, and new hosts come in; another root is refused', async () => {
    const rotating = await startControlPlane();
    const away = await makeMachine(rotating);
    let authority = rotating.authority;
    for (let rotation = 0; rotation < 3; rotation += 1) {
      authority = await rotateIntermediate(authority.root, Date.now());
      await rotating.pki.useAuthority(authority, Date.now());
    }
    // The trust of before, and the certificate of before.
    const stream = openHeartbeat(dial(away, undefined, rotating));
    stream.send(helloOf({}));
    await stream.next('welcome');
    const client = dial(away, undefined, rotating);
    const renewed = (await call(client.enrollment.renewCertificate.bind(client.enrollment), { csrDer: away.key.csrDer })).certificateChainPem;
    const issuer = new X509Certificate(authority.intermediate.certificate.toString('pem'));
    expect(new X509Certificate(renewed).checkIssued(issuer)).toBe(true);
    expect(new X509Certificate(away.enrolled.certificateChainPem).checkIssued(issuer)).toBe(false);
    const next = openHeartbeat(dial(away, renewed, rotating));
    next.send(helloOf({}));
    await next.next('welcome');
    expect((await makeMachine(rotating)).enrolled.trustBundlePem).toBe(away.enrolled.trustBundlePem);
    await expect(rotating.pki.useAuthority(await createAuthority(Date.now()), Date.now())).rejects.toThrow('another root');
  });
});
