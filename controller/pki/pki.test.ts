import 'reflect-metadata';
import { Pkcs10CertificateRequestGenerator, X509Certificate } from '@peculiar/x509';
import { X509Certificate as NodeCertificate, webcrypto } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { hostId, siteId, tenantId } from '#api/model/ids.ts';
import { loadOrCreateAuthority, type SecretPort } from './authority-store.ts';
import { checkRequest, createAuthority, hostUri, issueHostCertificate, parseHostUri, pinOf } from './certificates.ts';
import { createPki } from './pki.ts';

const nowMs = Date.UTC(2026, 0, 1);
const hourMs = 3_600_000;
const subject = {
  tenantId: tenantId('00000000-0000-4000-8000-000000000001'),
  siteId: siteId('00000000-0000-4000-8000-000000000002'),
  hostId: hostId('00000000-0000-4000-8000-000000000003'),
  hostName: 'shop-1',
};

async function makeRequest(options: { readonly curve?: string; readonly name?: string } = {}): Promise<Uint8Array> {
  const algorithm = { name: 'ECDSA', namedCurve: options.curve ?? 'P-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, false, ['sign', 'verify']);
  const request = await Pkcs10CertificateRequestGenerator.create({ name: options.name ?? 'CN=x', keys, signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' } });
  return new Uint8Array(request.rawData);
}

function memorySecrets(): SecretPort & { readonly store: Map<string, Readonly<Record<string, string>>> } {
  const store = new Map<string, Readonly<Record<string, string>>>();
  return {
    store,
    read: (name) => Promise.resolve(store.get(name) ?? null),
    create: (name, values) => {
      if (store.has(name)) return Promise.resolve('exists');
      store.set(name, values);
      return Promise.resolve('created');
    },
  };
}

describe('certificates', () => {
  it('gives a host certificate the identity that was asked for and nothing of the request but its key', async () => {
    const authority = await createAuthority(nowMs);
    const request = await checkRequest(await makeRequest({ name: 'CN=admin,O=system:masters' }));
    const made = await issueHostCertificate(authority, { subject, publicKey: request.publicKey, nowMs, validityMs: 24 * hourMs });
    const certificate = new NodeCertificate(made.chainPem);
    expect(certificate.subject).toBe('CN=shop-1');
    expect(certificate.subjectAltName).toBe(`URI:${hostUri(subject)}`);
    expect(certificate.serialNumber.toLowerCase()).toBe(made.serial);
    expect(made.notBeforeMs).toBe(nowMs - 5 * 60_000);
    expect(made.notAfterMs).toBe(nowMs + 24 * hourMs);
    expect(certificate.validToDate.getTime()).toBe(made.notAfterMs);
    const intermediate = new NodeCertificate(authority.intermediate.certificate.toString('pem'));
    expect(certificate.verify(intermediate.publicKey)).toBe(true);
    expect(certificate.ca).toBe(false);
  });

  it('refuses requests with another curve, a broken signature, garbage and too many bytes', async () => {
    const broken = await makeRequest();
    broken[broken.length - 1] = (broken.at(-1) ?? 0) ^ 1;
    for (const der of [await makeRequest({ curve: 'P-384' }), broken, Buffer.from('garbage'), new Uint8Array(), new Uint8Array(5000)]) {
      await expect(checkRequest(der)).rejects.toMatchObject({ code: 'CSR_INVALID' });
    }
  });

  it('reads only URIs of its own form', () => {
    expect(parseHostUri(hostUri(subject))).toEqual({ tenantId: subject.tenantId, siteId: subject.siteId, hostId: subject.hostId });
    for (const uri of ['', 'spiffe://other/tenant/x', `${hostUri(subject)}/more`, hostUri(subject).replace('00000000-0000', '0000000000000')]) {
      expect(parseHostUri(uri)).toBeNull();
    }
  });
});

describe('authority store', () => {
  it('ends with one authority when two replicas start at once', async () => {
    const secrets = memorySecrets();
    const both = await Promise.all([loadOrCreateAuthority(secrets, 'ca', nowMs), loadOrCreateAuthority(secrets, 'ca', nowMs)]);
    const later = await loadOrCreateAuthority(secrets, 'ca', nowMs);
    expect(new Set([...both, later].map((authority) => pinOf(authority.root.certificate))).size).toBe(1);
  });

  it('refuses a secret that lacks a part or mixes two authorities, and leaves it alone', async () => {
    const secrets = memorySecrets();
    await loadOrCreateAuthority(secrets, 'a', nowMs);
    await loadOrCreateAuthority(secrets, 'b', nowMs);
    const [a, b] = [secrets.store.get('a') ?? {}, secrets.store.get('b') ?? {}];
    secrets.store.set('lacking', { ...a, 'root.key': '' });
    secrets.store.set('mixed', { ...a, 'intermediate.crt': b['intermediate.crt'] ?? '' });
    await expect(loadOrCreateAuthority(secrets, 'lacking', nowMs)).rejects.toThrow(/has no root\.key/);
    await expect(loadOrCreateAuthority(secrets, 'mixed', nowMs)).rejects.toThrow(/does not belong to its certificate/);
    expect(secrets.store.get('lacking')?.['root.key']).toBe('');
  });
});

describe('pki', () => {
  it('keeps the server certificate until half of its life is over, then gives listeners another one', async () => {
    const pki = await createPki({ authority: await createAuthority(nowMs), hosts: ['10.0.0.1', 'cp.example'], hostValidityMs: hourMs, nowMs });
    const seen: string[] = [];
    pki.serverCertificates.addIdentityCertificateListener((update) => {
      if (update !== null) seen.push(new X509Certificate(update.certificate.toString().split('-----END')[0] + '-----END CERTIFICATE-----').serialNumber);
    });
    await new Promise(process.nextTick);
    await pki.renewServerCertificate(nowMs + 6 * 24 * hourMs);
    expect(seen).toHaveLength(1);
    await pki.renewServerCertificate(nowMs + 8 * 24 * hourMs);
    expect(new Set(seen).size).toBe(2);
  });

  it('names the listeners so that any address that agents dial passes', async () => {
    const pki = await createPki({ authority: await createAuthority(nowMs), hosts: ['10.0.0.1', 'cp.example'], hostValidityMs: hourMs, nowMs });
    const names = await new Promise<string>((resolve) => {
      pki.serverCertificates.addIdentityCertificateListener((update) => resolve(new NodeCertificate(update?.certificate ?? '').subjectAltName ?? ''));
    });
    for (const name of ['DNS:nkudo-controller', 'DNS:localhost', 'DNS:cp.example', 'IP Address:127.0.0.1', 'IP Address:10.0.0.1']) expect(names).toContain(name);
  });
});
