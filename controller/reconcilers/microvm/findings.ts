/** What steps of a MicroVM's reconcile found out for its status, beside obstacles. */

/** While the host is being emptied. */
export interface EvictionFinding {
  readonly isBlocked: boolean;
  readonly reason: 'OperatorNeeded' | 'KeepsLocalData' | 'PinnedToHost' | 'SiteHold' | 'HostSilent' | 'NoHostFits' | 'NotBlocked';
  readonly message: string;
}

/** Of an update that needs a restart. */
export interface UpdateFinding {
  readonly reason: 'OutsideWindow' | 'SiteHold' | 'NotHeld';
  readonly message: string;
}
