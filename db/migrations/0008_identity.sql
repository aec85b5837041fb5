-- Host identity complete: what is known of the claimants of one identity, which run of an agent was replaced by which,
-- and tenants, sites and microVMs whose Kubernetes objects were made anew in another cluster.

-- {reason, claims: [{id, machineId, bootId, agentInstance, address, counter}], acceptedId}. With quarantined_at: nobody
-- was accepted yet. Without it: a claimant was accepted and has not used a new certificate yet.
alter table nkudo.hosts add column quarantine jsonb;
alter table nkudo.hosts add constraint hosts_quarantine_explained check (quarantined_at is null or quarantine is null or quarantine ->> 'acceptedId' is null);

-- A run of an agent that was replaced by another one is over. When it opens a session again, two agents have copies of
-- one state directory.
alter table nkudo.host_liveness add column agent_instance text not null default '' check (length(agent_instance) <= 64);
alter table nkudo.host_liveness add column replaced_agent_instance text not null default '' check (length(replaced_agent_instance) <= 64);

grant update (quarantine) on nkudo.hosts to nkudo_app;
grant update (agent_instance, replaced_agent_instance) on nkudo.host_liveness to nkudo_app;

-- The namespace that the tenant has now, where that is not the one it was made for: set by `tenant rebind` only.
alter table nkudo.tenants add column namespace_uid uuid;
alter table nkudo.tenants add column rebound_at timestamptz;
alter table nkudo.tenants add constraint tenants_rebound check ((namespace_uid is null) = (rebound_at is null));
create unique index tenants_namespace_uid on nkudo.tenants (namespace_uid) where namespace_uid is not null;

-- UID of the Site object that stands for this row, where it is not the row's own id, and what its generations are counted
-- from: the generation of a site never goes back.
alter table nkudo.sites add column object_uid uuid;
alter table nkudo.sites add column generation_base bigint not null default 0 check (generation_base >= 0);
create unique index sites_object_uid on nkudo.sites (tenant_id, object_uid) where object_uid is not null;

-- MicroVMs that the object of another cluster adopted: which object, and what its generations are counted from, since
-- the generation of the microVM itself never goes back. A table of its own: hardly any microVM ever has a row here.
create table nkudo.adoptions (
  tenant_id uuid not null,
  -- The microVM, as its host knows it.
  id uuid not null,
  object_uid uuid not null,
  generation_base bigint not null check (generation_base >= 0),
  adopted_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, object_uid),
  foreign key (tenant_id, id) references nkudo.microvms (tenant_id, id)
);
alter table nkudo.adoptions enable row level security;
alter table nkudo.adoptions force row level security;
create policy tenant_isolation on nkudo.adoptions to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
create policy system_reads on nkudo.adoptions for select to nkudo_system using (true);
create constraint trigger audited_insert after insert on nkudo.adoptions deferrable initially deferred
  for each row execute function nkudo.require_audit('microvm');
create constraint trigger audited_update after update on nkudo.adoptions deferrable initially deferred
  for each row execute function nkudo.require_audit('microvm');
create trigger rising before update on nkudo.adoptions for each row
  when (new.generation_base < old.generation_base)
  execute function nkudo.refuse('NK005', 'the generation of a microvm never goes back');
grant select, insert on nkudo.adoptions to nkudo_app;
grant update (object_uid, generation_base, adopted_at) on nkudo.adoptions to nkudo_app;
grant select (tenant_id, id, object_uid, generation_base) on nkudo.adoptions to nkudo_system;

grant update (namespace_uid, rebound_at) on nkudo.tenants to nkudo_app;
grant update (object_uid, generation_base) on nkudo.sites to nkudo_app;
grant select (object_uid, generation_base, deleted_at) on nkudo.sites to nkudo_system;

grant select (namespace_uid, rebound_at) on nkudo.tenants to nkudo_system;
grant select (site_id, name, released_at) on nkudo.microvms to nkudo_system;

create index microvms_live_name on nkudo.microvms (tenant_id, name) where released_at is null;
