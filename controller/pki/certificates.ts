/**
 * Makes and reads X.509: the root, the intermediate below it, server and host certificates, and the
 * identity inside a host certificate. Owns what each kind of certificate may do; where keys are kept
 * is `authority-store.ts`. Nothing here asks for the time or makes a host id.
 *
 * Invariant: nothing that a certificate says comes from the certificate signing request but the key.
 */
import 'reflect-metadata';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  cryptoProvider,
  Extension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  Pkcs10CertificateRequest,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
  type JsonGeneralNames,
} from '@peculiar/x509';
import { createHash, randomBytes, webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import { AppError } from '#api/model/error-codes.ts';
import { hostId, siteId, tenantId, type HostId, type SiteId, type TenantId } from '#api/model/ids.ts';

cryptoProvider.set(webcrypto);

const keyAlgorithm = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const signingAlgorithm = { name: 'ECDSA', hash: 'SHA-256' } as const;
/** Clocks of hosts may lag behind ours by this much. */
export const backdateMs = 5 * 60_000;
const yearMs = 365.25 * 86_400_000;
const rootValidityMs = 20 * yearMs;
const intermediateValidityMs = 5 * yearMs;
/** A request for a P-256 key has about 250 bytes; names that we ignore may make it longer. */
const csrBytesMax = 4096;
const serialBytes = 16;

/** A certificate together with its key. The key never leaves the process but into the CA's Secret. */
export interface Signer {
  readonly certificate: X509Certificate;
  readonly keys: webcrypto.CryptoKeyPair;
}

export interface CertificateAuthority {
  readonly root: Signer;
  readonly intermediate: Signer;
}

/** The renewal counter of a host's certificate: a private extension, in the arc that needs no registration (2.25). */
const counterExtension = '2.25.1853187183';
const derInteger = 0x02;

export interface HostSubject {
  readonly tenantId: TenantId;
  readonly siteId: SiteId;
  readonly hostId: HostId;
  readonly hostName: string;
}

export interface MadeCertificate {
  readonly serial: string;
  /** The certificate, then the intermediate. */
  readonly chainPem: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** Positive, never with leading zeros, so that every library prints the same digits. */
function newSerial(): string {
  const bytes = randomBytes(serialBytes);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString('hex');
}

function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(keyAlgorithm, true, ['sign', 'verify']);
}

const caUsages = (): KeyUsagesExtension => new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true);

/** A new root (20 years) and a new intermediate (5 years) below it. */
export async function createAuthority(nowMs: number): Promise<CertificateAuthority> {
  const rootKeys = await generateKeys();
  const rootName = `CN=n-kudo root ${newSerial().slice(0, 8)}`;
  const root = await X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(),
    name: rootName,
    notBefore: new Date(nowMs - backdateMs),
    notAfter: new Date(nowMs + rootValidityMs),
    keys: rootKeys,
    signingAlgorithm,
    extensions: [new BasicConstraintsExtension(true, 1, true), caUsages(), await SubjectKeyIdentifierExtension.create(rootKeys.publicKey)],
  });
  return rotateIntermediate({ certificate: root, keys: rootKeys }, nowMs);
}

/** The same root with a new intermediate (5 years): who trusts the root takes what either signs. */
export async function rotateIntermediate(root: Signer, nowMs: number): Promise<CertificateAuthority> {
  const intermediateKeys = await generateKeys();
  const intermediate = await X509CertificateGenerator.create({
    serialNumber: newSerial(),
    issuer: root.certificate.subject,
    subject: `CN=n-kudo intermediate ${newSerial().slice(0, 8)}`,
    notBefore: new Date(nowMs - backdateMs),
    notAfter: new Date(Math.min(nowMs + intermediateValidityMs, root.certificate.notAfter.getTime())),
    signingKey: root.keys.privateKey,
    publicKey: intermediateKeys.publicKey,
    signingAlgorithm,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      caUsages(),
      await SubjectKeyIdentifierExtension.create(intermediateKeys.publicKey),
      await AuthorityKeyIdentifierExtension.create(root.keys.publicKey),
    ],
  });
  return { root, intermediate: { certificate: intermediate, keys: intermediateKeys } };
}

