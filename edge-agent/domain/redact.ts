/**
 * Takes out of a text what looks like a key, token or password. The second line of defence: bundles
 * take in only what is meant for others, and no spec, serial log, journal or identity file.
 */

const replacement = '[redacted]';

const patterns: readonly RegExp[] = [
  // Keys and certificates, also where the end was cut off or the line ends are escaped.
  /-----BEGIN [A-Z0-9 ]{1,64}-----[\s\S]*?(?:-----END [A-Z0-9 ]{1,64}-----|$)/g,
  /nkudo1\.[A-Za-z0-9_-]+/g,
  /\bBearer\s+[A-Za-z0-9._~+/=-]{4,}/gi,
  /(?<=authorization["']?\s{0,4}[:=]\s{0,4}["']?)[^\n"']+/gi,
  // Lines of a key whose beginning was cut off.
  /^[A-Za-z0-9+/]{40,}={0,2}$/gm,
  // JSON web tokens.
  /\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?/g,
  // Credentials in an address.
  /(?<=:\/\/)[^\s/@]+(?=@)/g,
  // name=value and "name": "value".
  /(?<=(?:password|passwd|passphrase|secret|token|api[_-]?key|setup[_-]?key|private[_-]?key|credential)[a-z0-9_-]{0,32}["']?\s{0,4}[:=]\s{0,4})(?:"[^"]*"|'[^']*'|[^\s,;&}]+)/gi,
];

export function redact(text: string): string {
  return patterns.reduce((cleaned, pattern) => cleaned.replaceAll(pattern, replacement), text);
}
