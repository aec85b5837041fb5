-- Which version of the agent a host is to run, and what it says of that. The revision rises with every change of the order,
-- so that a version that failed is tried again only when somebody said so.
alter table nkudo.hosts
  add column agent_version text check (length(agent_version) between 1 and 64),
  add column agent_manifest_url text check (length(agent_manifest_url) between 1 and 2048),
  add column agent_revision bigint not null default 0 check (agent_revision between 0 and 9007199254740991),
  add column agent_report jsonb check (length(agent_report::text) <= 8192),
  add check ((agent_version is null) = (agent_manifest_url is null));
create trigger agent_rising before update on nkudo.hosts for each row
  when (new.agent_revision < old.agent_revision
    or (new.agent_revision = old.agent_revision
      and (old.agent_version, old.agent_manifest_url) is distinct from (new.agent_version, new.agent_manifest_url)))
  execute function nkudo.refuse('NK005', 'the revision of an order for an agent rises with every change');
grant update (agent_version, agent_manifest_url, agent_revision, agent_report) on nkudo.hosts to nkudo_app;
grant select (agent_version, agent_manifest_url, agent_revision) on nkudo.hosts to nkudo_system;

drop trigger audited_update on nkudo.hosts;
create constraint trigger audited_update after update on nkudo.hosts deferrable initially deferred
  for each row when ((old.name, old.object_uid, old.is_approved, old.is_unschedulable, old.reserved_cpus, old.reserved_memory_bytes, old.overcommit_cpu_percent,
      old.overcommit_memory_percent, old.quarantined_at, old.revoked_at, old.agent_version, old.agent_manifest_url)
    is distinct from (new.name, new.object_uid, new.is_approved, new.is_unschedulable, new.reserved_cpus, new.reserved_memory_bytes, new.overcommit_cpu_percent,
      new.overcommit_memory_percent, new.quarantined_at, new.revoked_at, new.agent_version, new.agent_manifest_url))
  execute function nkudo.require_audit('host');
