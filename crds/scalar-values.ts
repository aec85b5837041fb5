/**
 * Reads the two scalar notations of the custom resources: durations such as `1h30m` and quantities
 * such as `512Mi`. They accept what the CRDs accept, so that an object that the API server stored can
 * always be read; the bounds of each field stay with its CRD.
 * Invariant: pure and total: a text in another notation gives null, never a guess.
 */

const durationPattern = /^(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?(?:(\d{1,6})ms)?$/;

/** Milliseconds of a duration, 0 … about 3.7e12; null when the text is none. */
export function parseDurationMs(text: string): number | null {
  const match = durationPattern.exec(text);
  if (match === null || text === '') return null;
  const [hours, minutes, seconds, milliseconds] = match.slice(1).map((digits) => Number(digits ?? 0));
  return (((hours ?? 0) * 60 + (minutes ?? 0)) * 60 + (seconds ?? 0)) * 1000 + (milliseconds ?? 0);
}

const quantityPattern = /^([+-]?)(\d{1,20})?(?:\.(\d{0,20}))?(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?\d{1,2}))?$/;

const binaryExponents: Readonly<Record<string, number>> = { Ki: 10, Mi: 20, Gi: 30, Ti: 40, Pi: 50, Ei: 60 };
const decimalExponents: Readonly<Record<string, number>> = { n: -9, u: -6, m: -3, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 };

/**
 * Whole number (of bytes) that a Kubernetes quantity stands for, exact below 2^53.
 * Null when the value is no quantity, or not whole and at least 0, or not below 2^63.
 */
export function parseWholeQuantity(value: number | string): number | null {
  const match = quantityPattern.exec(String(value));
  if (match === null) return null;
  const [, sign = '', whole = '', fraction = '', binary, decimal, exponent] = match;
  if (whole === '' && fraction === '') return null;
  const power = decimal === undefined ? Number(exponent ?? 0) : (decimalExponents[decimal] ?? 0);
  // value = digits × 10^(power - fraction digits) × 2^binary, in exact integer arithmetic.
  const digits = BigInt(whole + fraction) << BigInt(binary === undefined ? 0 : (binaryExponents[binary] ?? 0));
  const shift = power - fraction.length;
  const scale = 10n ** BigInt(Math.abs(shift));
  if (shift < 0 && digits % scale !== 0n) return null;
  const amount = shift < 0 ? digits / scale : digits * scale;
  if ((sign === '-' && amount !== 0n) || amount >= 2n ** 63n) return null;
  return Number(amount);
}

/** The shortest exact binary notation of whole bytes: 536870912 is `512Mi`, 1000 is `1000`. */
export function formatQuantity(bytes: number): string {
  for (const [suffix, exponent] of Object.entries(binaryExponents).toReversed()) {
    const unit = 2 ** exponent;
    if (bytes !== 0 && bytes % unit === 0) return `${bytes / unit}${suffix}`;
  }
  return String(bytes);
}
