/**
 * Small checks that turn untrusted wire fields into model values. Every failure is INVALID_REQUEST
 * and names the field, so that the other side can be mended.
 */
import { AppError } from '../model/error-codes.ts';
import { parseEpoch, type Epoch } from '../model/epoch.ts';

export function invalid(field: string, problem: string): AppError {
  return new AppError('INVALID_REQUEST', `${field} ${problem}`, { details: { field } });
}

/** @throws INVALID_REQUEST when the value is missing */
export function present<Value>(field: string, value: Value | undefined): Value {
  if (value === undefined) throw invalid(field, 'is missing');
  return value;
}

/** @throws INVALID_REQUEST when the text is longer than `max` UTF-16 units, or empty where it must not be */
export function text(field: string, value: string, limits: { readonly max: number; readonly allowEmpty?: boolean }): string {
  if (value === '' && limits.allowEmpty !== true) throw invalid(field, 'must not be empty');
  if (value.length > limits.max) throw invalid(field, `must have at most ${limits.max} characters`);
  return value;
}

/** @throws INVALID_REQUEST unless the number is a whole one in the range */
export function integer(field: string, value: number, min: number, max: number = Number.MAX_SAFE_INTEGER): number {
  if (!Number.isSafeInteger(value) || value < min || value > max) {
    throw invalid(field, `must be a whole number from ${min} to ${max}`);
  }
  return value;
}

/** Runs an id constructor. @throws INVALID_REQUEST with the name of the field */
export function id<Id>(field: string, make: (value: string) => Id, value: string): Id {
  try {
    return make(value);
  } catch (error) {
    if (error instanceof TypeError) throw invalid(field, 'must be a lower-case UUID');
    throw error;
  }
}

/** @throws INVALID_REQUEST */
export function epoch(field: string, value: number): Epoch {
  try {
    return parseEpoch(value);
  } catch (error) {
    if (error instanceof RangeError) throw invalid(field, 'is not an epoch');
    throw error;
  }
}

/** @throws INVALID_REQUEST when there are more than `max` */
export function atMost<Item>(field: string, items: readonly Item[], max: number): readonly Item[] {
  if (items.length > max) throw invalid(field, `must have at most ${max} items`);
  return items;
}

/** Two tables of one correspondence, so that encode and decode can't disagree. */
export interface EnumMap<Name extends string> {
  encode(name: Name): number;
  /** @throws INVALID_REQUEST for a number without a name, 0 included */
  decode(field: string, value: number): Name;
}

export function enumMap<Name extends string>(numbers: Readonly<Record<Name, number>>): EnumMap<Name> {
  const names = new Map<number, Name>();
  for (const name of Object.keys(numbers) as Name[]) names.set(numbers[name], name); // Object.keys loses the key type.
  return {
    encode: (name) => numbers[name],
    decode(field, value) {
      const name = names.get(value);
      if (name === undefined) throw invalid(field, `has the unknown value ${value}`);
      return name;
    },
  };
}
