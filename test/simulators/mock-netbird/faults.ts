/**
 * Faults on demand: which requests of the management API go wrong, and how. Rules are data that a test gives over the
 * admin port; the first rule that matches and is not used up decides.
 */

export interface FaultRule {
  /** HTTP method; left out: every method. */
  readonly method?: string;
  /** Path template of the description, such as `/api/groups/{groupId}`; a trailing `*` means every path that begins so; left out: every path. */
  readonly path?: string;
  /** Matching requests that pass before the rule bites. Default 0. */
  readonly after?: number;
  /** How many requests it bites. Left out: all. */
  readonly count?: number;
  /**
   * `status`: answers with `status` (and `headers`, `body`) without doing the work, or after it with `isDone`.
   * `delay`: waits `ms`, then answers as usual. `hang`: never answers. `half`: does the work, sends half of the answer
   * and cuts the connection. `drop`: cuts the connection without an answer, before the work, or after it with `isDone`.
   * `text`: answers 200 with `body` as it is. `wrong`: answers with a body that is not as described.
   */
  readonly do: 'status' | 'delay' | 'hang' | 'half' | 'drop' | 'text' | 'wrong';
  readonly isDone?: boolean;
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly ms?: number;
}

/** The rules in force and how often each was passed and bit. */
export class Faults {
  #rules: { readonly rule: FaultRule; passed: number; hits: number }[] = [];

  replace(rules: readonly FaultRule[]): void {
    this.#rules = rules.map((rule) => ({ rule, passed: 0, hits: 0 }));
  }

  list(): readonly { readonly rule: FaultRule; readonly hits: number }[] {
    return this.#rules.map(({ rule, hits }) => ({ rule, hits }));
  }

  /** The rule for this request, or null. */
  take(method: string, template: string): FaultRule | null {
    for (const entry of this.#rules) {
      const { rule } = entry;
      if (rule.method !== undefined && rule.method !== method) continue;
      if (rule.path !== undefined && !matches(rule.path, template)) continue;
      entry.passed += 1;
      if (entry.passed <= (rule.after ?? 0)) continue;
      if (rule.count !== undefined && entry.hits >= rule.count) continue;
      entry.hits += 1;
      return rule;
    }
    return null;
  }
}

function matches(pattern: string, template: string): boolean {
  return pattern.endsWith('*') ? template.startsWith(pattern.slice(0, -1)) : template === pattern;
}
