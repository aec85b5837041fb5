-- Leases of hosts, and microVMs that were replaced while their host was silent.

-- `lease_epoch` counts the grants and `lease_granted_until` says until when, by the clock of the database; the leader
-- decides by when it first saw a grant on its own clock and by its length.
alter table nkudo.host_liveness
  add column lease_ms bigint check (lease_ms >= 1),
  -- MicroVMs of this host that were replaced and of which it has not confirmed that they are gone: no grant until then.
  add column lease_holds integer not null default 0 check (lease_holds >= 0);

-- The terms of the newest published intent; null: it is not replaced, and needs no lease.
alter table nkudo.bindings add column lease_ms bigint check (lease_ms >= 1);
create index bindings_leased_by_host on nkudo.bindings (tenant_id, host_id) where released_at is null and lease_ms is not null;

create table nkudo.displacements (
  tenant_id uuid not null,
  id uuid not null,
  microvm_id uuid not null,
  host_id uuid not null,
  -- Of the binding that was given up.
  epoch bigint not null check (epoch between 4294967297 and 9007199254740991),
  -- The order to remove what is left on that host.
  operation_id uuid not null,
  -- Paths of writable disks that stay there.
  orphaned_disks text[] not null default '{}',
  displaced_at timestamptz not null default now(),
  -- When the host said that nothing of it runs there any more.
  stopped_at timestamptz,
  primary key (tenant_id, id),
  unique (tenant_id, microvm_id, epoch),
  unique (tenant_id, operation_id),
  foreign key (tenant_id, microvm_id, epoch) references nkudo.bindings (tenant_id, microvm_id, epoch),
  foreign key (tenant_id, host_id) references nkudo.hosts (tenant_id, id),
  foreign key (tenant_id, operation_id) references nkudo.operations (tenant_id, id)
);
create index displacements_by_host on nkudo.displacements (tenant_id, host_id, displaced_at desc);

create trigger immutable before update on nkudo.displacements for each row
  when ((old.tenant_id, old.id, old.microvm_id, old.host_id, old.epoch, old.operation_id, old.displaced_at)
      is distinct from (new.tenant_id, new.id, new.microvm_id, new.host_id, new.epoch, new.operation_id, new.displaced_at)
    or (old.stopped_at is not null and new.stopped_at is distinct from old.stopped_at))
  execute function nkudo.refuse('NK003', 'a displacement never changes, but for its end');
create trigger rising before update on nkudo.host_liveness for each row
  when (new.lease_epoch < old.lease_epoch)
  execute function nkudo.refuse('NK005', 'the number of a lease never goes back');

create constraint trigger audited_insert after insert on nkudo.displacements deferrable initially deferred
  for each row execute function nkudo.require_audit('displacement');
create constraint trigger audited_update after update on nkudo.displacements deferrable initially deferred
  for each row execute function nkudo.require_audit('displacement');

alter table nkudo.displacements enable row level security;
alter table nkudo.displacements force row level security;
create policy tenant_isolation on nkudo.displacements to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
grant select, insert on nkudo.displacements to nkudo_app;
grant update (stopped_at) on nkudo.displacements to nkudo_app;
grant update (lease_ms) on nkudo.bindings to nkudo_app;
grant update (lease_ms, lease_holds) on nkudo.host_liveness to nkudo_app;

-- Grants are one statement over all tenants; it sees of a binding only whether and for how long a lease is needed.
create policy system_reads on nkudo.bindings for select to nkudo_system using (true);
grant select (tenant_id, host_id, released_at, lease_ms) on nkudo.bindings to nkudo_system;
grant select (lease_epoch, lease_ms, lease_granted_until, lease_holds) on nkudo.host_liveness to nkudo_system;
grant update (lease_epoch, lease_ms, lease_granted_until) on nkudo.host_liveness to nkudo_system;

-- Changes when another database answers: after a restore, a failover, or a recovery. The timeline is the one that is
-- written now.
create function nkudo.database_lineage() returns text
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select s.system_identifier::text || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' || i.incarnation
  from pg_control_system() s, nkudo.installation i
$$;
revoke execute on function nkudo.database_lineage() from public;
grant execute on function nkudo.database_lineage() to nkudo_app, nkudo_system;
