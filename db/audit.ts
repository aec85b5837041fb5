/**
 * Writes audit rows into the transaction that makes the change; there is no way to write one alone. The database
 * refuses a COMMIT that lacks them. Hashes are of what changed, so that a row proves content without repeating it.
 */
import type { Actor } from '#controller/ports/audit.ts';
import { contentHash } from './canonical-json.ts';
import type { Tx } from './tx.ts';

export type SubjectKind =
  | 'meshSite' | 'meshHost' | 'guestHold'
  | 'tenant' | 'site' | 'host' | 'agent' | 'certificate' | 'enrollmentToken' | 'microvm' | 'binding' | 'plan' | 'operation'
  | 'planAction' | 'leadership' | 'apiKey' | 'displacement';

export interface AuditEntry {
  /** A past participle, such as `published`. */
  readonly action: string;
  readonly subject: SubjectKind;
  /** UUID; the tenant's for a tenant, the microVM's for a binding. */
  readonly id: string;
  /** State before and after, null when there was or is none. Never a secret: weak values can be guessed from a hash. */
  readonly before: unknown;
  readonly after: unknown;
}

/** Tenant of what belongs to the installation as a whole. */
export const installationTenant = '00000000-0000-0000-0000-000000000000';

const nameMax = 253;
const fromMax = 64;

/** Appends the rows in one statement. */
export async function appendAudit(tx: Tx, tenantId: string, actor: Actor, entries: readonly AuditEntry[]): Promise<void> {
  if (entries.length === 0) return;
  // Rows of the installation are written under a role that may not read them.
  const returning = tenantId === installationTenant ? '' : 'returning id';
  const { rows } = await tx.query<{ id: number }>(
    {
      name: returning === '' ? 'append-installation-audit' : 'append-audit',
      isHot: true,
      text: `insert into nkudo.audit_events
          (tenant_id, actor_kind, actor_name, actor_from, action, subject_kind, subject_id, before_hash, after_hash)
        select $1, $2, $3, $4, e.action, e.subject, e.id, e.before, e.after
        from unnest($5::text[], $6::text[], $7::uuid[], $8::text[], $9::text[]) as e (action, subject, id, before, after) ${returning}`,
    },
    [
      tenantId,
      actor.kind,
      actor.name.slice(0, nameMax) || actor.kind,
      actor.from.slice(0, fromMax),
      entries.map((entry) => entry.action),
      entries.map((entry) => entry.subject),
      entries.map((entry) => entry.id),
      entries.map((entry) => hashOrNull(entry.before)),
      entries.map((entry) => hashOrNull(entry.after)),
    ],
  );
  for (const { id } of rows) tx.audited(id);
}

function hashOrNull(state: unknown): string | null {
  return state === null || state === undefined ? null : contentHash(state);
}
