/**
 * The edge listener over real TLS with stores that are recorded: who gets in, what is pushed when, and
 * how streams end. Polling is set to an hour wherever an event must do the work alone.
 */
import { randomUUID } from 'node:crypto';
import pino from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { inertFaultPoints } from '#api/fault-points/fault-points.ts';
import { EdgeServiceService, Goodbye_Reason } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { AppError } from '#api/model/error-codes.ts';
import { makeEpoch } from '#api/model/epoch.ts';
import { hostId, microVMId, operationId, planId, siteId, tenantId, type HostId } from '#api/model/ids.ts';
import type { Operation } from '#api/model/plan.ts';
import { createEdgeGateway, edgeAccess, type EdgeGateway } from '#controller/edge-gateway/gateway.ts';
import { registerServices } from '#controller/grpc/access.ts';
import { startListener, type Listener } from '#controller/grpc/listener.ts';
import { createHealth, healthAccess } from '#controller/grpc/standard-services.ts';
import { checkRequest, createAuthority, issueHostCertificate, type CertificateAuthority } from '#controller/pki/certificates.ts';
import { createPki } from '#controller/pki/pki.ts';
import type { CertificateIdentity } from '#controller/ports/enrollment-store.ts';
import type { GuestSecrets } from '#controller/ports/guest-secrets.ts';
import type { ChangeHint } from '#controller/ports/dispatch-store.ts';
import { createMetrics } from '#controller/telemetry/metrics.ts';
import { testDesired } from '#test/builders/edge-microvm.ts';
import { call, codeOf, dialEdge, hello, makeHostKey, openHeartbeat, testFacts, type EdgeClient } from './edge-client.ts';

const hourMs = 3_600_000;
const tenant = tenantId('00000000-0000-4000-8000-000000000001');
const site = siteId('00000000-0000-4000-8000-000000000002');
const log = pino({ level: 'silent' });

/** Stores that remember what they were asked and answer what the test says. */
function recordingStores() {
  const calls: { readonly name: string; readonly input: unknown }[] = [];
  const identities = new Map<string, CertificateIdentity>();
  const pending = new Map<HostId, Operation[]>();
  const dispatched = new Map<HostId, Operation[]>();
  const waiters: (() => void)[] = [];
  let failure: AppError | null = null;
  const record = <Result>(name: string, input: unknown, result: () => Result): Promise<Result> => {
    if (failure !== null) return Promise.reject(failure);
    calls.push({ name, input });
    waiters.splice(0).forEach((wake) => wake());
    return Promise.resolve(result());
  };
  return {
    calls,
    identities,
    pending,
    named: (name: string) => calls.filter((each) => each.name === name).map((each) => each.input),
    failWith: (error: AppError | null) => {
      failure = error;
    },
    /** Resolves when the call was made so many times. */
    called: async (name: string, times = 1): Promise<void> => {
      while (calls.filter((each) => each.name === name).length < times) await new Promise<void>((resolve) => waiters.push(resolve));
    },
    enrollments: {
      identify: (serial: string) => (failure === null ? Promise.resolve(identities.get(serial) ?? null) : Promise.reject(failure)),
      enroll: (input: unknown) => record('enroll', input, () => { throw new AppError('TOKEN_UNKNOWN'); }),
      renew: (input: unknown) => record('renew', input, () => { throw new AppError('HOST_REVOKED'); }),
      recover: (input: unknown) => record('recover', input, () => { throw new AppError('RECOVERY_PROOF_INVALID'); }),
      registerToken: () => Promise.resolve(),
      loadToken: () => Promise.resolve(null),
      revokeToken: () => Promise.resolve(),
    },
    hosts: {
      openSession: (input: unknown) => record('openSession', input, () => ({ forgotten: [], renewNow: false, isContested: false })),
      closeSession: (input: unknown) => record('closeSession', input, () => {}),
      saveFacts: (input: unknown) => record('saveFacts', input, () => {}),
      flushBeats: (input: unknown) => record('flushBeats', input, () => {}),
    },
    dispatch: {
      claim: (input: { readonly hostId: HostId; readonly includeDispatched: boolean }) =>
        record('claim', input, () => {
          const claimed = [...(input.includeDispatched ? (dispatched.get(input.hostId) ?? []) : []), ...(pending.get(input.hostId) ?? [])];
          dispatched.set(input.hostId, claimed);
          pending.delete(input.hostId);
          return claimed;
        }),
      listCancels: () => Promise.resolve([]),
      listHostsWithPending: () => (failure === null ? Promise.resolve([...pending.keys()].map((each) => ({ tenantId: tenant, hostId: each, hasCancels: false }))) : Promise.reject(failure)),
      recordReceipt: (input: unknown) => record('recordReceipt', input, () => []),
      recordReports: (input: unknown) => record('recordReports', input, () => ({ refused: [], changed: [microVMId('00000000-0000-4000-8000-00000000000a')] })),
    },
    leases: { grant: (requests: unknown) => record('grant', requests, () => []) },
    logs: { appendAll: (_tenant: unknown, _host: unknown, chunks: readonly { readonly offset: number; readonly data: Uint8Array }[]) => record('append', chunks, () => chunks.map((chunk) => chunk.offset + chunk.data.byteLength)) },
  };
}

