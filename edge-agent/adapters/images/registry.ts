/**
 * What an OCI registry is asked for: manifests and blobs by digest, and the token that it may want first.
 * Owns addresses and authentication; resuming, checking and keeping what arrives is the store's.
 * Source: OCI distribution-spec v1.1; distribution/distribution, "Token Authentication Specification".
 */
import { AppError } from '#api/model/error-codes.ts';
import type { OciImage } from '#api/model/microvm.ts';
import type { Credentials } from '../../domain/image-credentials.ts';
import { isAllowedServer } from '../../domain/images.ts';
import { isAllowedRegistry, manifestTypes, parseChallenge, type Challenge } from '../../domain/oci.ts';
import type { Access, OpenTransfer, Transfer } from './http-transfer.ts';

export interface RegistryOptions {
  readonly openTransfer: OpenTransfer;
  /** Registries that are spoken to without TLS, as `host` or `host:port`. */
  readonly plainHttpRegistries: readonly string[];
}

export interface RegistryImage {
  readonly image: OciImage;
  readonly allowed: readonly string[];
  readonly credentials?: Credentials;
  readonly signal: AbortSignal;
}

export interface OpenRegistry {
  openManifest(sha256: string, have: number): Promise<Transfer>;
  openBlob(sha256: string, have: number): Promise<Transfer>;
}

/** An answer with a token has a few KiB. */
const tokenBytesMax = 64 * 2 ** 10;

/** @throws REGISTRY_NOT_ALLOWED */
export function openRegistry({ openTransfer, plainHttpRegistries }: RegistryOptions, { image, allowed, credentials, signal }: RegistryImage): OpenRegistry {
  if (!isAllowedRegistry(image, allowed)) throw new AppError('REGISTRY_NOT_ALLOWED', `the Site does not allow images from ${image.registry}/${image.repository}`);
  const scheme = plainHttpRegistries.includes(image.registry) ? 'http' : 'https';
  // Source: Docker Hub answers under this name only.
  const server = image.registry === 'docker.io' ? 'registry-1.docker.io' : image.registry;
  const base = `${scheme}://${server}/v2/${image.repository}`;
  const access = createAccess();

  function createAccess(): Access {
    let authorization: string | undefined;
    return {
      authorization: () => authorization,
      async answer(text) {
        const challenge = parseChallenge(text);
        if (challenge === null) return false;
        if (challenge.scheme === 'bearer') authorization = `Bearer ${await fetchToken(challenge)}`;
        else if (credentials === undefined) return false;
        else authorization = basic(credentials);
        return true;
      },
    };
  }

  async function fetchToken({ realm, service, scope }: Challenge & { readonly scheme: 'bearer' }): Promise<string> {
    const url = new URL(realm);
    if (url.protocol !== 'https:' && !(url.protocol === 'http:' && scheme === 'http')) throw new AppError('IMAGE_ACCESS_DENIED', `${image.registry} wants a token from ${url.host} without encryption`);
    // Tokens mostly come from another path than images, so only the server counts.
    if (!isAllowedServer(new URL(url.origin), allowed.map((entry) => entry.split('/')[0] ?? entry))) throw new AppError('REGISTRY_NOT_ALLOWED', `the Site does not allow ${url.host}, where ${image.registry} wants a token from`);
    if (service !== '') url.searchParams.set('service', service);
    url.searchParams.set('scope', scope === '' ? `repository:${image.repository}:pull` : scope);
    const known = credentials === undefined ? {} : { access: { authorization: () => basic(credentials), answer: () => Promise.resolve(false) } };
    const transfer = await openTransfer({ url: url.href, have: 0, allowed, isFirstAllowed: true, signal, ...known });
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of transfer.body) {
      bytes += chunk.length;
      if (bytes > tokenBytesMax) throw new AppError('IMAGE_UNAVAILABLE', `${url.host} answers with no token`);
      chunks.push(chunk);
    }
    const token = readToken(Buffer.concat(chunks).toString('utf8'));
    if (token === null) throw new AppError('IMAGE_UNAVAILABLE', `${url.host} answers with no token`);
    return token;
  }

  const open = (url: string, have: number, accept?: string): Promise<Transfer> => openTransfer({ url, have, allowed, isFirstAllowed: true, access, signal, ...(accept === undefined ? {} : { accept }) });
  return {
    openManifest: (sha256, have) => open(`${base}/manifests/sha256:${sha256}`, have, manifestTypes.join(', ')),
    openBlob: (sha256, have) => open(`${base}/blobs/sha256:${sha256}`, have),
  };
}

/** Value of an Authorization header. */
export function basic({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

/** A header takes no other characters. */
const tokenPattern = /^[\x21-\x7e]+$/;

function readToken(text: string): string | null {
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== 'object' || parsed === null) return null;
    const token = ('token' in parsed && parsed.token) || ('access_token' in parsed && parsed.access_token);
    return typeof token === 'string' && tokenPattern.test(token) ? token : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
