/**
 * Signs files of a release: `FILE.sigstore.json` for each, which an unmodified `cosign verify-blob --key K --bundle B
 * --insecure-ignore-tlog=true FILE` and `nkudo-edge verify` accept offline. Owns the format of keys and bundles; what is
 * released, and where the private key is kept, is left to others. A passphrase comes from the environment, never from
 * arguments.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign, type KeyObject } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
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

/** What cosign calls the hint: base64 of the digest of the public key. */
function verificationMaterial(key: KeyObject): object {
  const hint = createHash('sha256').update(createPublicKey(key).export({ type: 'spki', format: 'der' })).digest('base64');
  return { publicKey: { hint } };
}

const bundleType = 'application/vnd.dev.sigstore.bundle.v0.3+json';

/** The text of the bundle. ECDSA is random: two signatures of the same content differ. */
export function signContent(content: Uint8Array, key: KeyObject): string {
  const bundle = {
    mediaType: bundleType,
    verificationMaterial: verificationMaterial(key),
    messageSignature: {
      messageDigest: { algorithm: 'SHA2_256', digest: createHash('sha256').update(content).digest('base64') },
      signature: sign('sha256', content, key).toString('base64'),
    },
  };
  return `${JSON.stringify(bundle)}\n`;
}

const statementType = 'application/vnd.in-toto+json';

/**
 * The text of the bundle of an in-toto statement: an envelope that holds the statement itself, as `cosign
 * verify-blob-attestation --key K --bundle B --insecure-ignore-tlog=true --type slsaprovenance1 FILE` takes it.
 * Source: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
 */
export function signStatement(statement: Uint8Array, key: KeyObject): string {
  const signed = Buffer.concat([Buffer.from(`DSSEv1 ${statementType.length} ${statementType} ${statement.length} `), statement]);
  const bundle = {
    mediaType: bundleType,
    verificationMaterial: verificationMaterial(key),
    dsseEnvelope: { payload: Buffer.from(statement).toString('base64'), payloadType: statementType, signatures: [{ sig: sign('sha256', signed, key).toString('base64') }] },
  };
  return `${JSON.stringify(bundle)}\n`;
}

/** Of a statement of provenance; its bundle is signed as a statement, that of any other file as a file. */
export const statementSuffix = '.intoto.json';

/** Writes the bundle beside the file; returns its path. */
export async function signFile(path: string, key: KeyObject): Promise<string> {
  const bundle = path + bundleSuffix;
  const content = await readFile(path);
  await writeFile(bundle, path.endsWith(statementSuffix) ? signStatement(content, key) : signContent(content, key));
  return bundle;
}

const bundleSuffix = '.sigstore.json';

/** Signs every file of a release; returns the paths of the bundles. */
export async function signRelease(directory: string, key: KeyObject): Promise<readonly string[]> {
  const names = (await readdir(directory)).filter((name) => !name.endsWith(bundleSuffix)).sort();
  return Promise.all(names.map((name) => signFile(join(directory, name), key)));
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
    process.stdout.write(`npm run release:sign -- --make-key NAME | --key NAME.key FILE|DIRECTORY...\nThe passphrase of the key is taken from ${passphraseVariable}.\n`);
    return;
  }
  const key = readReleaseKey(await readFile(values.key, 'utf8'), passphrase);
  for (const named of positionals) {
    const bundles = (await stat(named)).isDirectory() ? await signRelease(named, key) : [await signFile(named, key)];
    for (const bundle of bundles) process.stdout.write(`${basename(bundle)}\n`);
  }
}

if (import.meta.main) await main();