interface Fixture {
  readonly stores: ReturnType<typeof recordingStores>;
  readonly authority: CertificateAuthority;
  readonly address: string;
  readonly hint: (hint: ChangeHint) => void;
  readonly published: readonly ChangeHint[];
  readonly gateway: EdgeGateway;
  readonly listener: Listener;
  /** A client with the certificate of a new host. */
  connect(changes?: Partial<CertificateIdentity>, authority?: CertificateAuthority): Promise<{ readonly client: EdgeClient; readonly identity: CertificateIdentity }>;
  anonymous(): EdgeClient;
}

const ending: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ending.splice(0).toReversed()) await end();
});

async function startFixture(settings: { readonly pollIntervalMs?: number; readonly heartbeatIntervalMs?: number; readonly guestSecrets?: GuestSecrets } = {}): Promise<Fixture> {
  const stores = recordingStores();
  const authority = await createAuthority(Date.now());
  const pki = await createPki({ authority, hosts: [], hostValidityMs: hourMs, nowMs: Date.now() });
  const listeners: ((hint: ChangeHint) => void)[] = [];
  const published: ChangeHint[] = [];
  const gateway = createEdgeGateway(
    {
      ...stores,
      log,
      pki,
      clock: { nowMs: () => Date.now(), monotonicMs: () => performance.now() },
      ids: { uuid: () => randomUUID() },
      hints: { publish: (hint) => void published.push(hint), onHint: (listener) => (listeners.push(listener), () => {}), onRemoteChange: () => () => {} },
      guestSecrets: settings.guestSecrets ?? { read: () => Promise.reject(new AppError('INTERNAL', 'no operation here has Secrets')) },
      faults: inertFaultPoints(),
      metrics: createMetrics().gateway,
      settings: { recoveryWindowMs: hourMs, heartbeatIntervalMs: settings.heartbeatIntervalMs ?? hourMs, pollIntervalMs: settings.pollIntervalMs ?? hourMs, replica: 'test', endpoints: () => ['127.0.0.1:1'] },
      onLogStored: () => {},
    },
    { log },
  );
  const listener = await startListener({
    listen: '127.0.0.1:0',
    certificates: pki.serverCertificates,
    asksForClientCertificate: true,
    table: { ...edgeAccess, ...healthAccess },
    interceptor: gateway.callers.interceptor,
    services: [...gateway.services, createHealth({ log }, []).service],
  });
  gateway.start();
  ending.push(async () => {
    await gateway.stop();
    await listener.stop(500);
  });
  const dial = (identity?: { readonly keyPem: string; readonly chainPem: string }): EdgeClient => {
    const client = dialEdge({ address: listener.address, trustBundlePem: pki.trustBundlePem(), ...(identity === undefined ? {} : { identity }) });
    ending.push(() => client.close());
    return client;
  };
  return {
    stores,
    authority,
    address: listener.address,
    published,
    gateway,
    listener,
    hint: (hint) => listeners.forEach((each) => each(hint)),
    anonymous: () => dial(),
    connect: async (changes = {}, signer = authority) => {
      const key = await makeHostKey();
      const subject = { tenantId: tenant, siteId: site, hostId: changes.hostId ?? hostId(randomUUID()), hostName: 'h' };
      const { publicKey } = await checkRequest(key.csrDer);
      const made = await issueHostCertificate(signer, { subject, publicKey, nowMs: Date.now(), validityMs: hourMs });
      const identity: CertificateIdentity = { ...subject, serial: made.serial, counter: 1, isRevoked: false, isQuarantined: false, awaitsApproval: false, ...changes };
      stores.identities.set(made.serial, identity);
      return { client: dial({ keyPem: key.keyPem, chainPem: made.chainPem }), identity };
    },
  };
}

