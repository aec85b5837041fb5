/**
 * Signs files of a release: `FILE.sigstore.json` for each, which an unmodified `cosign verify-blob --key K --bundle B
 * --insecure-ignore-tlog=true FILE` and `nkudo-edge verify` accept offline. Owns the format of keys and bundles; what is
 * released, and where the private key is kept, is left to others. A passphrase comes from the environment, never from
 * arguments.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign, type KeyObject } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { parseArgs } from 'node:util';

export const passphraseVariable = 'NKUDO_RELEASE_KEY_PASSPHRASE';

export interface ReleaseKeyPair {
  /** PKCS#8, PEM; encrypted with the passphrase when there is one. Secret. */
  readonly privateKeyPem: string;
  /** As `cosign.pub`. */
  readonly publicKeyPem: string;
}

/** ECDSA P-256, what cosign makes by default. */
export function makeReleaseKey(passphrase?: string): ReleaseKeyPair {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const encryption = passphrase === undefined ? {} : { cipher: 'aes-256-cbc', passphrase };
  return {
    privateKeyPem: privateKey.export({ type: 'pkcs8', format: 'pem', ...encryption }).toString(),
    publicKeyPem: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
  };
}

export function readReleaseKey(privateKeyPem: string, passphrase?: string): KeyObject {
  return createPrivateKey({ key: privateKeyPem, ...(passphrase === undefined ? {} : { passphrase }) });
}

/** The text of the bundle. ECDSA is random: two signatures of the same content differ. */
export function signContent(content: Uint8Array, key: KeyObject): string {
  const publicKey = createPublicKey(key);
  // What cosign calls the hint: base64 of the digest of the public key.
  const hint = createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' })).digest('base64');
  const bundle = {
    mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json',
    verificationMaterial: { publicKey: { hint } },
    messageSignature: {
      messageDigest: { algorithm: 'SHA2_256', digest: createHash('sha256').update(content).digest('base64') },
      signature: sign('sha256', content, key).toString('base64'),
    },
  };
  return `${JSON.stringify(bundle)}\n`;
}

/** Writes the bundle beside the file; returns its path. */
export async function signFile(path: string, key: KeyObject): Promise<string> {
  const bundle = `${path}.sigstore.json`;
  await writeFile(bundle, signContent(await readFile(path), key));
  return bundle;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { help: { type: 'boolean' }, key: { type: 'string' }, 'make-key': { type: 'string' } } });
  const passphrase = process.env[passphraseVariable];
  if (values['make-key'] !== undefined) {
    const pair = makeReleaseKey(passphrase);
    await writeFile(`${values['make-key']}.key`, pair.privateKeyPem, { mode: 0o600, flag: 'wx' });
    await writeFile(`${values['make-key']}.pub`, pair.publicKeyPem);
    process.stdout.write(`${values['make-key']}.key${passphrase === undefined ? ` (not encrypted: ${passphraseVariable} is not set)` : ''}\n${values['make-key']}.pub\n`);
    return;
  }
  if (values.help === true || values.key === undefined || positionals.length === 0) {
    process.stdout.write(`npm run release:sign -- --make-key NAME | --key NAME.key FILE...\nThe passphrase of the key is taken from ${passphraseVariable}.\n`);
    return;
  }
  const key = readReleaseKey(await readFile(values.key, 'utf8'), passphrase);
  for (const file of positionals) process.stdout.write(`${basename(await signFile(file, key))}\n`);
}

if (import.meta.main) await main();
