/** Timestamps of the wire as epoch milliseconds; parts of a millisecond are cut off. */
import type { Timestamp } from '../gen/google/protobuf/timestamp.pb.ts';
import { integer, present } from './validate.ts';

/** Latest time accepted: the end of the year 9999, as protobuf defines. */
const latestSeconds = 253_402_300_799;

export function encodeTimestamp(epochMs: number): Timestamp {
  const seconds = Math.floor(epochMs / 1000);
  return { seconds, nanos: Math.floor(epochMs - seconds * 1000) * 1_000_000 };
}

export function encodeOptionalTimestamp(epochMs: number | undefined): Timestamp | undefined {
  return epochMs === undefined ? undefined : encodeTimestamp(epochMs);
}

/** @throws INVALID_REQUEST when it is missing or out of range */
export function decodeTimestamp(field: string, value: Timestamp | undefined): number {
  const stamp = present(field, value);
  const seconds = integer(`${field}.seconds`, stamp.seconds, 0, latestSeconds);
  const nanos = integer(`${field}.nanos`, stamp.nanos, 0, 999_999_999);
  return seconds * 1000 + Math.floor(nanos / 1_000_000);
}

export function decodeOptionalTimestamp(field: string, value: Timestamp | undefined): number | undefined {
  return value === undefined ? undefined : decodeTimestamp(field, value);
}
