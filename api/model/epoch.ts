/**
 * The fencing epoch of a binding, as one ordered number: `incarnation * 2^32 + counter`.
 * The incarnation rises when the database was restored or failed over, the counter with every
 * binding, so that an epoch is never issued twice and numeric order is the order of issue.
 * Range: incarnation 1..2^20, counter 1..2^32-1; the sum stays below 2^53.
 */

declare const brand: unique symbol;
export type Epoch = number & { readonly [brand]: 'Epoch' };

const counterSpan = 2 ** 32;
const incarnationMax = 2 ** 20;

/** @throws RangeError when a part is outside its range. */
export function makeEpoch(incarnation: number, counter: number): Epoch {
  if (!Number.isInteger(incarnation) || incarnation < 1 || incarnation > incarnationMax) {
    throw new RangeError('epoch incarnation must be 1..2^20');
  }
  if (!Number.isInteger(counter) || counter < 1 || counter >= counterSpan) {
    throw new RangeError('epoch counter must be 1..2^32-1');
  }
  return (incarnation * counterSpan + counter) as Epoch; // Checked above; the brand is only a tag.
}

/** @throws RangeError when the number is not one that {@link makeEpoch} can have made. */
export function parseEpoch(value: number): Epoch {
  return makeEpoch(Math.floor(value / counterSpan), value % counterSpan);
}

export function splitEpoch(epoch: Epoch): { incarnation: number; counter: number } {
  return { incarnation: Math.floor(epoch / counterSpan), counter: epoch % counterSpan };
}
