/** What `vm console` understands of its options. Pure. */
export interface EscapeKey {
  readonly byte: number;
  /** As people read it, such as `Ctrl-]`. */
  readonly label: string;
}

export const escapeByDefault: EscapeKey = { byte: 0x1d, label: 'Ctrl-]' };
export const historyLinesMax = 1_000;
export const historyLinesByDefault = 20;

/** @param text `^` and a key that Ctrl makes a control character of, such as `^]`. Undefined: it is none, or one that people need for typing */
export function parseEscapeKey(text: string): EscapeKey | undefined {
  const [, key] = /^\^([A-Z\\\]^_])$/.exec(text.toUpperCase()) ?? [];
  if (key === undefined || 'CDHIJM'.includes(key)) return undefined;
  return { byte: key.charCodeAt(0) & 0x1f, label: `Ctrl-${key}` };
}
