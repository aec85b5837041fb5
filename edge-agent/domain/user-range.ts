/** Users for VMMs: the range that the host's operator gives, and what of it this agent may use. Pure. */

export interface UserRange {
  readonly first: number;
  /** Inclusive. */
  readonly last: number;
}

/** Of the setting vmmUsers: no users of their own. */
export const sameUser = 'agent';
/** Of the setting vmmGroup. */
export const noGroup = 'none';

/** Users of people and of services lie below; nobody's user is the greatest number. */
export const userIdMin = 1_000;
export const userIdMax = 4_294_967_293;

/** `first-last`; null for anything else, and for a range that holds root or is empty. */
export function parseUserRange(text: string): UserRange | null {
  const match = /^(\d{1,10})-(\d{1,10})$/.exec(text.trim());
  if (match === null) return null;
  const [first, last] = [Number(match[1]), Number(match[2])];
  return first >= userIdMin && last <= userIdMax && first <= last ? { first, last } : null;
}

/** Whether the user namespace of this process has all of the range. `map` is /proc/self/uid_map or gid_map. */
export function isMapped({ first, last }: UserRange, map: string): boolean {
  return map.split('\n').some((line) => {
    const [inside, , count] = line.trim().split(/\s+/).map(Number);
    return inside !== undefined && count !== undefined && first >= inside && last < inside + count;
  });
}

/**
 * The first free one from a place that the microVM's id gives. So a user comes back to another microVM only after a
 * long time, and the same microVM mostly gets the same.
 */
export function chooseUser({ first, last }: UserRange, hash: number, taken: ReadonlySet<number>): number | null {
  const size = last - first + 1;
  const start = hash % size;
  for (let offset = 0; offset <= taken.size && offset < size; offset += 1) {
    const candidate = first + ((start + offset) % size);
    if (!taken.has(candidate)) return candidate;
  }
  return null;
}
