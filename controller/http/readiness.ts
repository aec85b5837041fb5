/**
 * Whether this replica can do its work now. Each check looks when asked, within a deadline; nothing is
 * remembered as good.
 */
export interface ReadinessCheck {
  readonly name: string;
  /** A sentence that says why not, or null. Rejections and delays count as not. */
  look(): Promise<string | null>;
}

export interface CheckResult {
  readonly name: string;
  readonly isOk: boolean;
  readonly reason: string;
}

export interface Readiness {
  check(): Promise<readonly CheckResult[]>;
}

const lookDeadlineMs = 2_000;

async function lookInTime(check: ReadinessCheck): Promise<string | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve('no answer in time'), lookDeadlineMs);
  });
  try {
    return await Promise.race([check.look(), late]);
  } catch {
    return 'it can not be reached'; // The reason may name hosts and users; it is in the log.
  } finally {
    clearTimeout(timer);
  }
}

export function createReadiness(checks: readonly ReadinessCheck[]): Readiness {
  return {
    check: () =>
      Promise.all(
        checks.map(async (check) => {
          const reason = await lookInTime(check);
          return { name: check.name, isOk: reason === null, reason: reason ?? '' };
        }),
      ),
  };
}
