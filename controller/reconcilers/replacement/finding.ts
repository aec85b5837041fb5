/** What a reconcile found out about the replacement of one microVM. */

/** What the status shows of replacement. */
export interface ReplacementFinding {
  readonly reason: 'DeadlinesTooClose' | 'PersistentDisk' | 'MassDisconnect' | 'RecoveryUnderWay' | 'HostUnconfirmed' | 'NoHostFits' | 'NotDisabled';
  readonly message: string;
}
