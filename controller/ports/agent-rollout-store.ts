/**
 * What AgentRollouts tell hosts, and what became of it on each: one row for a host, of the rollout that told it last.
 * Which rollout that is and what follows is decided elsewhere; this keeps it.
 */
import type { HypervisorFacts } from '#api/model/host.ts';
import type { HostId, TenantId } from '#api/model/ids.ts';
import type { AgentOrder, AgentReport } from '#api/model/release.ts';
import type { RolloutRow } from '#controller/domain/agent-rollout/model.ts';
import type { Actor } from './audit.ts';

/** An enrolled host as a rollout looks at it. */
export interface RolloutHostRecord {
  readonly hostId: HostId;
  readonly name: string;
  readonly siteName: string;
  readonly runningVersion: string;
  readonly hypervisor: HypervisorFacts;
  /** False while it is quarantined or waits for an approval. */
  readonly mayWork: boolean;
  /** By the clock of the database; null: never. */
  readonly lastBeatAtMs: number | null;
  /** What the host is ordered now, whoever said so; null: nothing. */
  readonly order: AgentOrder | null;
  readonly report: AgentReport | null;
  /** `ageMs`: since the row came into its state, by the clock of the database. Null: no rollout told it anything yet. */
  readonly row: (RolloutRow & { readonly ageMs: number }) | null;
}

export interface AgentRolloutStore {
  /** Every host of the tenant that is not revoked, by name. Reads only. */
  listHosts(tenantId: TenantId): Promise<readonly RolloutHostRecord[]>;
  /**
   * Stores these rows in one transaction, with their audit; those that are equal already are left alone. The age of a row
   * begins anew when its try, its state or `isReturned` changed. Safe to repeat.
   */
  saveRows(tenantId: TenantId, rows: readonly (RolloutRow & { readonly hostId: HostId })[], epoch: number, actor: Actor): Promise<void>;
  /** Withdraws what this rollout tells hosts: what runs stays. Returns the names of the hosts. Idempotent. */
  withdraw(tenantId: TenantId, rolloutId: string, epoch: number, actor: Actor): Promise<readonly string[]>;
}
