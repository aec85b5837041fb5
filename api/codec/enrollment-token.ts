/**
 * The text of an enrollment token: `nkudo1.` and base64url of a JSON object with the endpoints of the
 * control plane, the pins of its certificate authority and the secret. The text is a secret: it lives
 * in a Secret and in a file on the host, never in a log, an argument list or the database.
 */
import { AppError } from '../model/error-codes.ts';

export interface EnrollmentToken {
  /** 1 to 8 addresses `host:port` of the control plane. */
  readonly endpoints: readonly string[];
  /** 1 to 4 SHA-256 fingerprints, lower-case hexadecimal, of the SubjectPublicKeyInfo of trusted roots. */
  readonly pins: readonly string[];
  /** 32 random bytes in base64url, 43 characters. */
  readonly secret: string;
}

const prefix = 'nkudo1.';
const textMax = 2048;
const endpointPattern = /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}$/;
const pinPattern = /^[0-9a-f]{64}$/;
const secretPattern = /^[A-Za-z0-9_-]{43}$/;

export function encodeEnrollmentToken(token: EnrollmentToken): string {
  const { endpoints, pins, secret } = token;
  return prefix + Buffer.from(JSON.stringify({ endpoints, pins, secret })).toString('base64url');
}

function isList(value: unknown, pattern: RegExp, max: number): value is string[] {
  return (
    Array.isArray(value) &&
    value.length >= 1 &&
    value.length <= max &&
    value.every((item) => typeof item === 'string' && pattern.test(item))
  );
}

/** White space around the text is ignored. @throws TOKEN_MALFORMED; the message never holds the text */
export function parseEnrollmentToken(input: string): EnrollmentToken {
  const text = input.trim();
  if (text.length > textMax || !text.startsWith(prefix)) throw new AppError('TOKEN_MALFORMED');
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(text.slice(prefix.length), 'base64url').toString('utf8'));
  } catch {
    // The parser's message would quote the secret.
    throw new AppError('TOKEN_MALFORMED');
  }
  if (typeof parsed !== 'object' || parsed === null) throw new AppError('TOKEN_MALFORMED');
  const { endpoints, pins, secret } = parsed as Record<string, unknown>; // Each field is checked below.
  if (
    !isList(endpoints, endpointPattern, 8) ||
    !isList(pins, pinPattern, 4) ||
    typeof secret !== 'string' ||
    !secretPattern.test(secret)
  ) {
    throw new AppError('TOKEN_MALFORMED');
  }
  return { endpoints, pins, secret };
}

/** The bytes whose SHA-256 is kept at rest. */
export function tokenSecretBytes(secret: string): Uint8Array {
  return Buffer.from(secret, 'base64url');
}
