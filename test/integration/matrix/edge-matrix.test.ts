/**
 * The authorisation matrix of the listener for agents: every method of both services, with every certificate that must not
 * work, and with ids of another host inside the message. Real TLS, real Postgres.
 */
import { Client, credentials, type Metadata as GrpcMetadata, type MethodDefinition, type ServiceError } from '@grpc/grpc-js';
import { randomUUID } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { EdgeServiceService, EnrollmentServiceService } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { hostId, sessionId } from '#api/model/ids.ts';
import { edgeAccess } from '#controller/edge-gateway/gateway.ts';
import { serverName } from '#controller/pki/certificates.ts';
import { actor, execution, observation, publishAndClaim, type Claimed } from '../db/builders.ts';
import { encodeExecution, encodeObservation } from '#api/codec/edge-codec.ts';
import { startControlPlane, type ControlPlane } from '../gateway/control-plane.ts';
import { call, enroll, hello, makeHostKey, openHeartbeat, testFacts } from '../gateway/edge-client.ts';
import { createSnapshots, runMatrix, type Cell } from './matrix.ts';
import type { Outcome } from '../identity/fleet-client.ts';

type Identity = { readonly keyPem: string; readonly chainPem: string } | null;
type AnyMethod = MethodDefinition<never, unknown>;
const methods: readonly AnyMethod[] = [...Object.values(EnrollmentServiceService), ...Object.values(EdgeServiceService)] as unknown as AnyMethod[]; // Each has its own messages.

let plane: ControlPlane;
let snapshot: () => Promise<string>;
let identities: Readonly<Record<string, { readonly identity: Identity; readonly code: string }>>;
let good: { readonly keyPem: string; readonly chainPem: string };
let theirs: Claimed;

const codeOf = (error: ServiceError): string => String((error.metadata as GrpcMetadata | undefined)?.get('nkudo-error-code')[0] ?? error.message);
const lastPart = (path: string): string => path.split('/').at(-1) ?? '';

/** First message that each method takes; what is in it is empty, since it must not be looked at. */
const samples: Readonly<Record<string, object>> = {
  Enroll: { token: '', csrDer: Buffer.alloc(0), hostName: '', facts: undefined },
  RenewCertificate: { csrDer: Buffer.alloc(0) },
  GetRecoveryNonce: {},
  RecoverCertificate: { expiredCertificatePem: '', csrDer: Buffer.alloc(0), nonce: Buffer.alloc(0), signature: Buffer.alloc(0), facts: undefined },
  Heartbeat: { message: hello(randomUUID()) },
  ReportExecutions: { executions: [], observations: [] },
  StreamLogs: { stream: undefined, offset: 0, data: Buffer.alloc(0), gapBytes: 0, readAt: undefined },
};

function request(method: AnyMethod, identity: Identity, message: object): Promise<Outcome> {
  const root = Buffer.from(plane.pki.trustBundlePem());
  const secure = identity === null ? credentials.createSsl(root) : credentials.createSsl(root, Buffer.from(identity.keyPem), Buffer.from(identity.chainPem));
  const client = new Client(plane.address, secure, { 'grpc.ssl_target_name_override': serverName, 'grpc.default_authority': serverName, 'grpc.use_local_subchannel_pool': 1, 'grpc.enable_retries': 0 });
  const options = { deadline: Date.now() + 30_000 };
  const { path, requestSerialize, responseDeserialize } = method;
  return new Promise<Outcome>((resolve) => {
    const end = (code: string, answer: unknown = null): void => resolve({ code, answer: JSON.stringify(answer), retryAfterMs: undefined });
    if (!method.requestStream) {
      client.makeUnaryRequest(path, requestSerialize, responseDeserialize, message as never, options, (error, response) => (error === null ? end('OK', response) : end(codeOf(error))));
      return;
    }
    const stream = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize, options);
    stream.on('error', (error: ServiceError) => end(codeOf(error)));
    stream.on('data', (response: unknown) => {
      end('OK', response);
      stream.cancel();
    });
    stream.on('end', () => end('OK'));
    stream.write(message as never);
  }).finally(() => client.close());
}

async function enrolled(at: ControlPlane, hostName: string): Promise<{ readonly keyPem: string; readonly chainPem: string; readonly id: ReturnType<typeof hostId> }> {
  const key = await makeHostKey();
  const answer = await enroll(at.dial(), { token: (await at.issueToken()).text, key, hostName });
  return { keyPem: key.keyPem, chainPem: answer.certificateChainPem, id: hostId(answer.hostId) };
}

