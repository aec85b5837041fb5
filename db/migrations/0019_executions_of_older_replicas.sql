-- Replicas of 0.1.0 write executions with `on conflict (tenant_id, id)`, which no table in partitions can have. So the partitions
-- are a table of another name, and the name that older replicas know is a table that takes their statements, with the key of
-- 0.1.0 and with that of 0.2.0-rc.1: what is written there is written on into the partitions at once. It holds what those replicas
-- wrote and nothing else, and goes with the release after this one.
set local role nkudo_maintenance;
alter table nkudo.executions rename to execution_records;
alter table nkudo.execution_records rename constraint executions_pkey to execution_records_pkey;

create or replace function nkudo.ensure_execution_partition(p_at timestamptz) returns boolean
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
  execute format('create table nkudo.%I partition of nkudo.execution_records for values from (%L) to (%L)',
    part, first::timestamp at time zone 'UTC', (first + interval '1 month')::timestamp at time zone 'UTC');
  execute format('alter table nkudo.%I enable row level security', part);
  execute format('alter table nkudo.%I force row level security', part);
  return true;
end $$;

set local role nkudo_owner;

create table nkudo.executions (
  tenant_id uuid not null,
  id uuid not null,
  operation_id uuid not null,
  microvm_id uuid not null,
  -- Null from replicas of 0.1.0; not looked at.
  host_id uuid,
  plan_id uuid,
  attempt integer not null check (attempt >= 1),
  status text not null check (status in ('Running', 'Succeeded', 'Failed', 'Expired', 'Dropped', 'OutcomeUnknown')),
  started_at timestamptz not null,
  finished_at timestamptz,
  error_code text check (length(error_code) <= 64),
  error_message text check (length(error_message) <= 4096),
  received_at timestamptz not null default now(),
  operation_at timestamptz,
  primary key (tenant_id, id),
  unique (tenant_id, id, operation_at),
  foreign key (tenant_id, operation_id) references nkudo.operations (tenant_id, id),
  check ((error_code is null) = (error_message is null))
);
alter table nkudo.executions enable row level security;
alter table nkudo.executions force row level security;
create policy tenant_isolation on nkudo.executions to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
grant select, insert on nkudo.executions to nkudo_app;
grant update (status, started_at, finished_at, error_code, error_message, received_at) on nkudo.executions to nkudo_app;

-- Of an attempt that another replica has recorded under another id there is nothing more to say.
create function nkudo.record_execution() returns trigger language plpgsql as $$
begin
  insert into nkudo.execution_records as x
      (tenant_id, id, operation_id, microvm_id, host_id, plan_id, attempt, status, started_at, finished_at, error_code, error_message, operation_at)
    select new.tenant_id, new.id, o.id, o.microvm_id, o.host_id, o.plan_id, new.attempt, new.status, new.started_at, new.finished_at, new.error_code, new.error_message, o.created_at
    from nkudo.operations o
    where o.tenant_id = new.tenant_id and o.id = new.operation_id and not exists (
      select from nkudo.execution_records other
      where other.tenant_id = o.tenant_id and other.operation_id = o.id and other.attempt = new.attempt and other.operation_at = o.created_at and other.id <> new.id)
  on conflict (tenant_id, id, operation_at) do update
    set status = excluded.status, started_at = excluded.started_at, finished_at = excluded.finished_at,
      error_code = excluded.error_code, error_message = excluded.error_message, received_at = now()
    where x.status = 'Running';
  return null;
end $$;
create trigger recorded after insert or update on nkudo.executions for each row execute function nkudo.record_execution();
