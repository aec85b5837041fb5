/** Enrollment over real TLS on a real Postgres: what a token gives, what it never gives, and what is in the rows. */
import { randomUUID, X509Certificate } from 'node:crypto';
import { beforeAll, describe, expect, it } from 'vitest';
import { encodeEnrollmentToken } from '#api/codec/enrollment-token.ts';
import { Goodbye_Reason } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { hostId } from '#api/model/ids.ts';
import { call, codeOf, enroll, hello, makeHostKey, openHeartbeat } from './edge-client.ts';
import { startControlPlane, type ControlPlane } from './control-plane.ts';

let plane: ControlPlane;
let other: ControlPlane;
beforeAll(async () => {
  [plane, other] = await Promise.all([startControlPlane({ pollIntervalMs: 200 }), startControlPlane()]);
});

interface Counts {
  readonly hosts: number;
  readonly certificates: number;
  readonly audit: number;
}

async function count(from: ControlPlane): Promise<Counts> {
  const [row] = await from.rows.query('select (select count(*) from nkudo.hosts) as hosts, (select count(*) from nkudo.certificates) as certificates, (select count(*) from nkudo.audit_events) as audit');
  return { hosts: Number(row?.['hosts']), certificates: Number(row?.['certificates']), audit: Number(row?.['audit']) };
}

/** The code of the refusal, after checking that nothing at all was written. */
async function refusalOf(token: string, hostName?: string): Promise<string> {
  const before = await count(plane);
  const code = await codeOf(enroll(plane.dial(), { token, key: await makeHostKey(), ...(hostName === undefined ? {} : { hostName }) }));
  expect(await count(plane)).toEqual(before);
  return code;
}

