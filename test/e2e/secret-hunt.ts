/**
 * Looks for values that must be nowhere. Owns in how many forms a value can show, and that a place that was empty, or
 * could not be looked at, is a failure of the test and no proof.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A value as it is, in base64 at each alignment, in hexadecimal, and as a list of numbers. */
export function formsOf(value: string): readonly string[] {
  const bytes = Buffer.from(value);
  const inBase64 = [0, 1, 2].map((shift) => {
    const text = Buffer.concat([Buffer.alloc(shift, 'x'), bytes]).toString('base64');
    // What neighbours decide is cut off.
    return text.slice(Math.ceil((shift * 4) / 3), Math.floor(((shift + bytes.length) * 4) / 3));
  });
  return [value, ...inBase64, bytes.toString('hex'), [...bytes.subarray(0, 8)].join(',')];
}

export interface Hunt {
  /** Adds a place with what it holds; `mustHold` is a text that shows that the right thing was looked at. */
  look(place: string, content: string | Buffer, mustHold?: string): void;
  /** `place: form` for each find. @throws when nothing was looked at */
  finds(): readonly string[];
  places(): readonly string[];
}

export function startHunt(values: readonly string[]): Hunt {
  const found: string[] = [];
  const places: string[] = [];
  const forms = values.flatMap(formsOf);
  return {
    look: (place, content, mustHold) => {
      const bytes = Buffer.isBuffer(content) ? content : Buffer.from(content);
      if (bytes.length === 0) throw new Error(`nothing to look at: ${place}`);
      if (mustHold !== undefined && !bytes.includes(mustHold)) throw new Error(`${place} does not hold ${mustHold}: the wrong thing was looked at`);
      places.push(place);
      for (const form of forms) if (bytes.includes(form)) found.push(`${place}: ${form}`);
    },
    finds: () => {
      if (places.length === 0) throw new Error('nothing was looked at');
      return found;
    },
    places: () => places,
  };
}

/** All files below a directory, with their paths. */
export function filesBelow(directory: string): readonly string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

/** Arguments and environment of every process that runs now. */
export function readProcesses(): { readonly count: number; readonly text: string } {
  const texts = readdirSync('/proc').filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    try {
      return [`${readFileSync(`/proc/${pid}/cmdline`, 'latin1')}\n${readFileSync(`/proc/${pid}/environ`, 'latin1')}`];
    } catch {
      // It ended while we looked, or is not ours to look at.
      return [];
    }
  });
  return { count: texts.length, text: texts.join('\n') };
}
