/**
 * What the one global set-up tells every test file: where the run's folder, logs and broker are.
 * Owns the types that cross from the main process to the workers; starting things is the broker's.
 */
import type { KubernetesAccess } from '#hack/stack/kubernetes.ts';
import type { PostgresAccess } from '#hack/stack/postgres.ts';
import type { ProductPrograms } from '#hack/build-programs.ts';

/** Provided by `global-setup.ts`, read with vitest's `inject('harness')`. */
export interface HarnessRun {
  /** Removed at the end, with every process that carries its path. Short: unix sockets live inside. */
  readonly runDirectory: string;
  /** Kept after the run; the newest few runs are. */
  readonly logDirectory: string;
  /** Unix socket of the broker. */
  readonly brokerSocket: string;
}

/** What the broker starts or builds on first request, once for the whole run. */
export interface SharedServices {
  readonly kubernetes: KubernetesAccess;
  readonly postgres: PostgresAccess;
  readonly programs: ProductPrograms;
  readonly simulator: string;
  readonly guests: { readonly guest32: string; readonly guest64: string };
}

declare module 'vitest' {
  interface ProvidedContext {
    harness: HarnessRun;
  }
}
