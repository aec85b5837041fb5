/**
 * What the agent remembers of the order for its own version, and what it does next. An order is tried until it is
 * refused or its version did not get ready; then it is over, and only a newer one is tried.
 */
import { isAgentOrder, type AgentOrder, type AgentReport } from '#api/model/release.ts';

export const agentOrderFact = 'agentOrder';

export interface AgentOrderRecord {
  readonly order: AgentOrder;
  /** The launcher was asked, or was about to be: a mark of a failure is of this attempt. */
  readonly isSelected: boolean;
  /** How it was refused, or that it did not get ready; null: neither. Final. */
  readonly refusal: { readonly code: string; readonly message: string } | null;
}

export interface AgentLook {
  readonly runningVersion: string;
  readonly previousVersion: string | null;
  /** The version that the launcher tries at the next start. */
  readonly trialVersion: string | null;
  /** Why the launcher gave up the version of the order; null: it did not. */
  readonly failedReason: string | null;
}

/** Nothing is said of an order that was withdrawn. */
export type AgentDecision =
  | { readonly action: 'none'; readonly report: AgentReport | null }
  | { readonly action: 'install'; readonly report: AgentReport }
  /** It is over: to be noted, since the mark of the launcher goes with the next version. */
  | { readonly action: 'conclude'; readonly report: null; readonly refusal: { readonly code: string; readonly message: string } };

const failedCode = 'UPDATE_FAILED';

export function decideAgent({ order, isSelected, refusal }: AgentOrderRecord, look: AgentLook): AgentDecision {
  const report = { phase: 'Current', runningVersion: look.runningVersion, previousVersion: look.previousVersion ?? '', orderRevision: order.revision, errorCode: '', problem: '' } as const;
  if (order.version === '') return { action: 'none', report: null };
  if (look.runningVersion === order.version) return { action: 'none', report };
  if (refusal !== null) return { action: 'none', report: { ...report, phase: refusal.code === failedCode ? 'RolledBack' : 'Refused', errorCode: refusal.code, problem: refusal.message } };
  if (isSelected && look.failedReason !== null) return { action: 'conclude', report: null, refusal: { code: failedCode, message: `${order.version} ${look.failedReason}` } };
  if (look.trialVersion === order.version) return { action: 'none', report: { ...report, phase: 'Starting' } };
  return { action: 'install', report: { ...report, phase: 'Fetching' } };
}

/** A record that can't be read counts as none: the control plane says it again. */
export function parseAgentOrderRecord(text: string | undefined): AgentOrderRecord | null {
  if (text === undefined) return null;
  try {
    const { order, isSelected, refusal } = JSON.parse(text) as Partial<AgentOrderRecord>; // Each field is checked below.
    if (!isAgentOrder(order) || typeof isSelected !== 'boolean') return null;
    const isRefusal = typeof refusal === 'object' && refusal !== null && typeof refusal.code === 'string' && typeof refusal.message === 'string';
    return { order, isSelected, refusal: isRefusal ? refusal : null };
  } catch {
    return null;
  }
}

export function encodeAgentOrderRecord(record: AgentOrderRecord): string {
  return JSON.stringify(record);
}