function deleteOperation(host: HostId): Operation {
  return { id: operationId(randomUUID()), planId: planId(randomUUID()), microvmId: microVMId(randomUUID()), hostId: host, kind: 'Delete', epoch: makeEpoch(1, 1), revision: 1, generation: 1 };
}

describe('access', () => {
  it('refuses every method of the edge service to a caller without a certificate, without touching a store', async () => {
    const { stores, anonymous } = await startFixture();
    const { edge, enrollment } = anonymous();
    const stream = openHeartbeat({ edge, enrollment, close: () => {} });
    stream.send(hello(randomUUID()));
    const logs = edge.streamLogs();
    logs.on('data', () => {});
    const logsEnded = codeOf(new Promise((_, reject) => logs.on('error', reject)));
    const outcomes = {
      heartbeat: await codeOf(stream.ended.then((error) => Promise.reject(error))),
      reportExecutions: await codeOf(call(edge.reportExecutions.bind(edge), { executions: [], observations: [] })),
      streamLogs: await logsEnded,
      renewCertificate: await codeOf(call(enrollment.renewCertificate.bind(enrollment), { csrDer: Buffer.alloc(1) })),
    };
    expect(new Set(Object.values(outcomes))).toEqual(new Set(['UNAUTHENTICATED']));
    for (const name of Object.keys(EdgeServiceService)) expect(Object.keys(outcomes)).toContain(name);
    expect(stores.calls).toEqual([]);
  });

  it('does not know a certificate of another authority, nor one that it never recorded', async () => {
    const { stores, connect } = await startFixture();
    const foreign = await connect({}, await createAuthority(Date.now()));
    const forgotten = await connect();
    stores.identities.delete(forgotten.identity.serial);
    for (const { client } of [foreign, forgotten]) {
      expect(await codeOf(call(client.edge.reportExecutions.bind(client.edge), { executions: [], observations: [] }))).toBe('UNAUTHENTICATED');
    }
    expect(stores.calls).toEqual([]);
  });

  it('does not take the certificate of one host for another one', async () => {
    const { stores, connect } = await startFixture();
    const { client, identity } = await connect();
    stores.identities.set(identity.serial, { ...identity, hostId: hostId(randomUUID()) });
    expect(await codeOf(call(client.edge.reportExecutions.bind(client.edge), { executions: [], observations: [] }))).toBe('UNAUTHENTICATED');
  });

  it('lets callers without a certificate reach enrollment and recovery, which answers honestly', async () => {
    const { anonymous } = await startFixture();
    const { enrollment } = anonymous();
    const key = await makeHostKey();
    expect(await codeOf(call(enrollment.enroll.bind(enrollment), { token: 'x', csrDer: key.csrDer, hostName: '', facts: testFacts }))).toBe('TOKEN_MALFORMED');
    expect((await call(enrollment.getRecoveryNonce.bind(enrollment), {})).nonce).toHaveLength(32);
    const proof = { expiredCertificatePem: 'x', csrDer: key.csrDer, nonce: Buffer.alloc(32), signature: Buffer.alloc(1), facts: undefined };
    expect(await codeOf(call(enrollment.recoverCertificate.bind(enrollment), proof))).toBe('RECOVERY_PROOF_INVALID');
  });

  it('fails the start when a handler has no access rule, or a rule has no handler', () => {
    const server = { addService: () => {} };
    const service = { definition: EdgeServiceService, implementation: {} };
    const { '/nkudo.edge.v1.EdgeService/Heartbeat': _heartbeat, ...lacking } = edgeAccess;
    expect(() => registerServices(server, lacking, [service])).toThrow('no access rule for /nkudo.edge.v1.EdgeService/Heartbeat');
    expect(() => registerServices(server, edgeAccess, [service])).toThrow(/access rules without a handler: .*Enroll/);
  });

  it('refuses a revoked host with the documented code', async () => {
    const { connect } = await startFixture();
    const { client } = await connect({ isRevoked: true });
    expect(await codeOf(call(client.edge.reportExecutions.bind(client.edge), { executions: [], observations: [] }))).toBe('HOST_REVOKED');
  });
});

