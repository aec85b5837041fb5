/** What a Secret says about who asks for an image. Pure; a value is only passed on, never part of a message. */
import { AppError } from '#api/model/error-codes.ts';
import { credentialKeys, type ManagedDisk, type SecretKey, type SecretValue } from '#api/model/microvm.ts';

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

/**
 * The credentials for the image of a disk; undefined when its spec names none.
 * @param kept the values that the host has of this microVM
 * @throws IMAGE_ACCESS_DENIED when the Secret says nothing of this server, SECRET_UNAVAILABLE when the host has no value of it
 */
export function credentialsOf({ image, oci, secretName }: ManagedDisk, kept: readonly SecretValue[]): Credentials | undefined {
  if (secretName === undefined) return undefined;
  if (image !== undefined) {
    const [username, password] = credentialKeys.http.map((key) => valueOf({ name: secretName, key }, kept));
    return checked({ username: username ?? '', password: password ?? '' }, secretName);
  }
  if (oci === undefined) return undefined;
  const name = `${oci.registry}/${oci.repository}`;
  const found = parseAuths(valueOf({ name: secretName, key: credentialKeys.oci[0] }, kept), secretName)
    .filter(({ server }) => name === server || name.startsWith(`${server}/`))
    .sort((a, b) => b.server.length - a.server.length)[0];
  if (found === undefined) throw new AppError('IMAGE_ACCESS_DENIED', `the Secret ${secretName} has no credentials for ${oci.registry}`);
  return checked(found.credentials, secretName);
}

function valueOf(key: SecretKey, kept: readonly SecretValue[]): string {
  const value = kept.find((candidate) => candidate.name === key.name && candidate.key === key.key);
  if (value === undefined) throw new AppError('SECRET_UNAVAILABLE', `the host has no value ${key.key} of the Secret ${key.name}`);
  return new TextDecoder().decode(value.reveal());
}

/** Source: RFC 7617: the user name ends at the first colon. */
function checked(credentials: Credentials, secretName: string): Credentials {
  if (credentials.username.includes(':') || hasControl(credentials.username) || hasControl(credentials.password)) {
    throw new AppError('IMAGE_ACCESS_DENIED', `the Secret ${secretName} has a user name or password that can not be sent: a colon in the name, or control characters such as a line break at the end`);
  }
  return credentials;
}

function hasControl(text: string): boolean {
  return [...text].some((letter) => letter < ' ' || letter === '\x7f');
}

interface Auth {
  /** `host`, `host:port`, or either with the beginning of the repository. */
  readonly server: string;
  readonly credentials: Credentials;
}

/** As `docker login` and `kubectl create secret docker-registry` write it. */
function parseAuths(text: string, secretName: string): readonly Auth[] {
  const auths = entriesOf(parseJson(text, secretName)).find(([key]) => key === 'auths')?.[1];
  return entriesOf(auths).flatMap(([key, value]) => {
    const fields = new Map(entriesOf(value));
    const auth = fields.get('auth');
    const [username, password] = typeof auth === 'string' && auth !== '' ? splitAuth(auth) : [fields.get('username'), fields.get('password')];
    return typeof username === 'string' && typeof password === 'string' ? [{ server: serverOf(key), credentials: { username, password } }] : [];
  });
}

function splitAuth(auth: string): readonly [string, string] {
  const text = new TextDecoder().decode(Uint8Array.from(atobOrEmpty(auth), (letter) => letter.charCodeAt(0)));
  const colon = text.indexOf(':');
  return colon < 0 ? [text, ''] : [text.slice(0, colon), text.slice(colon + 1)];
}

function atobOrEmpty(text: string): string {
  try {
    return atob(text);
  } catch {
    // No base64: nobody, who is refused.
    return '';
  }
}

/** Docker Hub goes by several names, and keys may be whole URLs. */
function serverOf(key: string): string {
  const server = key.replace(/^https?:\/\//, '').replace(/\/+$/, '').replace(/\/v[12]$/, '').toLowerCase();
  return server === 'index.docker.io' || server === 'registry-1.docker.io' ? 'docker.io' : server;
}

function parseJson(text: string, secretName: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    // The text of a syntax error repeats what it does not understand.
    if (error instanceof SyntaxError) throw new AppError('IMAGE_ACCESS_DENIED', `the Secret ${secretName} holds no JSON under ${credentialKeys.oci[0]}`);
    throw error;
  }
}

function entriesOf(value: unknown): readonly (readonly [string, unknown])[] {
  return typeof value === 'object' && value !== null ? Object.entries(value) : [];
}
