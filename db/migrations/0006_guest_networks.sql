-- What guests hold of the network of their host: IPv4 addresses and ports. A hold is made in the transaction that binds
-- the microVM or publishes its new spec, and ends with its confirmed teardown, or once its host has taken over a spec
-- that does not name it any more.

create table nkudo.guest_holds (
  tenant_id uuid not null,
  -- Of the microVM.
  id uuid not null,
  host_id uuid not null,
  -- Name of the network, and of its port; an address has no port.
  network text not null check (length(network) between 1 and 63),
  port text not null check (length(port) <= 63),
  space text not null check (space in ('address', 'tcp', 'udp')),
  -- An address without its prefix length, or a number of a port.
  value text not null check (length(value) between 1 and 15),
  is_mesh boolean not null,
  -- The subnet of an address, and the host's own address in it.
  subnet cidr check (family(subnet) = 4),
  gateway inet check (family(gateway) = 4),
  held_at timestamptz not null default now(),
  -- Revision of the first operation whose spec does not name it any more; the guest may use it until the host is there.
  retired_revision bigint check (retired_revision >= 1),
  released_at timestamptz,
  foreign key (tenant_id, id) references nkudo.microvms (tenant_id, id),
  foreign key (tenant_id, host_id) references nkudo.hosts (tenant_id, id),
  check ((space = 'address') = (subnet is not null)),
  check ((space = 'address') = (gateway is not null)),
  check ((space = 'address') = (port = '')),
  check (not is_mesh or space = 'address')
);
-- Never two: one guest for each address and each port of a host.
create unique index guest_holds_live on nkudo.guest_holds (tenant_id, host_id, space, value) where released_at is null;
create index guest_holds_by_microvm on nkudo.guest_holds (tenant_id, id) where released_at is null;
-- Over all tenants: an account of the mesh may hold sites of several.
create unique index guest_holds_mesh on nkudo.guest_holds (value) where released_at is null and is_mesh;

create trigger immutable before update on nkudo.guest_holds for each row
  when ((old.tenant_id, old.id, old.host_id, old.space, old.value, old.is_mesh, old.subnet, old.gateway, old.held_at)
      is distinct from (new.tenant_id, new.id, new.host_id, new.space, new.value, new.is_mesh, new.subnet, new.gateway, new.held_at)
    or old.released_at is not null)
  execute function nkudo.refuse('NK003', 'a hold never changes what it is of, and not at all once it was released');

create constraint trigger audited_insert after insert on nkudo.guest_holds deferrable initially deferred
  for each row execute function nkudo.require_audit('guestHold');
create constraint trigger audited_update after update on nkudo.guest_holds deferrable initially deferred
  for each row execute function nkudo.require_audit('guestHold');

alter table nkudo.guest_holds enable row level security;
alter table nkudo.guest_holds force row level security;
create policy tenant_isolation on nkudo.guest_holds to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
grant select, insert on nkudo.guest_holds to nkudo_app;
grant update (network, port, retired_revision, released_at) on nkudo.guest_holds to nkudo_app;

-- What a guest has to do without although nothing failed; null: nothing.
alter table nkudo.observations add column warnings jsonb check (jsonb_typeof(warnings) = 'array');
grant update (warnings) on nkudo.observations to nkudo_app;