describe('values of Secrets', () => {
  const reference = { name: 'guest', key: 'user-data', resourceVersion: '7' };
  const withSecrets = (host: HostId): Operation => ({ ...deleteOperation(host), kind: 'Create', desired: testDesired({ namespace: 'shop', secrets: [reference] }) });
  const found = (text: string) => [{ kind: 'found' as const, reference, value: { name: 'guest', key: 'user-data', reveal: () => Buffer.from(text) } }];

  it('go with the operation, each time that it is sent, and are read for its own namespace', async () => {
    const asked: unknown[] = [];
    const { stores, connect } = await startFixture({ guestSecrets: { read: async (...input) => (asked.push(input), found(`read ${asked.length}`)) } });
    const { client, identity } = await connect();
    const operation = withSecrets(identity.hostId);
    stores.pending.set(identity.hostId, [operation]);
    for (const text of ['read 1', 'read 2']) {
      const stream = openHeartbeat(client);
      stream.send(hello(randomUUID()));
      const { operationId: sent, secrets } = await stream.next('operation');
      expect([sent, secrets.map(({ name, key, value }) => `${name} ${key} ${value.toString()}`)]).toEqual([operation.id, [`guest user-data ${text}`]]);
    }
    expect(asked).toEqual([['shop', [reference]], ['shop', [reference]]]);
  });

  it('hold up nothing but their own operation while the API server gives no answer, and go when it does', async () => {
    let answer = (): void => {};
    const answered = new Promise<void>((resolve) => (answer = resolve));
    let reads = 0;
    const guestSecrets: GuestSecrets = {
      read: async () => {
        reads += 1;
        if (reads === 1) throw new AppError('UNAVAILABLE', 'connection refused');
        await answered;
        return found('late');
      },
    };
    const { stores, connect, hint } = await startFixture({ guestSecrets });
    const { client, identity } = await connect();
    const waiting = withSecrets(identity.hostId);
    stores.pending.set(identity.hostId, [waiting, deleteOperation(identity.hostId)]);
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    expect((await stream.next('operation')).operationId).not.toBe(waiting.id);
    const later = deleteOperation(identity.hostId);
    stores.pending.set(identity.hostId, [later]);
    hint({ kind: 'operations', hostId: identity.hostId });
    expect((await stream.next('operation')).operationId).toBe(later.id);
    answer();
    expect(await stream.next('operation')).toMatchObject({ operationId: waiting.id, secrets: [{ value: Buffer.from('late') }] });
    expect(reads).toBe(2);
  });

  it('that can not be had are left out, so that the host decides whether it can do without', async () => {
    const { stores, connect } = await startFixture({ guestSecrets: { read: async () => [{ kind: 'refused', key: reference, reason: 'SecretNotFound', message: 'gone' }] } });
    const { client, identity } = await connect();
    const operation = withSecrets(identity.hostId);
    stores.pending.set(identity.hostId, [operation]);
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    expect(await stream.next('operation')).toMatchObject({ operationId: operation.id, secrets: [], desired: { secrets: [reference] } });
  });
});

