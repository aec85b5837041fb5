/**
 * Addresses and ports that guests hold of their hosts, inside the transactions that publish and end microVMs. The host's
 * row is locked before they are read, so that allocations of one host take turns; unique indexes stand behind that.
 * What is chosen is guest-allocation.ts'.
 */
import type { HostId, MicroVMId, TenantId } from '#api/model/ids.ts';
import type { DesiredMicroVM, NetworkSpec } from '#api/model/microvm.ts';
import type { NetworkProblem, PublishInput } from '#controller/ports/microvm-store.ts';
import type { AuditEntry } from '../audit.ts';
import type { Tx } from '../tx.ts';
import { allocate, keyOf, type HeldThing } from './guest-allocation.ts';

type OwnHold = HeldThing & { readonly hostId: HostId; readonly isRetired: boolean };

/** Decided and not written yet. */
export interface PlannedNetworks {
  /** Undefined when the microVM has none. */
  readonly networks: readonly NetworkSpec[] | undefined;
  readonly before: readonly OwnHold[];
  readonly after: readonly HeldThing[];
  readonly hostId: HostId;
}

interface Planning {
  readonly input: Pick<PublishInput, 'tenantId' | 'microvmId' | 'networks'>;
  readonly hostId: HostId;
  /** Of the intent before; undefined when there was none. */
  readonly published: DesiredMicroVM | null | undefined;
}

/** `entries` are to be appended either way: what hosts have given up is released also when the microVM gets nothing. */
export type PlanningResult = { readonly entries: readonly AuditEntry[] } & ({ readonly ok: true; readonly plan: PlannedNetworks } | { readonly ok: false; readonly problem: NetworkProblem });

/** Reads and decides; the only thing that it may write is the release of what a host has given up. */
export async function planNetworks(tx: Tx, { input, hostId, published }: Planning): Promise<PlanningResult> {
  const { tenantId, microvmId } = input;
  const requests = input.networks?.requests ?? [];
  if (requests.length === 0 && (published?.networks ?? []).length === 0) return { ok: true, plan: { networks: undefined, before: [], after: [], hostId }, entries: [] };
  const hostName = await lockHost(tx, tenantId, hostId);
  const entries = await releaseGivenUp(tx, { tenantId, hostId, microvmId });
  const before = await readOwn(tx, tenantId, microvmId);
  const allocation = allocate({
    requests,
    own: before.filter((hold) => hold.hostId === hostId),
    others: await readOthers(tx, { tenantId, hostId, microvmId }),
    natSubnet: input.networks?.natSubnet ?? '',
    meshSubnet: requests.some(({ kind }) => kind === 'mesh') ? await readMeshSubnet(tx, tenantId, hostId) : null,
    hostName,
  });
  if (!allocation.ok) return { ...allocation, entries };
  return { ok: true, plan: { networks: requests.length === 0 ? undefined : allocation.networks, before, after: allocation.holds, hostId }, entries };
}

/** Writes what changed. What the new spec does not name is kept until the host has taken over this revision. */
export async function saveNetworks(tx: Tx, input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly revision: number; readonly plan: PlannedNetworks }): Promise<readonly AuditEntry[]> {
  const { tenantId, microvmId, revision, plan } = input;
  const before = new Map(plan.before.filter(({ hostId }) => hostId === plan.hostId).map((hold) => [keyOf(hold), hold]));
  const after = new Set(plan.after.map(keyOf));
  const added = plan.after.filter((hold) => !before.has(keyOf(hold)));
  const kept = plan.after.filter((hold) => {
    const old = before.get(keyOf(hold));
    return old !== undefined && (old.isRetired || old.network !== hold.network || old.port !== hold.port);
  });
  const retired = plan.before.filter((hold) => !hold.isRetired && (hold.hostId !== plan.hostId || !after.has(keyOf(hold))));
  if (added.length === 0 && kept.length === 0 && retired.length === 0) return [];
  await insertHolds(tx, { tenantId, microvmId, hostId: plan.hostId, holds: added });
  if (kept.length > 0) {
    await tx.query(
      {
        name: 'keep-guest-holds',
        text: `update nkudo.guest_holds g set retired_revision = null, network = k.network, port = k.port
          from unnest($4::text[], $5::text[], $6::text[], $7::text[]) as k (space, value, network, port)
          where g.tenant_id = $1 and g.id = $2 and g.host_id = $3 and g.released_at is null and g.space = k.space and g.value = k.value`,
      },
      [tenantId, microvmId, plan.hostId, kept.map(({ space }) => space), kept.map(({ value }) => value), kept.map(({ network }) => network), kept.map(({ port }) => port)],
    );
  }
  if (retired.length > 0) {
    await tx.query(
      {
        name: 'retire-guest-holds',
        text: `update nkudo.guest_holds g set retired_revision = $3
          from unnest($4::uuid[], $5::text[], $6::text[]) as r (host_id, space, value)
          where g.tenant_id = $1 and g.id = $2 and g.host_id = r.host_id and g.released_at is null and g.space = r.space and g.value = r.value`,
      },
      [tenantId, microvmId, revision, retired.map(({ hostId }) => hostId), retired.map(({ space }) => space), retired.map(({ value }) => value)],
    );
  }
  return [{ action: 'allocated', subject: 'guestHold', id: microvmId, before: plan.before, after: plan.after }];
}

