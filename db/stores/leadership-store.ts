/**
 * The leadership epoch and the incarnation of the database. The bump waits for open transactions of the old
 * leader, because those hold the row. An older copy of the database means a restore or a failover with a loss:
 * then the incarnation rises with the epoch, so that no fencing epoch is ever issued twice.
 */
import { decideRecovery, type DatabasePosition, type FoundDatabase } from '#api/model/recovery.ts';
import type { LeadershipEpoch, LeadershipStore, PositionReading } from '#controller/ports/leadership-store.ts';
import { AppError } from '#api/model/error-codes.ts';
import { appendAudit, installationTenant } from '../audit.ts';
import type { Transactions, Tx } from '../tx.ts';

export function createLeadershipStore(transactions: Transactions): LeadershipStore {
  const confirmOnDisk = createDiskGate();
  return {
    acquire: async (actor, witness = null) => {
      const acquired = await transactions.system(async (tx) => {
        // The row's lock first: of two callers one sees what the other wrote.
        const bumped = await tx.query<{ epoch: number; previous: number }>(
          {
            name: 'acquire-leadership',
            text: `with held as (select epoch from nkudo.leadership for no key update)
              update nkudo.leadership l set epoch = greatest(held.epoch, $2) + 1, holder = $1, acquired_at = now()
              from held returning l.epoch, held.epoch as previous`,
          },
          [actor.name.slice(0, 253), witness?.epoch ?? 0],
        );
        const [row] = bumped.rows;
        if (row === undefined) throw new AppError('INTERNAL', 'the leadership row is missing: run the migrator');
        const { epoch } = row;
        const { found } = await readPosition(tx);
        // What the witness says is compared with the database as it was before this call.
        const before: FoundDatabase = { ...found, epoch: row.previous };
        const decision = decideRecovery(before, witness);
        if (decision.reason !== null || decision.incarnation !== found.incarnation) await saveIncarnation(tx, decision.incarnation, found);
        const position: DatabasePosition = { ...found, incarnation: decision.incarnation, epoch };
        const won: LeadershipEpoch = { epoch, incarnation: decision.incarnation, recovery: decision.reason, position };
        await appendAudit(tx, installationTenant, actor, [
          { action: 'acquired', subject: 'leadership', id: installationTenant, before: { incarnation: found.incarnation }, after: { epoch, incarnation: decision.incarnation, recovery: decision.reason } },
        ]);
        return won;
      });
      transactions.beginLeadership(acquired.position.auditId);
      return acquired;
    },
    position: async () => {
      const { rows } = await transactions.systemQuery<PositionRow>(positionStatement);
      return confirmOnDisk(toFound(rows[0]));
    },
    seenAuditId: () => transactions.seenAuditId(),
    onRefused: (listener) => transactions.onRefused(listener),
  };
}

interface PositionRow {
  readonly incarnation: number;
  readonly epoch: number;
  readonly kept_system_identifier: string;
  readonly kept_timeline: number;
  readonly system_identifier: string;
  readonly timeline: number;
  readonly audit_id: number;
  readonly flushed_lsn: number;
  readonly inserted_lsn: number;
}

interface Reading {
  readonly found: FoundDatabase;
  /** End of the log in memory: all that the reading saw is on disk once `lsn` has reached it. */
  readonly insertedLsn: number;
}

const positionStatement = { name: 'read-position', isHot: true, text: 'select * from nkudo.database_position()' };

async function readPosition(tx: Tx): Promise<Reading> {
  const { rows } = await tx.query<PositionRow>(positionStatement);
  return toFound(rows[0]);
}

function toFound(row: PositionRow | undefined): Reading {
  if (row === undefined) throw new AppError('INTERNAL', 'the installation row is missing: run the migrator');
  const { incarnation, epoch, timeline } = row;
  return {
    found: {
      incarnation, epoch, timeline, systemIdentifier: row.system_identifier, auditId: row.audit_id, lsn: row.flushed_lsn,
      kept: { systemIdentifier: row.kept_system_identifier, timeline: row.kept_timeline },
    },
    insertedLsn: row.inserted_lsn,
  };
}

/**
 * A number that a transaction drew and did not commit is gone after a crash of the server and would look like a loss. So
 * what is noted of the audit is a number that was read before, once the log is on disk up to where it was read.
 */
function createDiskGate(): (reading: Reading) => PositionReading {
  let confirmed = 0;
  let waiting: { readonly auditId: number; readonly insertedLsn: number } | null = null;
  return ({ found, insertedLsn }) => {
    const { incarnation, epoch, systemIdentifier, timeline, auditId, lsn } = found;
    if (waiting !== null && lsn >= waiting.insertedLsn) {
      confirmed = waiting.auditId;
      waiting = null;
    }
    if (lsn >= insertedLsn) confirmed = auditId;
    else waiting ??= { auditId, insertedLsn };
    const present = { incarnation, epoch, systemIdentifier, timeline, auditId, lsn };
    // Of an older database nothing is confirmed beyond what it has.
    return { present, durable: { ...present, auditId: Math.min(confirmed, auditId) } };
  };
}

async function saveIncarnation(tx: Tx, incarnation: number, found: FoundDatabase): Promise<void> {
  await tx.query(
    { name: 'raise-incarnation', text: 'update nkudo.installation set incarnation = $1, system_identifier = $2, timeline = $3' },
    [incarnation, found.systemIdentifier, found.timeline],
  );
}