describe('sessions', () => {
  it('welcomes a host, pushes what waited, and pushes on a hint alone', async () => {
    const { stores, connect, hint } = await startFixture();
    const { client, identity } = await connect();
    const waited = deleteOperation(identity.hostId);
    stores.pending.set(identity.hostId, [waited]);
    const stream = openHeartbeat(client);
    const session = randomUUID();
    stream.send(hello(session));
    expect(await stream.next('welcome')).toMatchObject({ sessionId: session, endpoints: ['127.0.0.1:1'] });
    expect((await stream.next('operation')).operationId).toBe(waited.id);
    const later = deleteOperation(identity.hostId);
    stores.pending.set(identity.hostId, [later]);
    hint({ kind: 'operations', hostId: identity.hostId });
    expect((await stream.next('operation')).operationId).toBe(later.id);
    stream.send({ $case: 'receipt', value: { operationId: later.id, disposition: 1, errorCode: '', errorMessage: '' } });
    await stores.called('recordReceipt');
    expect(stores.named('recordReceipt')).toEqual([{ tenantId: tenant, hostId: identity.hostId, operationId: later.id, disposition: 'Accepted', error: null }]);
    expect(stores.named('claim').map((input) => (input as { includeDispatched: boolean }).includeDispatched)).toEqual([true, false]);
  });

  it('finds undelivered operations by the safety read when a hint was lost', async () => {
    const { stores, connect } = await startFixture({ pollIntervalMs: 20 });
    const { client, identity } = await connect();
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    await stream.next('welcome');
    await stores.called('claim');
    const lost = deleteOperation(identity.hostId);
    stores.pending.set(identity.hostId, [lost]);
    expect((await stream.next('operation')).operationId).toBe(lost.id);
  });

  it('sends what was handed out before to the next stream of the host', async () => {
    const { stores, connect } = await startFixture();
    const { client, identity } = await connect();
    const operation = deleteOperation(identity.hostId);
    stores.pending.set(identity.hostId, [operation]);
    for (let attempt = 0; attempt < 2; attempt += 1) {
      const stream = openHeartbeat(client);
      stream.send(hello(randomUUID()));
      expect((await stream.next('operation')).operationId).toBe(operation.id);
      stream.cancel();
      await stores.called('closeSession', attempt + 1);
    }
  });

  it('answers beats at once and stores those of all hosts with one call', async () => {
    const { stores, connect, gateway } = await startFixture();
    const hosts = await Promise.all([connect(), connect(), connect()]);
    for (const { client } of hosts) {
      const stream = openHeartbeat(client);
      stream.send(hello(randomUUID()));
      stream.send({ $case: 'beat', value: { sequence: 1 } });
      stream.send({ $case: 'beat', value: { sequence: 2 } });
      expect((await stream.next('ack')).leaseMs).toBeUndefined();
      expect((await stream.next('ack')).sequence).toBe(2);
    }
    expect(stores.named('flushBeats')).toEqual([]);
    await gateway.stop();
    const [batch] = stores.named('flushBeats') as { hostId: string }[][];
    expect(batch?.map((beat) => beat.hostId).sort()).toEqual(hosts.map(({ identity }) => identity.hostId).sort());
    expect(stores.named('flushBeats')).toHaveLength(1);
  });

  it('ends the older session of a host when a newer one comes', async () => {
    const { stores, connect } = await startFixture();
    const { client } = await connect();
    const older = openHeartbeat(client);
    older.send(hello(randomUUID()));
    await older.next('welcome');
    const newer = openHeartbeat(client);
    newer.send(hello(randomUUID()));
    await newer.next('welcome');
    expect((await older.next('goodbye')).reason).toBe(Goodbye_Reason.REPLACED);
    expect(await older.ended).toBeNull();
    newer.send({ $case: 'beat', value: { sequence: 1 } });
    await newer.next('ack');
    expect(stores.named('openSession')).toHaveLength(2);
  });

  it('closes the live stream of a host that was revoked, quarantined or lost its approval', async () => {
    const { stores, connect } = await startFixture({ pollIntervalMs: 20 });
    for (const [change, reason] of [[{ isRevoked: true }, 'REVOKED'], [{ isQuarantined: true }, 'QUARANTINED'], [{ awaitsApproval: true }, 'NOT_APPROVED']] as const) {
      const { client, identity } = await connect();
      const stream = openHeartbeat(client);
      stream.send(hello(randomUUID()));
      await stream.next('welcome');
      stores.identities.set(identity.serial, { ...identity, ...change });
      expect((await stream.next('goodbye')).reason).toBe(Goodbye_Reason[reason]);
      expect(await stream.ended).toBeNull();
    }
  });

  it('keeps a host connected that waits for approval, orders nothing, and hands out what waits as soon as it is approved', async () => {
    const { stores, connect, hint } = await startFixture();
    const { client, identity } = await connect({ awaitsApproval: true });
    stores.pending.set(identity.hostId, [deleteOperation(identity.hostId)]);
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    expect(await stream.next('welcome')).toMatchObject({ awaitsApproval: true });
    hint({ kind: 'operations', hostId: identity.hostId });
    stream.send({ $case: 'beat', value: { sequence: 1 } });
    await stream.next('ack');
    expect(stores.named('claim')).toEqual([]);
    stores.identities.set(identity.serial, { ...identity, awaitsApproval: false });
    hint({ kind: 'host', tenantId: identity.tenantId, hostId: identity.hostId });
    await stream.next('operation');
  });

  it('says goodbye to every host when it stops', async () => {
    const { connect, gateway, stores } = await startFixture();
    const { client } = await connect();
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    await stream.next('welcome');
    await gateway.stop();
    expect((await stream.next('goodbye')).reason).toBe(Goodbye_Reason.SHUTTING_DOWN);
    await stores.called('closeSession');
  });

  it('ends a stream that breaks the protocol with the documented code, and serves the others on', async () => {
    const { connect } = await startFixture();
    const { client } = await connect();
    const broken = openHeartbeat(client);
    broken.send({ $case: 'beat', value: { sequence: 1 } });
    expect(await codeOf(broken.ended.then((error) => Promise.reject(error)))).toBe('INVALID_REQUEST');
    const good = openHeartbeat(client);
    good.send(hello(randomUUID()));
    await good.next('welcome');
    good.send({ $case: 'receipt', value: { operationId: 'nonsense', disposition: 1, errorCode: '', errorMessage: '' } });
    expect(await codeOf(good.ended.then((error) => Promise.reject(error)))).toBe('INVALID_REQUEST');
  });

  it('answers with a retry while the database is away, and claims again once it is back', async () => {
    const { stores, connect } = await startFixture({ pollIntervalMs: 20 });
    const { client, identity } = await connect();
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    await stream.next('welcome');
    await stores.called('claim');
    stores.failWith(new AppError('DATABASE_UNAVAILABLE'));
    expect(await codeOf(call(client.edge.reportExecutions.bind(client.edge), { executions: [], observations: [] }))).toBe('DATABASE_UNAVAILABLE');
    const operation = deleteOperation(identity.hostId);
    stores.pending.set(identity.hostId, [operation]);
    stores.failWith(null);
    expect((await stream.next('operation')).operationId).toBe(operation.id);
  });
});

