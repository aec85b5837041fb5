/**
 * Orders of people at a site, as their host tells them: one audit row for each, whatever is told again. A host that does
 * not have the microVM any more is heard too: what somebody did there to a copy of it is what an auditor looks for.
 */
import type { HostId, TenantId } from '#api/model/ids.ts';
import type { MicroVMObservation } from '#api/model/microvm.ts';
import { formatSiteOperator, type SiteOrder } from '#api/model/site-orders.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import type { Tx } from '../tx.ts';

interface SiteOrdersInput {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
  readonly observations: readonly MicroVMObservation[];
}

/** Writes nothing for observations without orders. */
export async function recordSiteOrders(tx: Tx, input: SiteOrdersInput): Promise<void> {
  const telling = input.observations.filter(({ siteOrders }) => siteOrders !== undefined && siteOrders.length > 0);
  if (telling.length === 0) return;
  const cursors = await lockCursors(tx, input, [...new Set(telling.map(({ microvmId }) => microvmId))]);
  for (const [microvmId, known] of cursors) {
    const told = telling.filter((seen) => seen.microvmId === microvmId);
    const fresh = new Map(told.flatMap(({ siteOrders = [] }) => siteOrders).filter(({ number }) => number > known).map((order) => [order.number, order]));
    const orders = [...fresh.values()].sort((left, right) => left.number - right.number);
    const newest = orders.at(-1);
    if (newest === undefined) continue;
    await moveCursor(tx, input, microvmId, newest.number);
    const lost = Math.max(0, ...told.map(({ siteOrdersLost = 0 }) => siteOrdersLost));
    if (lost > 0) {
      await appendAudit(tx, input.tenantId, { kind: 'host', name: input.hostId, from: '' }, [{ action: 'siteOrdersLost', subject: 'microvm', id: microvmId, before: null, after: { lost } }]);
    }
    // Each has an actor of its own.
    for (const order of orders) await appendAudit(tx, input.tenantId, actorOf(order, input.hostId), [entryOf(order, microvmId)]);
  }
}

const actions: Readonly<Record<SiteOrder['kind'], string>> = {
  Stop: 'stoppedAtSite',
  Start: 'startedAtSite',
  Restart: 'restartedAtSite',
  Hold: 'heldAtSite',
  Release: 'releasedAtSite',
  OpenConsole: 'consoleOpenedAtSite',
  ReadConsole: 'consoleReadAtSite',
  TakeConsole: 'consoleTakenAtSite',
};

/** The time is that of the order, by the clock of its host; the row's own is that of the report. */
function actorOf({ by, atMs }: SiteOrder, hostId: HostId) {
  return { kind: 'siteOperator', name: formatSiteOperator(by), from: `${hostId} ${new Date(atMs).toISOString()}` } as const;
}

/** A force has a name of its own, since a row holds no more than a hash of what was ordered. */
function entryOf(order: SiteOrder, microvmId: string): AuditEntry {
  const force = `${order.isAgainstSpec === true ? 'AgainstSpec' : ''}${order.acceptsTwoCopies === true ? 'WithTwoCopies' : ''}`;
  return { action: `${actions[order.kind]}${force}`, subject: 'microvm', id: microvmId, before: null, after: order };
}

/** Of microVMs that the host has or had; the others are none of its business. */
async function lockCursors(tx: Tx, input: SiteOrdersInput, microvmIds: readonly string[]): Promise<ReadonlyMap<string, number>> {
  const parameters = [input.tenantId, input.hostId, microvmIds];
  await tx.query(
    {
      name: 'make-site-order-cursors',
      text: `insert into nkudo.site_order_cursors (tenant_id, microvm_id, host_id)
        select distinct $1::uuid, b.microvm_id, $2::uuid from nkudo.bindings b where b.tenant_id = $1 and b.host_id = $2 and b.microvm_id = any($3)
        order by 2 on conflict do nothing`,
    },
    parameters,
  );
  const { rows } = await tx.query<{ microvm_id: string; number: number }>(
    {
      name: 'lock-site-order-cursors',
      text: `select microvm_id, number from nkudo.site_order_cursors
        where tenant_id = $1 and host_id = $2 and microvm_id = any($3) order by microvm_id for no key update`,
    },
    parameters,
  );
  return new Map(rows.map((row) => [row.microvm_id, row.number]));
}

async function moveCursor(tx: Tx, { tenantId, hostId }: SiteOrdersInput, microvmId: string, number: number): Promise<void> {
  await tx.query(
    { name: 'move-site-order-cursor', text: 'update nkudo.site_order_cursors set number = $4 where tenant_id = $1 and microvm_id = $2 and host_id = $3' },
    [tenantId, microvmId, hostId, number],
  );
}
