/**
 * Where orders of people at the site come in. An order that was taken is durable: it survives a crash of the agent and a
 * power cut. What it brings about follows, and can be asked for.
 */
import type { MicroVMId } from '#api/model/ids.ts';
import type { ObservedState } from '#api/model/microvm.ts';
import type { SiteForce, SiteOperator, SiteOrderKind } from '#api/model/site-orders.ts';
import type { ConsoleSession } from './consoles.ts';

export interface SiteOrderRequest extends SiteForce {
  readonly kind: SiteOrderKind;
  readonly by: SiteOperator;
}

export interface SiteAnswer {
  /** already: it is so, and nothing was written. */
  readonly result: 'taken' | 'already';
  /** For the person who asked, one sentence. */
  readonly message: string;
}

export interface SiteSituation {
  /** busy: something is being done. settled: nothing is left to do. waits: for something that may take long. */
  readonly progress: 'busy' | 'settled' | 'waits';
  readonly state: ObservedState;
  /** With `waits`: for people. */
  readonly waitsFor?: string;
  readonly problem?: { readonly code: string; readonly message: string };
}

export interface SiteConsoleRequest {
  /** False: reads only. */
  readonly types: boolean;
  /** Ends the session of who types now. */
  readonly takesOver: boolean;
  readonly by: SiteOperator;
  /** How much of what was printed before comes first, bytes. */
  readonly historyBytes: number;
}

export interface SiteDesk {
  /**
   * @throws NOT_FOUND; and where it is refused HELD_AT_SITE, WAITING_FOR_LEASE, CONFLICT, each with what to do;
   * UNAVAILABLE when it could not be looked at
   */
  order(microvmId: MicroVMId, request: SiteOrderRequest): Promise<SiteAnswer>;
  /** How far it is; answers when it is not busy any more, and as it is when the signal ends the wait. @throws NOT_FOUND */
  situation(microvmId: MicroVMId, signal: AbortSignal): Promise<SiteSituation>;
  /**
   * Lets somebody at the serial console. That they came is durable before they see or say anything.
   * @throws NOT_FOUND; CONSOLE_UNAVAILABLE and CONSOLE_IN_USE, each with what to do; UNAVAILABLE when it could not be looked at
   */
  openConsole(microvmId: MicroVMId, request: SiteConsoleRequest): Promise<ConsoleSession>;
}
