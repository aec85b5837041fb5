-- The mesh: which sites and hosts are in it, the subnets of their guests, and what hosts report of it.
-- Ids of objects in the mesh account are notes that save requests: an object is always found again by name and marker.
-- No column ever holds the token of an account or the value of a setup key.

-- Tells the objects of this installation from those of others in one mesh account. It survives a restore.
alter table nkudo.installation add column id uuid not null default gen_random_uuid();

-- What a replica that does not lead needs to make keys for the hosts whose streams it holds.
create table nkudo.mesh_sites (
  tenant_id uuid not null,
  id uuid not null,
  management_url text not null check (length(management_url) between 1 and 253),
  secret_name text not null check (length(secret_name) between 1 and 253),
  -- Name to id of the groups that every host of the site joins.
  group_ids jsonb not null check (jsonb_typeof(group_ids) = 'object' and length(group_ids::text) <= 16384),
  changed_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references nkudo.sites (tenant_id, id)
);

-- One row for each host that was ever asked to join.
create table nkudo.mesh_hosts (
  tenant_id uuid not null,
  id uuid not null,
  site_id uuid not null,
  -- The order to the host; its revision rises with every change of the three.
  is_joined boolean not null,
  management_url text not null check (length(management_url) <= 253),
  host_name text not null check (length(host_name) <= 63),
  revision bigint not null default 1 check (revision between 1 and 9007199254740991),
  -- Range of the guests of this host; kept until nothing in the account routes it any more.
  subnet cidr check (family(subnet) = 4 and masklen(subnet) = 24),
  group_id text check (length(group_id) between 1 and 128),
  peer_id text check (length(peer_id) between 1 and 128),
  -- The key that was handed out last and that the leader leaves alone meanwhile; its value is nowhere.
  key_id text check (length(key_id) between 1 and 128),
  key_expires_at timestamptz,
  -- The replica that makes a key at this moment.
  claimed_by text check (length(claimed_by) between 1 and 253),
  claimed_until timestamptz,
  changed_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references nkudo.hosts (tenant_id, id),
  foreign key (tenant_id, site_id) references nkudo.sites (tenant_id, id),
  check ((key_id is null) = (key_expires_at is null)),
  check ((claimed_by is null) = (claimed_until is null)),
  check (is_joined = (management_url <> '' and host_name <> ''))
);
create index mesh_hosts_by_site on nkudo.mesh_hosts (tenant_id, site_id);
create index mesh_hosts_changed on nkudo.mesh_hosts (changed_at);
-- Over all tenants: an account may hold sites of several, and all subnets are of one size, so equal or disjoint.
create unique index mesh_hosts_subnet on nkudo.mesh_hosts (subnet) where subnet is not null;

-- The last report of each host: written when it changed, no state change of ours.
create table nkudo.mesh_reports (
  tenant_id uuid not null,
  id uuid not null,
  report jsonb not null check (length(report::text) <= 8192),
  received_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references nkudo.hosts (tenant_id, id)
) with (fillfactor = 70);
create index mesh_reports_received on nkudo.mesh_reports (received_at);

create trigger rising before update on nkudo.mesh_hosts for each row
  when (new.revision < old.revision
    or (new.revision = old.revision
      and (old.is_joined, old.management_url, old.host_name) is distinct from (new.is_joined, new.management_url, new.host_name)))
  execute function nkudo.refuse('NK005', 'the revision of a mesh order rises with every change');
create trigger immutable before update on nkudo.mesh_hosts for each row
  when ((old.tenant_id, old.id, old.site_id) is distinct from (new.tenant_id, new.id, new.site_id)
    or (old.subnet is not null and new.subnet is not null and old.subnet <> new.subnet))
  execute function nkudo.refuse('NK003', 'a host keeps its site and its mesh subnet');

create constraint trigger audited_insert after insert on nkudo.mesh_sites deferrable initially deferred
  for each row execute function nkudo.require_audit('meshSite');
create constraint trigger audited_update after update on nkudo.mesh_sites deferrable initially deferred
  for each row execute function nkudo.require_audit('meshSite');
create constraint trigger audited_insert after insert on nkudo.mesh_hosts deferrable initially deferred
  for each row execute function nkudo.require_audit('meshHost');
create constraint trigger audited_update after update on nkudo.mesh_hosts deferrable initially deferred
  for each row when ((old.is_joined, old.management_url, old.host_name, old.subnet, old.group_id, old.peer_id, old.key_id)
    is distinct from (new.is_joined, new.management_url, new.host_name, new.subnet, new.group_id, new.peer_id, new.key_id))
  execute function nkudo.require_audit('meshHost');

do $$
declare
  relation text;
begin
  foreach relation in array array['mesh_sites', 'mesh_hosts', 'mesh_reports']
  loop
    execute format('alter table nkudo.%I enable row level security', relation);
    execute format('alter table nkudo.%I force row level security', relation);
    execute format($policy$
      create policy tenant_isolation on nkudo.%I to nkudo_app
        using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
        with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
    $policy$, relation);
    execute format('grant select, insert on nkudo.%I to nkudo_app', relation);
  end loop;
end $$;

grant update (management_url, secret_name, group_ids, changed_at) on nkudo.mesh_sites to nkudo_app;
grant update (is_joined, management_url, host_name, revision, subnet, group_id, peer_id, key_id, key_expires_at, claimed_by, claimed_until, changed_at)
  on nkudo.mesh_hosts to nkudo_app;
grant update (report, received_at) on nkudo.mesh_reports to nkudo_app;

-- Across tenants: the orders of the hosts that a replica holds, the subnets that are taken, and what changed.
create policy system_reads on nkudo.mesh_hosts for select to nkudo_system using (true);
create policy system_reads on nkudo.mesh_reports for select to nkudo_system using (true);
grant select (tenant_id, id, is_joined, management_url, host_name, revision, subnet, changed_at) on nkudo.mesh_hosts to nkudo_system;
grant select (tenant_id, id, received_at) on nkudo.mesh_reports to nkudo_system;