async function issue(
  authority: CertificateAuthority,
  leaf: {
    readonly commonName: string;
    readonly publicKey: webcrypto.CryptoKey;
    readonly names: JsonGeneralNames;
    readonly usage: ExtendedKeyUsage;
    readonly extensions?: readonly Extension[];
    readonly nowMs: number;
    readonly validityMs: number;
  },
): Promise<MadeCertificate> {
  const { certificate: issuer, keys } = authority.intermediate;
  const serial = newSerial();
  // Whole seconds: a certificate can't say more, and what is recorded must be what is in it.
  const notBeforeMs = Math.floor((leaf.nowMs - backdateMs) / 1000) * 1000;
  const notAfterMs = Math.min(Math.floor((leaf.nowMs + leaf.validityMs) / 1000) * 1000, issuer.notAfter.getTime());
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serial,
    issuer: issuer.subject,
    subject: [{ CN: [leaf.commonName] }],
    notBefore: new Date(notBeforeMs),
    notAfter: new Date(notAfterMs),
    signingKey: keys.privateKey,
    publicKey: leaf.publicKey,
    signingAlgorithm,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([leaf.usage]),
      new SubjectAlternativeNameExtension(leaf.names),
      await AuthorityKeyIdentifierExtension.create(keys.publicKey),
      ...(leaf.extensions ?? []),
    ],
  });
  return { serial, chainPem: `${certificate.toString('pem')}\n${issuer.toString('pem')}\n`, notBeforeMs, notAfterMs };
}

/** URI that names a host in its certificate. */
export function hostUri(subject: Pick<HostSubject, 'tenantId' | 'siteId' | 'hostId'>): string {
  return `spiffe://nkudo/tenant/${subject.tenantId}/site/${subject.siteId}/host/${subject.hostId}`;
}

const hostUriPattern = /^spiffe:\/\/nkudo\/tenant\/([0-9a-f-]{36})\/site\/([0-9a-f-]{36})\/host\/([0-9a-f-]{36})$/;

/** The ids in a host URI; null for any other text. */
export function parseHostUri(uri: string): Pick<HostSubject, 'tenantId' | 'siteId' | 'hostId'> | null {
  const [, tenant, site, host] = hostUriPattern.exec(uri) ?? [];
  if (tenant === undefined || site === undefined || host === undefined) return null;
  try {
    return { tenantId: tenantId(tenant), siteId: siteId(site), hostId: hostId(host) };
  } catch {
    return null; // Hyphens in the wrong places: not one of ours.
  }
}

/** A checked request: its signature holds and its key is ECDSA P-256. */
export interface CheckedRequest {
  readonly publicKey: webcrypto.CryptoKey;
  /** SHA-256 of the SubjectPublicKeyInfo, 32 bytes. */
  readonly publicKeyHash: Uint8Array;
}

/** @throws CSR_INVALID */
export async function checkRequest(der: Uint8Array): Promise<CheckedRequest> {
  if (der.byteLength === 0 || der.byteLength > csrBytesMax) throw new AppError('CSR_INVALID', `the request must have 1 to ${csrBytesMax} bytes`);
  try {
    const request = new Pkcs10CertificateRequest(Uint8Array.from(der));
    const algorithm: object & { readonly namedCurve?: unknown; readonly name?: unknown } = request.publicKey.algorithm;
    if (algorithm.name !== keyAlgorithm.name || algorithm.namedCurve !== keyAlgorithm.namedCurve) {
      throw new AppError('CSR_INVALID', 'the key of the request is not ECDSA P-256');
    }
    if (!(await request.verify())) throw new AppError('CSR_INVALID', 'the signature of the request does not match its key');
    return {
      publicKey: await request.publicKey.export(keyAlgorithm, ['verify']),
      publicKeyHash: createHash('sha256').update(new Uint8Array(request.publicKey.rawData)).digest(),
    };
  } catch (error) {
    if (error instanceof AppError) throw error;
    throw new AppError('CSR_INVALID', undefined, { cause: error }); // The parser's own words help nobody.
  }
}

