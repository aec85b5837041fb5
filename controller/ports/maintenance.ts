/** Upkeep of what grows with time: the daily partitions of logs. */
export interface LogPartitions {
  /** Daily partitions for days after today; with none left, logs could not be stored tomorrow. */
  readonly daysAhead: number;
  readonly made: number;
  readonly dropped: number;
}

export interface MaintenanceStore {
  /**
   * Makes partitions ahead when few are left, and drops those whose whole day lies more than `keepDays` days back.
   * Writes nothing when there is nothing to do. Idempotent; a partition that is being read stays until the next call.
   */
  maintainLogs(keepDays: number): Promise<LogPartitions>;
  close(): Promise<void>;
}
