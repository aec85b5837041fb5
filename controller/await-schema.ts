/**
 * Waits at the start until the database answers and has every migration that this program knows. At a first installation
 * neither roles nor tables are there yet, and during an upgrade the migration may still run. Reads only.
 */
import type { Logger } from 'pino';
import type { DatabaseFacts } from './ports/database-facts.ts';
import { pause, type Time } from './runtime/time.ts';

const retryMs = 1_000;

/** What is still missing, as a sentence; null when nothing is. */
export function missingOf({ roles, server }: DatabaseFacts): string | null {
  const role = roles.find(({ problem }) => problem !== null);
  if (role !== undefined) return role.problem;
  const pending = server?.pendingMigrations ?? null;
  if (pending === null) return 'the database has no schema that this version knows: run nkudo-controller migrate';
  return pending.length === 0 ? null : `the database waits for ${pending.length} migrations, the first of them ${pending[0] ?? ''}: run nkudo-controller migrate`;
}

/** @throws the signal's reason when it is aborted */
export async function awaitSchema(deps: { readonly facts: () => Promise<DatabaseFacts>; readonly log: Pick<Logger, 'warn'>; readonly time: Time }, signal: AbortSignal): Promise<void> {
  for (let said: string | null = null; ; ) {
    const missing = missingOf(await deps.facts());
    if (missing === null) return;
    signal.throwIfAborted();
    // Once for each thing that it waits for.
    if (missing !== said) deps.log.warn({ reason: missing }, 'waiting for the database');
    said = missing;
    await pause(deps.time, retryMs, signal);
  }
}
