/** What the demo writes on the terminal: one line for each step, with the seconds since the start. */

/** See the module's header. */
export interface Screen {
  /** A step that happened now. */
  step(text: string): void;
  /** Text without a time. */
  print(text?: string): void;
}

export function createScreen(write: (text: string) => void = (text) => process.stdout.write(text)): Screen {
  const startedAt = performance.now();
  return {
    step: (text) => write(`${((performance.now() - startedAt) / 1000).toFixed(2).padStart(8)} s  ${text}\n`),
    print: (text = '') => write(`${text}\n`),
  };
}
