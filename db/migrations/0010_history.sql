-- What grows with time. Executions become partitions by month, as logs are by day, so that retention drops files instead of
-- deleting rows; the maintenance role logs in, because detaching a partition without holding up anybody is a statement that
-- no function can run. Also: the order in which log rows were committed, and how far they were handed to a sink.

-- ---------------------------------------------------------------------------------------------------
-- Executions. The key of a partition is when the operation was made: that never changes, so one operation and attempt, and
-- one id, stay unique although the key is part of every unique index.
-- ---------------------------------------------------------------------------------------------------

alter table nkudo.executions rename to executions_unpartitioned;
alter table nkudo.executions_unpartitioned drop constraint executions_pkey;
drop index nkudo.executions_by_start, nkudo.executions_by_microvm;
alter table nkudo.executions_unpartitioned no force row level security;
alter table nkudo.executions_unpartitioned disable row level security;
alter table nkudo.operations no force row level security;
alter table nkudo.executions_unpartitioned add column operation_at timestamptz;
alter table nkudo.executions_unpartitioned add column host_id uuid;
alter table nkudo.executions_unpartitioned add column plan_id uuid;
update nkudo.executions_unpartitioned x set operation_at = o.created_at, host_id = o.host_id, plan_id = o.plan_id
  from nkudo.operations o where o.tenant_id = x.tenant_id and o.id = x.operation_id;
alter table nkudo.operations force row level security;
grant select on nkudo.executions_unpartitioned to nkudo_maintenance;

-- Stands for foreign keys, and like them runs after row level security: with them every new and every dropped partition would lock the tables that they point to.
create function nkudo.require_operation() returns trigger language plpgsql as $$
begin
  if not exists (
    select from nkudo.operations o
    where o.tenant_id = new.tenant_id and o.id = new.operation_id and o.microvm_id = new.microvm_id and o.host_id = new.host_id
      and o.plan_id = new.plan_id and o.created_at = new.operation_at
  ) then
    raise exception 'an execution belongs to an operation and repeats what identifies it' using errcode = '23503';
  end if;
  return new;
end $$;

set local role nkudo_maintenance;

create table nkudo.executions (
  tenant_id uuid not null,
  id uuid not null,
  operation_id uuid not null,
  microvm_id uuid not null,
  -- Of the operation, and never changed there: for lists by host and by plan.
  host_id uuid not null,
  plan_id uuid not null,
  attempt integer not null check (attempt >= 1),
  status text not null check (status in ('Running', 'Succeeded', 'Failed', 'Expired', 'Dropped', 'OutcomeUnknown')),
  started_at timestamptz not null,
  finished_at timestamptz,
  error_code text check (length(error_code) <= 64),
  error_message text check (length(error_message) <= 4096),
  received_at timestamptz not null default now(),
  operation_at timestamptz not null,
  primary key (tenant_id, id, operation_at),
  unique (tenant_id, operation_id, attempt, operation_at),
  check ((error_code is null) = (error_message is null))
) partition by range (operation_at);
create index executions_by_start on nkudo.executions (tenant_id, started_at desc, id desc);
create index executions_by_microvm on nkudo.executions (tenant_id, microvm_id, started_at desc, id desc);
create index executions_by_host on nkudo.executions (tenant_id, host_id, started_at desc, id desc);
create index executions_by_plan on nkudo.executions (tenant_id, plan_id, started_at desc, id desc);

-- Makes the partition of the month (UTC) of a time; returns whether there was none. A report on an old operation may come
-- when its month is gone already: its partition is made again and goes with the next retention.
create function nkudo.ensure_execution_partition(p_at timestamptz) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
  first date := date_trunc('month', p_at at time zone 'UTC')::date;
  part text := 'executions_' || to_char(first, 'YYYYMM');
begin
  if p_at not between timestamptz '2020-01-01Z' and now() + interval '800 days' then
    raise exception 'no executions are kept for that time' using errcode = '22023';
  end if;
  if to_regclass('nkudo.' || part) is not null then
    return false;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('nkudo.executions', 0));
  if to_regclass('nkudo.' || part) is not null then
    return false;
  end if;
  execute format('create table nkudo.%I partition of nkudo.executions for values from (%L) to (%L)',
    part, first::timestamp at time zone 'UTC', (first + interval '1 month')::timestamp at time zone 'UTC');
  execute format('alter table nkudo.%I enable row level security', part);
  execute format('alter table nkudo.%I force row level security', part);
  return true;
end $$;

-- Makes the partitions of this month and of p_months_ahead later ones; returns how many it made.
create function nkudo.ensure_execution_partitions(p_months_ahead integer) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
  made integer := 0;
