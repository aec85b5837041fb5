import { X509Certificate } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { createAuthority, issueServerCertificate, issueHostCertificate, checkRequest } from '#controller/pki/certificates.ts';
import { hostId, siteId, tenantId } from '#api/model/ids.ts';
import { generateKeyPairSync } from 'node:crypto';
import { makeCertificateRequest } from './certificate-request.ts';
import { judgeChain } from './tolerant-credentials.ts';

const dayMs = 86_400_000;
const atMs = Date.UTC(2031, 5, 1);

const split = (pem: string): readonly X509Certificate[] => (pem.match(/-----BEGIN[^-]+-----[^-]+-----END[^-]+-----/g) ?? []).map((each) => new X509Certificate(each));

async function serverOf(nowMs: number) {
  const authority = await createAuthority(nowMs);
  const made = await issueServerCertificate(authority, { hosts: [], nowMs, validityMs: 14 * dayMs });
  return { authority, root: authority.root.certificate.toString('pem'), chain: split(made.chainPem) };
}

describe('a control plane that the wall clock finds invalid', () => {
  it('is taken when it was valid at the newest time that is known, and only then', async () => {
    const { root, chain } = await serverOf(atMs);
    expect(judgeChain(chain, root, atMs)).toBeNull();
    for (const wrong of [0, atMs - 2 * dayMs, atMs + 15 * dayMs]) expect(judgeChain(chain, root, wrong)).toContain('was not valid');
  });

  it('is not taken with another root, without its intermediate, under another name, or as no server', async () => {
    const [one, other] = await Promise.all([serverOf(atMs), serverOf(atMs)]);
    expect(judgeChain(one.chain, other.root, atMs)).toContain('does not end at a trusted root');
    expect(judgeChain(one.chain.slice(0, 1), one.root, atMs)).toContain('does not end at a trusted root');
    expect(judgeChain([...one.chain.slice(0, 1), ...other.chain.slice(1)], one.root, atMs)).toContain('does not hold');
    expect(judgeChain([], one.root, atMs)).toContain('no certificate');
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const request = await checkRequest(await makeCertificateRequest(privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), 'nkudo-controller'));
    const id = '00000000-0000-4000-8000-000000000001';
    const subject = { tenantId: tenantId(id), siteId: siteId(id), hostId: hostId(id), hostName: 'nkudo-controller' };
    const host = await issueHostCertificate(one.authority, { subject, publicKey: request.publicKey, nowMs: atMs, validityMs: dayMs });
    expect(judgeChain(split(host.chainPem), one.root, atMs)).not.toBeNull();
  });
});
