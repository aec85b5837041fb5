/**
 * Two agents for each token, all at once, against a real Postgres through the store that the gateway uses: how many
 * certificates there are afterwards, and for whom. The signer is made up; what it signs is not asked here.
 */
import { randomUUID } from 'node:crypto';
import { isAppError } from '#api/model/error-codes.ts';
import type { Database } from '#db/database.ts';
import type { TestDatabase } from '#test/harness/postgres.ts';
import { enrollInput, makeFleet, makeToken } from '#test/integration/db/builders.ts';

/** As many as there are connections to wait for, and some more that queue. */
const atOnce = 24;

export interface RaceResult {
  /** Answers by code; `OK` for a certificate. */
  readonly answers: Readonly<Record<string, number>>;
  readonly certificates: number;
  readonly hosts: number;
  readonly usedTokens: number;
  /** Tokens with more than one host or certificate. */
  readonly doubled: number;
  /** Audit rows on certificates that were issued. */
  readonly audited: number;
}

/** @param random decides which of the two asks first, and how the agents of different tokens mix */
export async function raceForTokens(db: Database, server: TestDatabase, count: number, random: () => number): Promise<RaceResult> {
  const fleet = await makeFleet(db);
  const tokens = await mapAtOnce(Array.from({ length: count }, (_, index) => index), async (index) => ({ index, ...(await makeToken(fleet)) }));
  const attempts = tokens.flatMap(({ index, secretHash }) => ['a', 'b'].map((agent) => ({ secretHash, name: `h${index}-${agent}`, key: random() * 8 + index })));
  // Near each other, so that the two of one token meet, and mixed with those of others.
  attempts.sort((left, right) => left.key - right.key);
  const answers: Record<string, number> = {};
  await mapAtOnce(attempts, async ({ secretHash, name }) => {
    const code = await db.enrollment.enroll({ ...enrollInput(secretHash, { name }), actor: { kind: 'host', name: randomUUID(), from: '' } }).then(
      () => 'OK',
      (error: unknown) => {
        if (isAppError(error)) return error.code;
        throw error;
      },
    );
    answers[code] = (answers[code] ?? 0) + 1;
  });
  const [row] = await server.query(
    `select (select count(*)::int from nkudo.certificates where tenant_id = $1) as certificates,
       (select count(*)::int from nkudo.hosts where tenant_id = $1) as hosts,
       (select count(*)::int from nkudo.enrollment_tokens where tenant_id = $1 and used_at is not null) as used_tokens,
       (select count(*)::int from (select host_id from nkudo.certificates where tenant_id = $1 group by host_id having count(*) > 1) d) as doubled,
       (select count(*)::int from nkudo.audit_events where tenant_id = $1 and subject_kind = 'certificate' and action = 'issued') as audited`,
    [fleet.tenantId],
  );
  return {
    answers, certificates: Number(row?.['certificates']), hosts: Number(row?.['hosts']), usedTokens: Number(row?.['used_tokens']),
    doubled: Number(row?.['doubled']), audited: Number(row?.['audited']),
  };
}

async function mapAtOnce<Item, Result>(items: readonly Item[], work: (item: Item) => Promise<Result>): Promise<readonly Result[]> {
  const results: Result[] = [];
  const waiting = [...items].reverse();
  const next = async (): Promise<void> => {
    for (let item = waiting.pop(); item !== undefined; item = waiting.pop()) results.push(await work(item));
  };
  await Promise.all(Array.from({ length: atOnce }, next));
  return results;
}

/** What must come out, whatever the order. */
export function expectedRace(count: number): RaceResult {
  return { answers: { OK: count, TOKEN_USED: count }, certificates: count, hosts: count, usedTokens: count, doubled: 0, audited: count };
}