begin
  if p_months_ahead not between 0 and 24 then
    raise exception 'months ahead must be 0..24' using errcode = '22023';
  end if;
  for n in 0..p_months_ahead loop
    if nkudo.ensure_execution_partition(((date_trunc('month', now() at time zone 'UTC') + make_interval(months => n)) at time zone 'UTC')) then
      made := made + 1;
    end if;
  end loop;
  return made;
end $$;

do $$
declare
  month timestamptz;
begin
  for month in select distinct date_trunc('month', operation_at at time zone 'UTC') at time zone 'UTC' from nkudo.executions_unpartitioned loop
    perform nkudo.ensure_execution_partition(month);
  end loop;
  perform nkudo.ensure_execution_partitions(3);
end $$;
insert into nkudo.executions
    (tenant_id, id, operation_id, microvm_id, host_id, plan_id, attempt, status, started_at, finished_at, error_code, error_message, received_at, operation_at)
  select tenant_id, id, operation_id, microvm_id, host_id, plan_id, attempt, status, started_at, finished_at, error_code, error_message, received_at, operation_at
  from nkudo.executions_unpartitioned;

create trigger of_operation after insert on nkudo.executions for each row execute function nkudo.require_operation();
-- An execution may first be heard of when it has ended already.
create trigger transition before update on nkudo.executions for each row
  when (old.status is distinct from new.status) execute function nkudo.enforce_transition('execution');
create trigger immutable before update on nkudo.executions for each row
  when ((old.tenant_id, old.id, old.operation_id, old.microvm_id, old.host_id, old.plan_id, old.attempt, old.operation_at)
    is distinct from (new.tenant_id, new.id, new.operation_id, new.microvm_id, new.host_id, new.plan_id, new.attempt, new.operation_at))
  execute function nkudo.refuse('NK003', 'an execution never changes its operation');

alter table nkudo.executions enable row level security;
alter table nkudo.executions force row level security;
create policy tenant_isolation on nkudo.executions to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
grant select, insert on nkudo.executions to nkudo_app;
grant update (status, started_at, finished_at, error_code, error_message, received_at) on nkudo.executions to nkudo_app;
revoke execute on function nkudo.ensure_execution_partition(timestamptz), nkudo.ensure_execution_partitions(integer) from public;
grant execute on function nkudo.ensure_execution_partition(timestamptz), nkudo.ensure_execution_partitions(integer) to nkudo_system;

-- ---------------------------------------------------------------------------------------------------
-- Logs in the order of commits, for sinks: rows of a transaction that ended before every open one are complete.
-- ---------------------------------------------------------------------------------------------------

-- Null in rows from before: no sink was there to get them, and giving them a value would rewrite every partition.
alter table nkudo.logs add column xact xid8;
alter table nkudo.logs alter column xact set default pg_current_xact_id();
create index logs_in_order on nkudo.logs (tenant_id, xact, id);
-- Which tenants have something new; what it is can only be read as that tenant.
create policy system_reads on nkudo.logs for select to nkudo_system using (true);
grant select (tenant_id, xact, id) on nkudo.logs to nkudo_system;

set local role nkudo_owner;
drop table nkudo.executions_unpartitioned;

-- How far the rows of a tenant were handed to a sink: the last row, in the order of transactions and ids.
create table nkudo.log_exports (
  tenant_id uuid not null references nkudo.tenants (tenant_id),
  sink text not null check (length(sink) between 1 and 64),
  delivered_xact xid8 not null,
  delivered_id bigint not null check (delivered_id >= 0),
  primary key (tenant_id, sink)
) with (fillfactor = 50);
alter table nkudo.log_exports enable row level security;
alter table nkudo.log_exports force row level security;
create policy tenant_isolation on nkudo.log_exports to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
create policy system_reads on nkudo.log_exports for select to nkudo_system using (true);
grant select, insert on nkudo.log_exports to nkudo_app;
grant update (delivered_xact, delivered_id) on nkudo.log_exports to nkudo_app;
grant select (tenant_id, sink, delivered_xact, delivered_id) on nkudo.log_exports to nkudo_system;

-- ---------------------------------------------------------------------------------------------------
-- Lists of plans by time and by microVM, and hosts by name also when they are revoked.
-- ---------------------------------------------------------------------------------------------------

create index plans_by_time on nkudo.plans (tenant_id, created_at desc, id desc);
create index hosts_by_name on nkudo.hosts (tenant_id, name);

-- ---------------------------------------------------------------------------------------------------
-- Readers of changes tell versions of a row apart by the transaction that wrote it.
-- ---------------------------------------------------------------------------------------------------

grant select (xmin) on nkudo.operations, nkudo.observations, nkudo.microvms, nkudo.hosts, nkudo.mesh_hosts, nkudo.mesh_reports to nkudo_system;
grant select (id) on nkudo.operations to nkudo_system;
