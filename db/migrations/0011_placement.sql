-- Placement: what a host may promise, microVMs that have to leave their host, and restarts that an update asks for.

-- In percent of what is left after the reservation; null: the default of the product (api/model/capacity.ts).
alter table nkudo.hosts
  add column overcommit_cpu_percent integer check (overcommit_cpu_percent between 100 and 1600),
  add column overcommit_memory_percent integer check (overcommit_memory_percent between 100 and 200);
grant update (overcommit_cpu_percent, overcommit_memory_percent) on nkudo.hosts to nkudo_app;

drop trigger audited_update on nkudo.hosts;
create constraint trigger audited_update after update on nkudo.hosts deferrable initially deferred
  for each row when ((old.name, old.object_uid, old.is_approved, old.is_unschedulable, old.reserved_cpus, old.reserved_memory_bytes, old.overcommit_cpu_percent,
      old.overcommit_memory_percent, old.quarantined_at, old.revoked_at)
    is distinct from (new.name, new.object_uid, new.is_approved, new.is_unschedulable, new.reserved_cpus, new.reserved_memory_bytes, new.overcommit_cpu_percent,
      new.overcommit_memory_percent, new.quarantined_at, new.revoked_at))
  execute function nkudo.require_audit('host');

-- Why the teardown on this host was ordered although the microVM goes on elsewhere. The binding is released, and with it
-- the room, only once the host confirmed it.
alter table nkudo.bindings add column leaving_reason text check (leaving_reason in ('Drain', 'HostDeletion', 'Taint', 'Preemption'));
grant update (leaving_reason) on nkudo.bindings to nkudo_app;
create trigger leaving before update on nkudo.bindings for each row
  when (old.leaving_reason is not null and new.leaving_reason is null)
  execute function nkudo.refuse('NK005', 'a microvm that was ordered off its host does not stay there');

-- How many restarts n-kudo itself asked for, to bring an update into effect: added to the nonce that the host is told.
alter table nkudo.microvms add column update_restarts bigint not null default 0 check (update_restarts between 0 and 9007199254740991);
grant update (update_restarts) on nkudo.microvms to nkudo_app;
