/** The tree of /proc and /sys of this machine. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import type { SystemTree } from './hardware.ts';

/** Missing files, and files that a driver answers with an error (the speed of a network device without a link). */
function orElse<Value>(read: () => Value, other: Value): Value {
  try {
    return read();
  } catch {
    return other;
  }
}

export const systemTree: SystemTree = {
  text: (path) => orElse(() => readFileSync(path, 'utf8'), null),
  list: (path) => orElse(() => readdirSync(path), []),
  linkName: (path) => orElse(() => basename(readlinkSync(path)), null),
};