/** After the confirmed teardown, or with the tombstone. */
export async function releaseNetworks(tx: Tx, tenantId: TenantId, microvmId: MicroVMId): Promise<readonly AuditEntry[]> {
  const { rows } = await tx.query<{ space: string; value: string }>(
    {
      name: 'release-guest-holds',
      isHot: true,
      text: 'update nkudo.guest_holds set released_at = now() where tenant_id = $1 and id = $2 and released_at is null returning space, value',
    },
    [tenantId, microvmId],
  );
  return rows.length === 0 ? [] : [{ action: 'released', subject: 'guestHold', id: microvmId, before: rows, after: null }];
}

async function lockHost(tx: Tx, tenantId: TenantId, hostId: HostId): Promise<string> {
  const { rows } = await tx.query<{ name: string }>(
    { name: 'lock-host-for-networks', text: 'select name from nkudo.hosts where tenant_id = $1 and id = $2 for no key update' },
    [tenantId, hostId],
  );
  return rows[0]?.name ?? '';
}

interface Place {
  readonly tenantId: TenantId;
  readonly hostId: HostId;
  readonly microvmId: MicroVMId;
}

/** What was retired ends once its host runs by a spec without it; what others held, once the microVM has left the host. */
async function releaseGivenUp(tx: Tx, { tenantId, hostId, microvmId }: Place): Promise<readonly AuditEntry[]> {
  const { rows } = await tx.query<{ id: string; space: string; value: string }>(
    {
      name: 'release-retired-holds',
      text: `update nkudo.guest_holds g set released_at = now()
        where g.tenant_id = $1 and g.host_id = $2 and g.released_at is null and (
          g.retired_revision is not null and exists (select from nkudo.observations o where o.tenant_id = g.tenant_id and o.microvm_id = g.id and o.host_id = g.host_id
            and o.revision >= g.retired_revision and not o.is_restart_required and o.problem is null and o.state in ('running', 'paused', 'stopped'))
          or g.id <> $3
            and not exists (select from nkudo.bindings b where b.tenant_id = g.tenant_id and b.microvm_id = g.id and b.host_id = g.host_id and b.released_at is null)
            and not exists (select from nkudo.displacements d where d.tenant_id = g.tenant_id and d.microvm_id = g.id and d.host_id = g.host_id and d.stopped_at is null))
        returning g.id, g.space, g.value`,
    },
    [tenantId, hostId, microvmId],
  );
  return [...new Set(rows.map(({ id }) => id))].map((id) => ({ action: 'released', subject: 'guestHold', id, before: rows.filter((row) => row.id === id), after: null }));
}

async function readOwn(tx: Tx, tenantId: TenantId, microvmId: MicroVMId): Promise<readonly OwnHold[]> {
  const { rows } = await tx.query<{ host_id: HostId; network: string; port: string; space: HeldThing['space']; value: string; is_mesh: boolean; subnet: string | null; gateway: string | null; is_retired: boolean }>(
    {
      name: 'read-own-holds',
      text: `select host_id, network, port, space, value, is_mesh, subnet::text, host(gateway) as gateway, retired_revision is not null as is_retired
        from nkudo.guest_holds where tenant_id = $1 and id = $2 and released_at is null order by held_at, space, value`,
    },
    [tenantId, microvmId],
  );
  return rows.map(({ host_id: hostId, is_mesh: isMesh, is_retired: isRetired, network, port, space, value, subnet, gateway }) => ({ hostId, network, port, space, value, isMesh, subnet, gateway, isRetired }));
}

async function readOthers(tx: Tx, at: Place): Promise<readonly { readonly space: HeldThing['space']; readonly value: string; readonly gateway: string | null; readonly holder: string }[]> {
  const { rows } = await tx.query<{ space: HeldThing['space']; value: string; gateway: string | null; holder: string }>(
    {
      name: 'read-holds-of-others',
      text: `select g.space, g.value, host(g.gateway) as gateway, m.name as holder
        from nkudo.guest_holds g join nkudo.microvms m on m.tenant_id = g.tenant_id and m.id = g.id
        where g.tenant_id = $1 and g.host_id = $2 and g.id <> $3 and g.released_at is null`,
    },
    [at.tenantId, at.hostId, at.microvmId],
  );
  return rows;
}

/** The lock keeps the subnet with the host until this is committed. */
async function readMeshSubnet(tx: Tx, tenantId: TenantId, hostId: HostId): Promise<string | null> {
  const { rows } = await tx.query<{ subnet: string | null }>(
    { name: 'read-mesh-subnet', text: 'select subnet::text from nkudo.mesh_hosts where tenant_id = $1 and id = $2 for share' },
    [tenantId, hostId],
  );
  return rows[0]?.subnet ?? null;
}

async function insertHolds(tx: Tx, input: { readonly tenantId: TenantId; readonly microvmId: MicroVMId; readonly hostId: HostId; readonly holds: readonly HeldThing[] }): Promise<void> {
  const { holds } = input;
  if (holds.length === 0) return;
  await tx.query(
    {
      name: 'insert-guest-holds',
      text: `insert into nkudo.guest_holds (tenant_id, id, host_id, network, port, space, value, is_mesh, subnet, gateway)
        select $1, $2, $3, h.* from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::cidr[], $10::inet[]) as h`,
    },
    [
      input.tenantId, input.microvmId, input.hostId, holds.map(({ network }) => network), holds.map(({ port }) => port), holds.map(({ space }) => space),
      holds.map(({ value }) => value), holds.map(({ isMesh }) => isMesh), holds.map(({ subnet }) => subnet), holds.map(({ gateway }) => gateway),
    ],
  );
}