describe('enrollment', () => {
  it('[S5] gives exactly one of two agents that race for one token a certificate', async () => {
    const before = await count(plane);
    const { text } = await plane.issueToken();
    const agents = await Promise.all([makeHostKey(), makeHostKey()]);
    const outcomes = await Promise.all(agents.map((key, index) => codeOf(enroll(plane.dial(), { token: text, key, hostName: `race-${index}` }))));
    expect(outcomes.toSorted()).toEqual(['OK', 'TOKEN_USED']);
    const after = await count(plane);
    expect([after.hosts - before.hosts, after.certificates - before.certificates]).toEqual([1, 1]);
  });

  it('[S5] refuses a used, an expired, a foreign and a tampered token with the documented code, and no host appears', async () => {
    const used = await plane.issueToken();
    await enroll(plane.dial(), { token: used.text, key: await makeHostKey(), hostName: `used-${randomUUID().slice(0, 8)}` });
    expect(await refusalOf(used.text, 'second')).toBe('TOKEN_USED');

    const expired = await plane.issueToken({ expiresAtMs: Date.now() - 1_000 });
    expect(await refusalOf(expired.text, 'late')).toBe('TOKEN_EXPIRED');

    const foreign = await other.issueToken();
    expect(await refusalOf(foreign.text, 'foreign')).toBe('CA_PIN_MISMATCH');
    // The same secret dressed up with our own pin is still nobody's here.
    expect(await refusalOf(encodeEnrollmentToken({ endpoints: [plane.address], pins: plane.pki.pins(), secret: foreign.secret }), 'foreign')).toBe('TOKEN_UNKNOWN');

    const { secret, text } = await plane.issueToken();
    const flipped = (secret.startsWith('A') ? 'B' : 'A') + secret.slice(1);
    expect(await refusalOf(encodeEnrollmentToken({ endpoints: [plane.address], pins: plane.pki.pins(), secret: flipped }), 'tampered')).toBe('TOKEN_UNKNOWN');
    expect(await refusalOf(`${text.slice(0, -8)}AAAAAAAA`, 'tampered')).toMatch(/^TOKEN_(MALFORMED|UNKNOWN)$/);
    expect(await refusalOf(text.replace('nkudo1.', 'nkudo9.'), 'tampered')).toBe('TOKEN_MALFORMED');
    expect(await codeOf(enroll(plane.dial(), { token: text, key: await makeHostKey(), hostName: 'genuine' }))).toBe('OK');
  });

  it('[S5] refuses a token that pins another certificate authority, and a client that trusts another one gets no connection', async () => {
    const wrong = await plane.issueToken({ pins: other.pki.pins() });
    expect(await refusalOf(wrong.text, 'wrong-ca')).toBe('CA_PIN_MISMATCH');

    const { text } = await plane.issueToken();
    const before = await count(plane);
    const { dialEdge } = await import('./edge-client.ts');
    const distrusting = dialEdge({ address: plane.address, trustBundlePem: other.pki.trustBundlePem() });
    await expect(enroll(distrusting, { token: text, key: await makeHostKey(), hostName: 'wrong-ca' })).rejects.toMatchObject({ code: 14 });
    distrusting.close();
    expect(await count(plane)).toEqual(before);
  });

  it('refuses the wrong host name, a taken host name and a bad request without writing', async () => {
    const bound = await plane.issueToken({ hostName: 'only-this' });
    expect(await refusalOf(bound.text, 'another')).toBe('TOKEN_HOST_MISMATCH');
    expect(await codeOf(enroll(plane.dial(), { token: bound.text, key: await makeHostKey() }))).toBe('OK');
    const second = await plane.issueToken();
    expect(await refusalOf(second.text, 'only-this')).toBe('HOST_NAME_TAKEN');
    expect(await refusalOf(second.text, 'Not_A_Label')).toBe('INVALID_REQUEST');
    const key = await makeHostKey();
    expect(await codeOf(enroll(plane.dial(), { token: second.text, key: { ...key, csrDer: key.csrDer.subarray(0, -1) }, hostName: 'bad-csr' }))).toBe('CSR_INVALID');
  });

  it('gives the same certificate again for the same token and key, as when the answer was lost', async () => {
    const { text } = await plane.issueToken();
    const key = await makeHostKey();
    const hostName = `again-${randomUUID().slice(0, 8)}`;
    const first = await enroll(plane.dial(), { token: text, key, hostName });
    const before = await count(plane);
    const second = await enroll(plane.dial(), { token: text, key, hostName });
    expect(second.certificateChainPem).toBe(first.certificateChainPem);
    expect(await count(plane)).toEqual(before);
  });
});

describe('an enrolled host', () => {
  it('connects with its certificate, renews it, and is refused from the moment it is revoked', async () => {
    const { text } = await plane.issueToken();
    const key = await makeHostKey();
    const enrolled = await enroll(plane.dial(), { token: text, key, hostName: `life-${randomUUID().slice(0, 8)}` });
    expect(new X509Certificate(enrolled.certificateChainPem).subjectAltName).toContain(`/host/${enrolled.hostId}`);
    const client = plane.dial({ keyPem: key.keyPem, chainPem: enrolled.certificateChainPem });
    const stream = openHeartbeat(client);
    stream.send(hello(randomUUID()));
    expect((await stream.next('welcome')).trustBundlePem).toBe(plane.pki.trustBundlePem());

    const nextKey = await makeHostKey();
    const renewed = await call(client.enrollment.renewCertificate.bind(client.enrollment), { csrDer: nextKey.csrDer });
    const renewedClient = plane.dial({ keyPem: nextKey.keyPem, chainPem: renewed.certificateChainPem });
    expect(await codeOf(call(renewedClient.edge.reportExecutions.bind(renewedClient.edge), { executions: [], observations: [] }))).toBe('OK');

    await plane.database.hosts.revoke({ tenantId: plane.tenant, hostId: hostId(enrolled.hostId), force: false }, plane.epoch, { kind: 'controller', name: 'test', from: '' });
    expect((await stream.next('goodbye')).reason).toBe(Goodbye_Reason.REVOKED);
    expect(await codeOf(call(renewedClient.edge.reportExecutions.bind(renewedClient.edge), { executions: [], observations: [] }))).toBe('HOST_REVOKED');
  });
});
