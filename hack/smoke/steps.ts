/**
 * The critical path as a list of steps, and how such a list is walked: each with a bound, what depends on a failed one not
 * run, what cleans up always run. Owns the order and the verdict; what a step does is in path.ts.
 */

/** What a manager reads of one step. */
export interface StepResult {
  readonly name: string;
  /** What works when the step passes, as a sentence. */
  readonly shows: string;
  readonly outcome: 'passed' | 'failed' | 'notRun';
  readonly durationMs: number;
  /** Facts of a passed step, the reason of a failed one, what a step that was not run waits for. */
  readonly detail: string;
}

export interface Step<Context> {
  readonly name: string;
  readonly shows: string;
  /** Runs also after a failure: it gives back what the path made. */
  readonly isCleanup?: true;
  /** Gives facts for the report. @throws Error with the reason */
  readonly run: (context: Context, signal: AbortSignal) => Promise<string>;
}

export interface WalkOptions {
  /** Longest time of one step, milliseconds. */
  readonly stepTimeoutMs: number;
  /** Of that step in particular. */
  readonly timeoutOf?: (name: string) => number;
  readonly nowMs: () => number;
  /** Called before each step that is run, and waited for. */
  readonly onStep?: (name: string) => Promise<void> | void;
  readonly onResult?: (result: StepResult) => void;
}

/** Walks the list; never throws for a step. */
export async function walk<Context>(steps: readonly Step<Context>[], context: Context, options: WalkOptions): Promise<readonly StepResult[]> {
  const results: StepResult[] = [];
  let failed: string | null = null;
  for (const step of steps) {
    const result = failed !== null && step.isCleanup !== true ? notRun(step, failed) : await runStep(step, context, options);
    if (result.outcome === 'failed') failed ??= step.name;
    results.push(result);
    options.onResult?.(result);
  }
  return results;
}

function notRun({ name, shows }: Step<never>, failed: string): StepResult {
  return { name, shows, outcome: 'notRun', durationMs: 0, detail: `not run, because "${failed}" failed` };
}

async function runStep<Context>(step: Step<Context>, context: Context, options: WalkOptions): Promise<StepResult> {
  await options.onStep?.(step.name);
  const startedAt = options.nowMs();
  const stop = new AbortController();
  const timeoutMs = options.timeoutOf?.(step.name) ?? options.stepTimeoutMs;
  const timer = setTimeout(() => stop.abort(new Error(`it took longer than ${Math.round(timeoutMs / 1000)} s`)), timeoutMs);
  const end = (outcome: StepResult['outcome'], detail: string): StepResult => ({ name: step.name, shows: step.shows, outcome, durationMs: Math.round(options.nowMs() - startedAt), detail });
  try {
    return end('passed', await step.run(context, stop.signal));
  } catch (error) {
    return end('failed', error instanceof Error ? error.message : String(error));
  } finally {
    clearTimeout(timer);
  }
}
