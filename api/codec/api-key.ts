/**
 * The text of an API key: `nkudok1_`, then the key's id, its secret and a checksum. The prefix lets scanners find a
 * key that was committed somewhere, the checksum tells a mistyped key from a wrong one without a look at the database.
 * Invariant: the text is in a Secret and in the caller's hands, never in a log, a message or the database.
 */

export const apiKeyPrefix = 'nkudok1_';
/** 16 bytes of id, 32 of secret and 4 of checksum, each in base64url. */
const pattern = /^nkudok1_([A-Za-z0-9_-]{22})([A-Za-z0-9_-]{43})([A-Za-z0-9_-]{6})$/;

export interface ApiKeyText {
  /** UID of the APIKey object. */
  readonly keyId: string;
  /** 32 random bytes. */
  readonly secret: Uint8Array;
}

/** CRC-32 as in zlib, bit by bit: keys are short. Against typing errors; it keeps nothing secret. */
function crc32(text: string): number {
  let crc = 0xffffffff;
  for (const byte of Buffer.from(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ ((crc & 1) === 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

function checksum(body: string): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(crc32(body));
  return bytes.toString('base64url');
}

export function encodeApiKey({ keyId, secret }: ApiKeyText): string {
  const body = Buffer.from(keyId.replaceAll('-', ''), 'hex').toString('base64url') + Buffer.from(secret).toString('base64url');
  return apiKeyPrefix + body + checksum(body);
}

/** True for what claims to be an API key, so that it is never sent to Kubernetes as a token. */
export function looksLikeApiKey(text: string): boolean {
  return text.startsWith('nkudok');
}

/** Null when the text is no key, or was altered by accident. */
export function parseApiKey(text: string): ApiKeyText | null {
  const [, id, secret, sum] = pattern.exec(text) ?? [];
  if (id === undefined || secret === undefined || sum === undefined || checksum(id + secret) !== sum) return null;
  const hex = Buffer.from(id, 'base64url').toString('hex');
  const keyId = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
  return { keyId, secret: Buffer.from(secret, 'base64url') };
}