describe('reports and logs', () => {
  it('stores what can be stored, refuses the rest by name, and hints for what changed', async () => {
    const { stores, connect, published } = await startFixture();
    const { client } = await connect();
    const good = { executionId: randomUUID(), operationId: randomUUID(), attempt: 1, status: 1 as const, startedAt: { seconds: 1, nanos: 0 }, finishedAt: undefined, errorCode: '', errorMessage: '', isFinal: false };
    const answer = await call(client.edge.reportExecutions.bind(client.edge), { executions: [good, { ...good, executionId: 'bad' }], observations: [] });
    expect(answer.refused).toEqual([{ id: 'bad', errorCode: 'INVALID_REQUEST' }]);
    expect((stores.named('recordReports')[0] as { executions: unknown[] }).executions).toHaveLength(1);
    expect(published).toContainEqual({ kind: 'microvm', tenantId: tenant, microvmId: '00000000-0000-4000-8000-00000000000a' });
  });

  it('acknowledges log chunks in their order and refuses one that is too long', async () => {
    const { connect } = await startFixture();
    const { client } = await connect();
    const stream = client.edge.streamLogs();
    const acknowledged: number[] = [];
    const all = Promise.withResolvers<void>();
    stream.on('data', (answer: { nextOffset: number }) => {
      if (acknowledged.push(answer.nextOffset) === 3) all.resolve();
    });
    const ended = codeOf(new Promise((_, reject) => stream.on('error', reject)));
    const name = { microvmId: randomUUID(), source: 1 as const, incarnation: 1 };
    for (const offset of [0, 10, 20]) stream.write({ stream: name, offset, data: Buffer.alloc(10), gapBytes: 0, readAt: undefined });
    await all.promise;
    stream.write({ stream: name, offset: 30, data: Buffer.alloc(65_537), gapBytes: 0, readAt: undefined });
    expect(await ended).toBe('INVALID_REQUEST');
    expect(acknowledged).toEqual([10, 20, 30]);
  });
});
