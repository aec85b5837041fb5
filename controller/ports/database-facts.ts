/** What `doctor` asks of the database. Read by db/database-facts.ts, judged by doctor/findings.ts. */

export interface RoleFacts {
  readonly variable: string;
  readonly role: string;
  /** Null: it can log in. */
  readonly problem: string | null;
  /** It may do more than the program needs, and row level security does not hold it. */
  readonly isTooStrong: boolean;
}

export interface ServerFacts {
  readonly version: string;
  readonly versionNumber: number;
  readonly isInRecovery: boolean;
  readonly isDurable: boolean;
  /** `synchronous_standby_names`; empty: a commit waits for no standby. */
  readonly synchronousStandbys: string;
  readonly synchronousCommit: string;
  readonly incarnation: number | null;
  /** Files here that were not applied; null: there is no schema, or the history can't be read. */
  readonly pendingMigrations: readonly string[] | null;
  /** Daily partitions of logs for days to come. */
  readonly logPartitionsAhead: number | null;
  /** Of the server's clock ahead of ours; within half the time of the question. */
  readonly clockAheadMs: number;
}

export interface DatabaseFacts {
  readonly roles: readonly RoleFacts[];
  /** Null: no role could log in. */
  readonly server: ServerFacts | null;
}
