/**
 * What the output of a guest switched on in the terminal of a person, so that it can be switched off afterwards. Pure but
 * for what it remembers. Only modes that hurt in a shell are known.
 * Source: ECMA-48 8.3.106 (SM), xterm's ctlseqs (private modes).
 */

/** Private modes to switch off: cursor keys, mouse, focus, alternate screens, bracketed paste. */
const unwanted = [1, 9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 47, 1047, 1049, 2004] as const;
/** And those that a terminal has on: wrapping, the cursor. */
const wanted = [7, 25] as const;
const escape = String.fromCharCode(27);
const shiftOut = String.fromCharCode(14);
const privateModes = new RegExp(`${escape}\\[\\?([\\d;]{1,32})([hl])`, 'g');
/** Colours and the like, and other sets of characters. */
const styles = new RegExp(`${escape}\\[[\\d;:]*m|${escape}[()*+][^B]|${shiftOut}`);
/** Longest sequence that is understood, bytes. */
const sequenceMax = 64;

export interface ScreenModes {
  see(bytes: Uint8Array): void;
  /** What brings the terminal back; empty when the guest changed nothing. */
  reset(): string;
}

export function createScreenModes(): ScreenModes {
  const changed = new Set<number>();
  let isStyled = false;
  let isKeypad = false;
  let rest = '';
  return {
    see(bytes) {
      const text = rest + Buffer.from(bytes).toString('latin1');
      for (const [, modes = '', how] of text.matchAll(privateModes)) {
        for (const mode of modes.split(';').map(Number)) {
          const isKnown = unwanted.some((known) => known === mode) ? 'h' : wanted.some((known) => known === mode) ? 'l' : null;
          if (isKnown === how) changed.add(mode);
          else if (isKnown !== null) changed.delete(mode);
        }
      }
      isStyled ||= styles.test(text);
      isKeypad ||= text.includes('\u001b=');
      // A sequence that is not complete yet.
      const start = text.lastIndexOf('\u001b');
      rest = start >= 0 && text.length - start < sequenceMax ? text.slice(start) : '';
    },
    reset() {
      const modes = [...unwanted.filter((mode) => changed.has(mode)).map((mode) => `\u001b[?${mode}l`), ...wanted.filter((mode) => changed.has(mode)).map((mode) => `\u001b[?${mode}h`)];
      return `${isStyled ? '\u001b[0m\u001b(B\u000f' : ''}${isKeypad ? '\u001b>' : ''}${modes.join('')}`;
    },
  };
}