beforeAll(async () => {
  const [first, foreignPlane] = await Promise.all([startControlPlane(), startControlPlane()]);
  plane = first;
  const [own, revoked, victim] = [await enrolled(plane, 'own'), await enrolled(plane, 'revoked'), await enrolled(plane, 'victim')];
  const foreign = await enrolled(foreignPlane, 'own');
  good = own;
  const key = await makeHostKey();
  const dayBefore = Date.now() - 48 * 3_600_000;
  const expired = await plane.pki.issuerFor(await plane.pki.checkRequest(key.csrDer), dayBefore)({ tenantId: plane.tenant, siteId: plane.site, hostId: own.id, hostName: 'own', counter: 1 });
  await plane.rows.query(`do $$ begin set local session_replication_role = replica; update nkudo.hosts set revoked_at = now() where id = '${revoked.id}'; end $$`);
  const session = sessionId(randomUUID());
  const facts = { hostName: 'victim', machineId: 'm', bootId: 'b', kernel: '6', architecture: 'x86_64', cpuModel: 'x', cpuCount: 8, memoryBytes: 2 ** 34, hasKvm: true, agentVersion: '0', hypervisor: { kind: 'simulated', version: '54.0.0', problem: '' } } as const;
  await plane.database.hosts.openSession({ tenantId: plane.tenant, hostId: victim.id, sessionId: session, replica: 'other', facts, known: [], certificateSerial: '0' }, actor).catch(() => {});
  const fleet = { db: plane.database, epoch: plane.epoch, tenantId: plane.tenant, siteId: plane.site, namespace: '' };
  await plane.rows.query(`do $$ begin set local session_replication_role = replica; update nkudo.hosts set facts = '${JSON.stringify(facts)}' where id = '${victim.id}'; end $$`);
  theirs = await publishAndClaim(fleet, { hostId: victim.id, sessionId: session, serial: '' });
  snapshot = await createSnapshots(plane.rows);
  identities = {
    'no certificate': { identity: null, code: 'UNAUTHENTICATED' },
    'a certificate of another authority': { identity: foreign, code: 'UNAUTHENTICATED' },
    'a certificate that has expired': { identity: { keyPem: key.keyPem, chainPem: expired.chainPem }, code: 'UNAUTHENTICATED' },
    'the certificate of a revoked host': { identity: revoked, code: 'HOST_REVOKED' },
  };
});

describe('the authorisation matrix of the agents', () => {
  it('[C1] refuses every method that needs a host to everybody else, and no row changes', async () => {
    expect(methods.map(({ path }) => path).toSorted()).toEqual(Object.keys(edgeAccess).toSorted());
    const cells = methods
      .filter(({ path }) => edgeAccess[path] === 'caller')
      .flatMap((method) => Object.entries(identities).map(([name, { identity, code }]): Cell => ({ name: `${method.path} × ${name}`, expected: code, call: () => request(method, identity, samples[lastPart(method.path)] ?? {}) })));
    // What needs no certificate gives nothing away for nothing.
    const open = methods.filter(({ path }) => edgeAccess[path] === 'public').flatMap((method) => {
      const expected: Readonly<Record<string, string>> = { Enroll: 'TOKEN_MALFORMED', GetRecoveryNonce: 'OK', RecoverCertificate: 'RECOVERY_PROOF_INVALID' };
      return [null, good].map((identity): Cell => ({
        name: `${method.path} × an empty message, ${identity === null ? 'no certificate' : 'with one'}`,
        expected: expected[lastPart(method.path)] ?? 'INVALID_REQUEST',
        call: () => request(method, identity, samples[lastPart(method.path)] ?? {}),
      }));
    });
    const findings = await runMatrix(snapshot, [...cells, ...open]);
    console.log(`[C1] agents: ${methods.length} methods, ${findings.cells} cells`);
    expect(findings.failures).toEqual([]);
  });

  it('[C1] a host that speaks of the microVM, the operation or the log of another host changes nothing of it', async () => {
    const client = plane.dial(good);
    const victims = async (): Promise<string> =>
      JSON.stringify(
        await Promise.all(
          ['microvms', 'bindings', 'operations', 'executions', 'execution_records', 'observations', 'logs', 'log_cursors', 'plans'].map((table) => plane.rows.query(`select t::text from nkudo.${table} t where tenant_id = $1 order by 1`, [plane.tenant])),
        ),
      );
    const before = await victims();
    const failed = execution(theirs.operationId, { status: 'Failed', isFinal: true, finishedAtMs: Date.now(), error: { code: 'INTERNAL', message: 'not mine' } });
    const lie = observation(theirs.record, { state: 'stopped' });
    const reports = await call(client.edge.reportExecutions.bind(client.edge), { executions: [encodeExecution(failed)], observations: [encodeObservation(lie)] });
    expect(reports.refused.map(({ id }) => id).toSorted()).toEqual([failed.executionId, theirs.microvmId].toSorted());
    expect(await victims()).toBe(before);

    const stream = openHeartbeat(client);
    const mine = randomUUID();
    stream.send({ $case: 'hello', value: { sessionId: mine, facts: testFacts, known: [], agentInstance: '', sentAt: undefined } });
    await stream.next('welcome');
    stream.send({ $case: 'receipt', value: { operationId: theirs.operationId, disposition: 3, errorCode: '', errorMessage: '' } as never });
    stream.send({ $case: 'beat', value: { sequence: 1 } as never });
    await stream.next('ack');
    stream.cancel();
    expect(await victims()).toBe(before);

    const logs = methods.find(({ path }) => path.endsWith('/StreamLogs'));
    if (logs === undefined) throw new Error('there is no StreamLogs');
    const chunk = { stream: { microvmId: theirs.microvmId, source: 1, incarnation: 1 }, offset: 0, data: Buffer.from('not mine'), gapBytes: 0, readAt: undefined };
    // Taken and thrown away: a host that lost its microVM to another one must get rid of what it still holds.
    expect((await request(logs, good, chunk)).code).toBe('OK');
    expect(await victims()).toBe(before);
  });
});
