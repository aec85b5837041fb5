/**
 * Keeps the certificate authority in one Kubernetes Secret. Owns the rule that replicas which start at
 * the same moment end with one authority: whoever creates the Secret first wins, the others read it.
 * A Secret that can't be used is an error, never replaced: every host pins what is in it.
 */
import { createAuthority, exportKeyPem, importSigner, rotateIntermediate, type CertificateAuthority } from './certificates.ts';

/** What is needed of Kubernetes: Secrets of the controller's own namespace. */
export interface SecretPort {
  /** Values as text; null when there is no such Secret. */
  read(name: string): Promise<Readonly<Record<string, string>> | null>;
  /** `exists` when somebody else created it meanwhile; never overwrites. */
  create(name: string, values: Readonly<Record<string, string>>): Promise<'created' | 'exists'>;
}

/** Of a person who rotates; a running controller never writes over what is there. */
export interface WritableSecretPort extends SecretPort {
  /** Replaces these values and leaves the others. @throws an error of isConflict when somebody changed the Secret meanwhile */
  replace(name: string, values: Readonly<Record<string, string>>): Promise<void>;
}

/** Name of the Secret. */
export const authoritySecret = 'nkudo-ca';

const fields = { rootCertificate: 'root.crt', rootKey: 'root.key', intermediateCertificate: 'intermediate.crt', intermediateKey: 'intermediate.key' } as const;

async function parseAuthority(name: string, values: Readonly<Record<string, string>>): Promise<CertificateAuthority> {
  const field = (key: string): string => {
    const value = values[key];
    if (value === undefined || value === '') throw new Error(`secret ${name} has no ${key}; restore it from a backup, or delete the secret and enroll every host again`);
    return value;
  };
  const root = await importSigner(field(fields.rootCertificate), field(fields.rootKey));
  const intermediate = await importSigner(field(fields.intermediateCertificate), field(fields.intermediateKey));
  if (!(await intermediate.certificate.verify({ publicKey: root.keys.publicKey, signatureOnly: true }))) {
    throw new Error(`in secret ${name} the intermediate certificate was not signed by the root`);
  }
  return { root, intermediate };
}

/**
 * Reads the authority, making it when there is none. Idempotent over replicas and restarts.
 * @throws Error with a sentence when the Secret exists and can't be used
 */
export async function loadOrCreateAuthority(secrets: SecretPort, name: string, nowMs: number): Promise<CertificateAuthority> {
  const existing = await secrets.read(name);
  if (existing !== null) return parseAuthority(name, existing);
  const made = await createAuthority(nowMs);
  const outcome = await secrets.create(name, {
    [fields.rootCertificate]: made.root.certificate.toString('pem'),
    [fields.rootKey]: await exportKeyPem(made.root.keys.privateKey),
    [fields.intermediateCertificate]: made.intermediate.certificate.toString('pem'),
    [fields.intermediateKey]: await exportKeyPem(made.intermediate.keys.privateKey),
  });
  if (outcome === 'created') return made;
  const winner = await secrets.read(name);
  if (winner === null) throw new Error(`secret ${name} was created by another replica and is gone again`);
  return parseAuthority(name, winner);
}

/** Reads the authority. @throws Error with a sentence when there is none, or it can't be used */
export async function loadAuthority(secrets: SecretPort, name: string): Promise<CertificateAuthority> {
  const values = await secrets.read(name);
  if (values === null) throw new Error(`there is no secret ${name}; start the controller once, or restore it from a backup`);
  return parseAuthority(name, values);
}

/** Puts a new intermediate below the same root into the Secret; running replicas take it up by themselves. */
export async function rotateStoredIntermediate(secrets: WritableSecretPort, name: string, nowMs: number): Promise<CertificateAuthority> {
  const { root } = await loadAuthority(secrets, name);
  const rotated = await rotateIntermediate(root, nowMs);
  await secrets.replace(name, {
    [fields.intermediateCertificate]: rotated.intermediate.certificate.toString('pem'),
    [fields.intermediateKey]: await exportKeyPem(rotated.intermediate.keys.privateKey),
  });
  return rotated;
}
