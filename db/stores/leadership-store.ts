/**
 * The leadership epoch and the incarnation of the database. The bump waits for open transactions of the old
 * leader, because those hold the row. A changed system identifier or timeline means a restore or a failover:
 * then the incarnation rises with the epoch, so that no fencing epoch is ever issued twice.
 */
import type { LeadershipEpoch, LeadershipStore } from '#controller/ports/leadership-store.ts';
import { AppError } from '#api/model/error-codes.ts';
import { appendAudit, installationTenant } from '../audit.ts';
import type { Transactions, Tx } from '../tx.ts';

export function createLeadershipStore(transactions: Transactions): LeadershipStore {
  return {
    acquire: (actor) =>
      transactions.system(async (tx) => {
        const incarnation = await reviewIncarnation(tx);
        const { rows } = await tx.query<{ epoch: number }>(
          {
            name: 'acquire-leadership',
            text: 'update nkudo.leadership set epoch = epoch + 1, holder = $1, acquired_at = now() returning epoch',
          },
          [actor.name.slice(0, 253)],
        );
        const [row] = rows;
        if (row === undefined) throw new AppError('INTERNAL', 'the leadership row is missing: run the migrator');
        const acquired: LeadershipEpoch = { epoch: row.epoch, incarnation };
        await appendAudit(tx, installationTenant, actor, [
          { action: 'acquired', subject: 'leadership', id: installationTenant, before: { epoch: row.epoch - 1 }, after: acquired },
        ]);
        return acquired;
      }),
  };
}

async function reviewIncarnation(tx: Tx): Promise<number> {
  const { rows } = await tx.query<{ incarnation: number; changed: boolean; system_identifier: string; timeline: number }>({
    name: 'read-incarnation',
    text: `select i.incarnation, s.system_identifier::text as system_identifier, c.timeline_id as timeline,
        i.system_identifier <> s.system_identifier::text or i.timeline <> c.timeline_id as changed
      from nkudo.installation i, pg_control_system() s, pg_control_checkpoint() c`,
  });
  const [row] = rows;
  if (row === undefined) throw new AppError('INTERNAL', 'the installation row is missing: run the migrator');
  if (!row.changed) return row.incarnation;
  // Compared again under the row's lock: of two callers one raises it.
  const raised = await tx.query<{ incarnation: number }>(
    {
      name: 'raise-incarnation',
      text: `update nkudo.installation set incarnation = incarnation + 1, system_identifier = $1, timeline = $2
        where system_identifier <> $1 or timeline <> $2 returning incarnation`,
    },
    [row.system_identifier, row.timeline],
  );
  if (raised.rows[0] !== undefined) return raised.rows[0].incarnation;
  return reviewIncarnation(tx);
}
