/** Upkeep of what grows with time: the daily partitions of logs and the monthly ones of executions. */
export interface LogPartitions {
  /** Daily partitions for days after today; with none left, logs could not be stored tomorrow. */
  readonly daysAhead: number;
  readonly made: number;
  readonly dropped: number;
}

export interface ExecutionPartitions {
  /** Monthly partitions for months after this one. */
  readonly monthsAhead: number;
  readonly made: number;
  readonly dropped: number;
}

export interface MaintenanceStore {
  /**
   * Makes partitions ahead when few are left, and drops those whose whole day lies more than `keepDays` days back.
   * Writes nothing when there is nothing to do. Idempotent; a partition that is being read stays until the next call.
   */
  maintainLogs(keepDays: number): Promise<LogPartitions>;
  /** As above, for executions of operations that were made more than `keepMonths` whole months ago. */
  maintainExecutions(keepMonths: number): Promise<ExecutionPartitions>;
  close(): Promise<void>;
}
