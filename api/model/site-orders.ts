/**
 * What somebody at the site ordered for a microVM, beside and above its spec: the orders themselves, for the audit, and
 * the override that the newest of them left standing. Both are made durable on the host before anything happens, work
 * without a control plane, and are merged upward when there is one.
 */

export const siteOrderKinds = ['Stop', 'Start', 'Restart', 'Hold', 'Release'] as const;
/**
 * Stop: down until somebody at the site starts it or the spec asks anew. Hold: down until somebody at the site releases
 * it. Start, Restart: once, as a change of restartNonce. Release: from here on as the spec says.
 */
export type SiteOrderKind = (typeof siteOrderKinds)[number];

/**
 * What changes nothing of the microVM and is told all the same. OpenConsole: somebody went to its console to type.
 * ReadConsole: to read only. TakeConsole: to type in the place of whoever did so.
 */
export const siteVisitKinds = ['OpenConsole', 'ReadConsole', 'TakeConsole'] as const;
export type SiteVisitKind = (typeof siteVisitKinds)[number];

export const siteOverrideKinds = ['Stopped', 'Held', 'ForcedStart'] as const;
/** ForcedStart: it runs although the spec or a missing lease says that it must not. */
export type SiteOverrideKind = (typeof siteOverrideKinds)[number];

/** Who typed it, as the host tells: nobody but root and the agent's own user can give an order. */
export interface SiteOperator {
  /** Name of the user of the machine, through sudo the one who called it; 1 to {@link siteUserMax} characters. */
  readonly user: string;
  /** Its number, 0 to 2^32 - 1. */
  readonly uid: number;
}

/** What a forced start walks over; present only where it does. */
export interface SiteForce {
  /** It starts without a live lease, although another copy may run elsewhere. */
  readonly acceptsTwoCopies?: true;
  /** It starts although its spec says Halted. */
  readonly isAgainstSpec?: true;
}

export interface SiteOrder extends SiteForce {
  /** Rises with every order for the microVM on this host, over a lost journal too: at least the wall clock in milliseconds. */
  readonly number: number;
  readonly kind: SiteOrderKind | SiteVisitKind;
  readonly by: SiteOperator;
  /** By the wall clock of the host, epoch milliseconds. */
  readonly atMs: number;
}

/** What stands until it is lifted. */
export interface SiteOverride extends SiteForce {
  readonly kind: SiteOverrideKind;
  /** Of the order that made it. */
  readonly number: number;
  readonly by: SiteOperator;
  readonly atMs: number;
}

/** Longest name of a user, characters; a longer one is cut. */
export const siteUserMax = 64;
/** Orders of one microVM that are kept until they are told upward; of more the oldest are counted only, visits before orders. */
export const siteOrdersMax = 16;

/** As people read it, such as `alice (uid 1000)`. */
export function formatSiteOperator({ user, uid }: SiteOperator): string {
  return `${user} (uid ${uid})`;
}