/** Certificate with which a host proves itself. */
export function issueHostCertificate(
  authority: CertificateAuthority,
  input: {
    readonly subject: HostSubject & { /** Which certificate of the host it is, from 1. */ readonly counter?: number };
    readonly publicKey: webcrypto.CryptoKey; readonly nowMs: number; readonly validityMs: number;
  },
): Promise<MadeCertificate> {
  return issue(authority, {
    commonName: input.subject.hostName,
    publicKey: input.publicKey,
    names: [{ type: 'url', value: hostUri(input.subject) }],
    usage: ExtendedKeyUsage.clientAuth,
    extensions: input.subject.counter === undefined ? [] : [new Extension(counterExtension, false, encodeCounter(input.subject.counter))],
    nowMs: input.nowMs,
    validityMs: input.validityMs,
  });
}

function encodeCounter(counter: number): Uint8Array<ArrayBuffer> {
  const hex = counter.toString(16);
  // A leading zero keeps it positive whatever its first bit is.
  const bytes = Buffer.from(`00${hex.length % 2 === 0 ? hex : `0${hex}`}`, 'hex');
  const minimal = bytes.length > 1 && ((bytes[1] ?? 0) & 0x80) === 0 ? bytes.subarray(1) : bytes;
  return Uint8Array.from([derInteger, minimal.length, ...minimal]);
}

/** Which certificate of its host this is; null for one that does not say. For people and tests: the row is what counts. */
export function certificateCounterOf(pem: string): number | null {
  const value = new X509Certificate(pem).getExtension(counterExtension)?.value;
  return value === undefined ? null : Number(`0x${Buffer.from(value).subarray(2).toString('hex')}`);
}

/** Name that every server certificate has and that agents check, so that any address works. */
export const serverName = 'nkudo-controller';

/** Certificate of a listener, with its own new key. */
export async function issueServerCertificate(
  authority: CertificateAuthority,
  input: { readonly hosts: readonly string[]; readonly nowMs: number; readonly validityMs: number },
): Promise<MadeCertificate & { readonly keyPem: string }> {
  const keys = await generateKeys();
  const names = [...new Set([serverName, 'localhost', '127.0.0.1', '::1', ...input.hosts])];
  const made = await issue(authority, {
    commonName: serverName,
    publicKey: keys.publicKey,
    names: names.map((name) => (isIP(name) === 0 ? { type: 'dns', value: name } : { type: 'ip', value: name })),
    usage: ExtendedKeyUsage.serverAuth,
    nowMs: input.nowMs,
    validityMs: input.validityMs,
  });
  return { ...made, keyPem: await exportKeyPem(keys.privateKey) };
}

/** PKCS#8. */
export async function exportKeyPem(key: webcrypto.CryptoKey): Promise<string> {
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key));
  return `-----BEGIN PRIVATE KEY-----\n${der.toString('base64').replaceAll(/(.{64})/g, '$1\n')}\n-----END PRIVATE KEY-----\n`;
}

/**
 * Reads a certificate and its key and checks that they belong together.
 * @throws Error with a sentence when they do not; it holds no key material
 */
export async function importSigner(certificatePem: string, keyPem: string): Promise<Signer> {
  const certificate = new X509Certificate(certificatePem);
  const der = Buffer.from(keyPem.replaceAll(/-----[A-Z ]+-----|\s/g, ''), 'base64');
  const privateKey = await webcrypto.subtle.importKey('pkcs8', der, keyAlgorithm, true, ['sign']);
  const publicKey = await certificate.publicKey.export(keyAlgorithm, ['verify']);
  const probe = Buffer.from('n-kudo');
  const signature = await webcrypto.subtle.sign(signingAlgorithm, privateKey, probe);
  if (!(await webcrypto.subtle.verify(signingAlgorithm, publicKey, signature, probe))) {
    throw new Error('a key of the certificate authority does not belong to its certificate');
  }
  return { certificate, keys: { privateKey, publicKey } };
}

/** SHA-256 of the SubjectPublicKeyInfo, lower-case hexadecimal: what tokens pin. */
export function pinOf(certificate: X509Certificate): string {
  return createHash('sha256').update(new Uint8Array(certificate.publicKey.rawData)).digest('hex');
}
