-- The whole relational contract of the first version, in schema nkudo.
-- The migrator runs this file in one transaction as role nkudo_owner, after it made the roles and the schema.
-- Never edited once released: the migrator compares hashes and refuses. Changes go into the next file.
--
-- SQLSTATEs of our own: NK001 illegal transition, NK002 leadership lost, NK003 immutable column changed,
-- NK004 state change without an audit row, NK005 a number that must rise went back.

-- ---------------------------------------------------------------------------------------------------
-- Installation and leadership: one row each, no tenant
-- ---------------------------------------------------------------------------------------------------

create table nkudo.installation (
  singleton boolean primary key default true check (singleton),
  -- First part of every fencing epoch; rises when the database was restored or failed over.
  incarnation integer not null default 1 check (incarnation between 1 and 1048576),
  system_identifier text not null,
  timeline bigint not null,
  created_at timestamptz not null default now()
);

create table nkudo.leadership (
  singleton boolean primary key default true check (singleton),
  epoch bigint not null default 0 check (epoch >= 0),
  holder text not null default '' check (length(holder) <= 253),
  acquired_at timestamptz
);

insert into nkudo.installation (system_identifier, timeline)
  select (select system_identifier::text from pg_control_system()),
         (select timeline_id from pg_control_checkpoint());
insert into nkudo.leadership default values;

-- ---------------------------------------------------------------------------------------------------
-- Tenants, sites, hosts
-- ---------------------------------------------------------------------------------------------------

create table nkudo.tenants (
  -- UID of the Kubernetes namespace.
  tenant_id uuid primary key,
  namespace text not null check (length(namespace) between 1 and 253),
  created_at timestamptz not null default now()
);
create index tenants_by_namespace on nkudo.tenants (namespace, created_at desc);

create table nkudo.sites (
  tenant_id uuid not null references nkudo.tenants (tenant_id),
  id uuid not null,
  name text not null check (length(name) between 1 and 253),
  generation bigint not null check (generation >= 0),
  require_approval boolean not null,
  created_at timestamptz not null default now(),
  deleted_at timestamptz,
  primary key (tenant_id, id)
);
create unique index sites_live_name on nkudo.sites (tenant_id, name) where deleted_at is null;

create table nkudo.hosts (
  tenant_id uuid not null,
  id uuid not null,
  site_id uuid not null,
  name text not null check (length(name) between 1 and 253),
  object_uid uuid,
  is_approved boolean not null default false,
  is_unschedulable boolean not null default false,
  reserved_cpus integer not null default 0 check (reserved_cpus >= 0),
  reserved_memory_bytes bigint not null default 0 check (reserved_memory_bytes >= 0),
  facts jsonb not null,
  facts_revision bigint not null default 1 check (facts_revision >= 1),
  orphan_ids text[] not null default '{}',
  -- Highest renewal counter issued, and highest one that opened a session: a lower one then is a clone.
  certificate_counter bigint not null default 0 check (certificate_counter >= 0),
  certificate_counter_used bigint not null default 0 check (certificate_counter_used >= 0),
  quarantined_at timestamptz,
  revoked_at timestamptz,
  created_at timestamptz not null default now(),
  changed_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, site_id) references nkudo.sites (tenant_id, id),
  check (certificate_counter_used <= certificate_counter)
);
create unique index hosts_live_name on nkudo.hosts (tenant_id, name) where revoked_at is null;
create index hosts_by_site on nkudo.hosts (tenant_id, site_id);
create index hosts_changed on nkudo.hosts (changed_at);

-- The only table that beats touch: narrow, no index on what changes, so that updates stay in their page.
create table nkudo.host_liveness (
  tenant_id uuid not null,
  host_id uuid not null,
  session_id uuid,
  replica text check (length(replica) <= 253),
  session_changed_at timestamptz not null default now(),
  last_beat_at timestamptz,
  boot_id text not null default '',
  machine_id text not null default '',
  -- The host's right to run replaceable microVMs; granted only by a committed row.
  lease_epoch bigint check (lease_epoch >= 1),
  lease_granted_until timestamptz,
  primary key (tenant_id, host_id),
  foreign key (tenant_id, host_id) references nkudo.hosts (tenant_id, id)
) with (fillfactor = 50);

-- ---------------------------------------------------------------------------------------------------
-- Identity
-- ---------------------------------------------------------------------------------------------------

-- The key of the agent on a host. The key itself never leaves the host.
create table nkudo.agents (
  tenant_id uuid not null,
  id uuid not null,
  host_id uuid not null,
  public_key_hash bytea not null check (length(public_key_hash) = 32),
  created_at timestamptz not null default now(),
  revoked_at timestamptz,
  primary key (tenant_id, id),
  foreign key (tenant_id, host_id) references nkudo.hosts (tenant_id, id)
);
create unique index agents_live_key on nkudo.agents (public_key_hash) where revoked_at is null;
create index agents_by_host on nkudo.agents (tenant_id, host_id);

create table nkudo.certificates (
  tenant_id uuid not null,
  id uuid not null,
  host_id uuid not null,
  serial text not null unique check (serial ~ '^[0-9a-f]{1,64}$'),
  counter bigint not null check (counter >= 1),
  public_key_hash bytea not null check (length(public_key_hash) = 32),
  chain_pem text not null check (length(chain_pem) <= 65536),
  not_before timestamptz not null,
  not_after timestamptz not null,
  created_at timestamptz not null default now(),
  revoked_at timestamptz,
  primary key (tenant_id, id),
  unique (tenant_id, host_id, counter),
  foreign key (tenant_id, host_id) references nkudo.hosts (tenant_id, id),
  check (not_after > not_before)
);

create table nkudo.enrollment_tokens (
  tenant_id uuid not null,
  id uuid not null,
  site_id uuid not null,
  secret_hash bytea not null unique check (length(secret_hash) = 32),
  host_name text check (length(host_name) between 1 and 253),
  expires_at timestamptz not null,
  created_at timestamptz not null default now(),
  revoked_at timestamptz,
  used_at timestamptz,
  used_by_host_id uuid,
  used_certificate_id uuid,
  primary key (tenant_id, id),
  foreign key (tenant_id, site_id) references nkudo.sites (tenant_id, id),
  foreign key (tenant_id, used_by_host_id) references nkudo.hosts (tenant_id, id),
  foreign key (tenant_id, used_certificate_id) references nkudo.certificates (tenant_id, id),
  check ((used_at is null) = (used_by_host_id is null)),
  check ((used_at is null) = (used_certificate_id is null))
);

create table nkudo.api_keys (
  tenant_id uuid not null references nkudo.tenants (tenant_id),
  id uuid not null,
  name text not null check (length(name) between 1 and 253),
  key_hash bytea not null check (length(key_hash) = 32),
  access text not null check (access in ('read', 'write', 'admin')),
  expires_at timestamptz,
  created_at timestamptz not null default now(),
  revoked_at timestamptz,
  primary key (tenant_id, id),
  unique (tenant_id, key_hash)
);
create unique index api_keys_live_name on nkudo.api_keys (tenant_id, name) where revoked_at is null;

-- ---------------------------------------------------------------------------------------------------
-- MicroVMs and bindings
-- ---------------------------------------------------------------------------------------------------

create table nkudo.microvms (
  tenant_id uuid not null,
  -- UID of the MicroVM object.
  id uuid not null,
  site_id uuid not null,
  name text not null check (length(name) between 1 and 253),
  generation bigint not null check (generation >= 0),
  -- Null once a deletion was published.
  desired jsonb,
  is_deleting boolean not null default false,
  torn_down_at timestamptz,
  tombstoned_at timestamptz,
  released_at timestamptz,
  created_at timestamptz not null default now(),
  changed_at timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, site_id) references nkudo.sites (tenant_id, id),
  check (is_deleting or desired is not null),
  check (is_deleting or (torn_down_at is null and tombstoned_at is null and released_at is null)),
  check (released_at is null or torn_down_at is not null or tombstoned_at is not null)
);
create index microvms_by_site on nkudo.microvms (tenant_id, site_id) where released_at is null;
create index microvms_changed on nkudo.microvms (changed_at);

-- Highest epoch and revision that were issued here or reported by a host, also for a UID whose row was lost in a
-- restore. Its row lock orders the publishers of one microVM.
create table nkudo.microvm_counters (
  tenant_id uuid not null references nkudo.tenants (tenant_id),
  microvm_id uuid not null,
  epoch bigint not null default 0 check (epoch between 0 and 9007199254740991),
  revision bigint not null default 0 check (revision between 0 and 9007199254740991),
  primary key (tenant_id, microvm_id)
) with (fillfactor = 70);

create table nkudo.bindings (
  tenant_id uuid not null,
  microvm_id uuid not null,
  epoch bigint not null check (epoch between 4294967297 and 9007199254740991),
  host_id uuid not null,
  cpu_count integer not null check (cpu_count >= 0),
  memory_bytes bigint not null check (memory_bytes >= 0),
  bound_at timestamptz not null default now(),
  released_at timestamptz,
  primary key (tenant_id, microvm_id, epoch),
  foreign key (tenant_id, microvm_id) references nkudo.microvms (tenant_id, id),
  foreign key (tenant_id, host_id) references nkudo.hosts (tenant_id, id)
);
-- Never two: one live binding for each microVM.
create unique index bindings_live on nkudo.bindings (tenant_id, microvm_id) where released_at is null;
create index bindings_live_by_host on nkudo.bindings (tenant_id, host_id) where released_at is null;

-- ---------------------------------------------------------------------------------------------------
-- Plans, operations, executions, observations
-- ---------------------------------------------------------------------------------------------------

-- The only allowed changes of status; equal to the tables in api/model/plan.ts.
create table nkudo.transitions (
  entity text not null check (entity in ('plan', 'operation', 'execution')),
  from_status text not null,
  to_status text not null,
  primary key (entity, from_status, to_status)
);
insert into nkudo.transitions (entity, from_status, to_status) values
  ('operation', 'Pending', 'Dispatched'), ('operation', 'Pending', 'Superseded'), ('operation', 'Pending', 'Cancelled'),
  ('operation', 'Pending', 'Expired'), ('operation', 'Pending', 'Failed'),
  ('operation', 'Dispatched', 'Running'), ('operation', 'Dispatched', 'Succeeded'), ('operation', 'Dispatched', 'Failed'),
  ('operation', 'Dispatched', 'Superseded'), ('operation', 'Dispatched', 'Cancelled'), ('operation', 'Dispatched', 'Expired'),
  ('operation', 'Running', 'Succeeded'), ('operation', 'Running', 'Failed'), ('operation', 'Running', 'Superseded'),
  ('operation', 'Running', 'Cancelled'), ('operation', 'Running', 'Expired'),
  ('execution', 'Running', 'Succeeded'), ('execution', 'Running', 'Failed'), ('execution', 'Running', 'Expired'),
  ('execution', 'Running', 'Dropped'), ('execution', 'Running', 'OutcomeUnknown');
insert into nkudo.transitions (entity, from_status, to_status)
  select 'plan', from_status, to_status from nkudo.transitions where entity = 'operation'
  union all values ('plan', 'Pending', 'Running'), ('plan', 'Pending', 'Succeeded');

create table nkudo.plans (
  tenant_id uuid not null,
  id uuid not null,
  site_id uuid not null,
  idempotency_key text not null check (length(idempotency_key) between 1 and 512),
  content jsonb not null,
  -- SHA-256 in hexadecimal over canonical JSON, as hash_version says.
  content_hash text not null check (content_hash ~ '^[0-9a-f]{64}$'),
  hash_version smallint not null check (hash_version >= 1),
  revision bigint not null check (revision >= 1),
  status text not null default 'Pending'
    check (status in ('Pending', 'Dispatched', 'Running', 'Succeeded', 'Failed', 'Superseded', 'Cancelled', 'Expired')),
  created_at timestamptz not null default now(),
  finished_at timestamptz,
  primary key (tenant_id, id),
  unique (tenant_id, idempotency_key),
  foreign key (tenant_id, site_id) references nkudo.sites (tenant_id, id)
);

create table nkudo.operations (
  tenant_id uuid not null,
  id uuid not null,
  plan_id uuid not null,
  microvm_id uuid not null,
  host_id uuid not null,
  kind text not null check (kind in ('Create', 'Update', 'Start', 'Stop', 'Pause', 'Resume', 'Restart', 'Delete')),
  epoch bigint not null check (epoch between 4294967297 and 9007199254740991),
  revision bigint not null check (revision >= 1),
  generation bigint not null check (generation >= 0),
  try_number integer not null check (try_number >= 1),
  desired jsonb,
  start_within_ms bigint check (start_within_ms >= 0),
  status text not null default 'Pending'
    check (status in ('Pending', 'Dispatched', 'Running', 'Succeeded', 'Failed', 'Superseded', 'Cancelled', 'Expired')),
  error_code text check (length(error_code) <= 64),
  error_message text check (length(error_message) <= 4096),
  dispatched_session_id uuid,
  created_at timestamptz not null default now(),
  dispatched_at timestamptz,
  finished_at timestamptz,
  changed_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, microvm_id, revision),
  foreign key (tenant_id, plan_id) references nkudo.plans (tenant_id, id),
  foreign key (tenant_id, microvm_id) references nkudo.microvms (tenant_id, id),
  foreign key (tenant_id, host_id) references nkudo.hosts (tenant_id, id),
  foreign key (tenant_id, microvm_id, epoch) references nkudo.bindings (tenant_id, microvm_id, epoch),
  check ((kind = 'Delete') = (desired is null)),
  check ((error_code is null) = (error_message is null))
);
create index operations_by_plan on nkudo.operations (tenant_id, plan_id);
create index operations_to_claim on nkudo.operations (tenant_id, host_id, revision) where status in ('Pending', 'Dispatched');
create index operations_pending on nkudo.operations (tenant_id, host_id) where status = 'Pending';
create index operations_open on nkudo.operations (tenant_id, microvm_id) where status in ('Pending', 'Dispatched', 'Running');
create index operations_changed on nkudo.operations (changed_at);

create table nkudo.executions (
  tenant_id uuid not null,
  id uuid not null,
  operation_id uuid not null,
  microvm_id uuid not null,
  attempt integer not null check (attempt >= 1),
  status text not null check (status in ('Running', 'Succeeded', 'Failed', 'Expired', 'Dropped', 'OutcomeUnknown')),
  started_at timestamptz not null,
  finished_at timestamptz,
  error_code text check (length(error_code) <= 64),
  error_message text check (length(error_message) <= 4096),
  received_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, operation_id, attempt),
  foreign key (tenant_id, operation_id) references nkudo.operations (tenant_id, id),
  foreign key (tenant_id, microvm_id) references nkudo.microvms (tenant_id, id),
  check ((error_code is null) = (error_message is null))
);
create index executions_by_start on nkudo.executions (tenant_id, started_at desc, id desc);
create index executions_by_microvm on nkudo.executions (tenant_id, microvm_id, started_at desc, id desc);

-- The last report on each microVM.
create table nkudo.observations (
  tenant_id uuid not null,
  microvm_id uuid not null,
  host_id uuid not null,
  epoch bigint not null check (epoch between 4294967297 and 9007199254740991),
  revision bigint not null check (revision >= 0),
  generation bigint not null check (generation >= 0),
  sequence bigint not null check (sequence >= 0),
  state text not null check (state in
    ('absent', 'preparing', 'booting', 'running', 'paused', 'stopping', 'stopped', 'backoff', 'failed', 'removing', 'unknown')),
  observed_at timestamptz not null,
  booted_at timestamptz,
  restarts bigint not null check (restarts >= 0),
  is_crash_looping boolean not null,
  is_restart_required boolean not null,
  last_exit jsonb,
  problem jsonb,
  received_at timestamptz not null default now(),
  primary key (tenant_id, microvm_id),
  foreign key (tenant_id, microvm_id) references nkudo.microvms (tenant_id, id),
  foreign key (tenant_id, host_id) references nkudo.hosts (tenant_id, id)
);
create index observations_received on nkudo.observations (received_at);

-- ---------------------------------------------------------------------------------------------------
-- Audit. Append-only by grant: nobody but the owner may update or delete, and the owner has no login.
-- The row's transaction is recorded by the server, so that a deferred trigger can ask for it at COMMIT and
-- the chain can follow the order of commits. Tenant 0000… is the installation itself.
-- ---------------------------------------------------------------------------------------------------

create table nkudo.audit_events (
  tenant_id uuid not null,
  id bigint generated always as identity,
  xact xid8 not null default pg_current_xact_id(),
  at timestamptz not null default clock_timestamp(),
  actor_kind text not null check (actor_kind in ('controller', 'host', 'user', 'apiKey', 'system')),
  actor_name text not null check (length(actor_name) between 1 and 253),
  actor_from text not null check (length(actor_from) <= 64),
  action text not null check (length(action) between 1 and 64),
  subject_kind text not null check (length(subject_kind) between 1 and 32),
  subject_id uuid not null,
  before_hash text check (before_hash ~ '^[0-9a-f]{64}$'),
  after_hash text check (after_hash ~ '^[0-9a-f]{64}$'),
  primary key (tenant_id, id)
);
create index audit_events_by_xact on nkudo.audit_events (tenant_id, xact);

-- Filled by the chainer, in order of commit.
create table nkudo.audit_links (
  tenant_id uuid not null,
  position bigint not null check (position >= 1),
  event_id bigint not null,
  previous_hash bytea not null check (length(previous_hash) = 32),
  hash bytea not null check (length(hash) = 32),
  primary key (tenant_id, position),
  unique (tenant_id, event_id),
  foreign key (tenant_id, event_id) references nkudo.audit_events (tenant_id, id)
);

create table nkudo.audit_checkpoints (
  tenant_id uuid not null,
  position bigint not null check (position >= 1),
  root bytea not null check (length(root) = 32),
  signature bytea not null check (length(signature) between 1 and 1024),
  key_id text not null check (length(key_id) between 1 and 128),
  made_at timestamptz not null default now(),
  primary key (tenant_id, position),
  foreign key (tenant_id, position) references nkudo.audit_links (tenant_id, position)
);

-- ---------------------------------------------------------------------------------------------------
-- Logs. Exactly once comes from the cursor, which is locked and advanced in the transaction that inserts.
-- ---------------------------------------------------------------------------------------------------

create table nkudo.log_cursors (
  tenant_id uuid not null,
  microvm_id uuid not null,
  source text not null check (source in ('serial', 'vmm')),
  incarnation bigint not null check (incarnation >= 0),
  next_offset bigint not null check (next_offset >= 0),
  primary key (tenant_id, microvm_id, source, incarnation),
  foreign key (tenant_id, microvm_id) references nkudo.microvms (tenant_id, id)
) with (fillfactor = 50);

-- Partitions are made and dropped by functions that run as nkudo_maintenance, which therefore owns this table.
-- There is no default partition: it would make every new partition scan it.
set local role nkudo_maintenance;

create sequence nkudo.log_ids as bigint;

create table nkudo.logs (
  tenant_id uuid not null,
  microvm_id uuid not null,
  id bigint not null default nextval('nkudo.log_ids'),
  source text not null check (source in ('serial', 'vmm')),
  incarnation bigint not null check (incarnation >= 0),
  byte_offset bigint not null check (byte_offset >= 0),
  gap_bytes bigint not null check (gap_bytes >= 0),
  data bytea not null check (length(data) <= 1048576),
  received_at timestamptz not null default now(),
  primary key (tenant_id, microvm_id, source, id, received_at)
) partition by range (received_at);

-- Makes the daily partitions (UTC) from today to p_days_ahead days later; returns how many it made.
create function nkudo.ensure_log_partitions(p_days_ahead integer) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  today date := (now() at time zone 'UTC')::date;
  made integer := 0;
  day date;
  part text;
begin
  if p_days_ahead not between 0 and 400 then
    raise exception 'days ahead must be 0..400' using errcode = '22023';
  end if;
  -- Looked for first without a lock, so that a call with nothing to do writes nothing.
  for day in select today + n from generate_series(0, p_days_ahead) n loop
    part := 'logs_' || to_char(day, 'YYYYMMDD');
    if to_regclass('nkudo.' || part) is null then
      perform pg_advisory_xact_lock(hashtextextended('nkudo.logs', 0));
      if to_regclass('nkudo.' || part) is null then
        execute format('create table nkudo.%I partition of nkudo.logs for values from (%L) to (%L)',
          part, day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC');
        execute format('alter table nkudo.%I enable row level security', part);
        execute format('alter table nkudo.%I force row level security', part);
        made := made + 1;
      end if;
    end if;
  end loop;
  return made;
end $$;

-- Drops the partitions whose whole day lies more than p_keep_days days back; returns how many it dropped.
create function nkudo.drop_log_partitions(p_keep_days integer) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  oldest date := (now() at time zone 'UTC')::date - p_keep_days;
  dropped integer := 0;
  part text;
begin
  if p_keep_days not between 1 and 4000 then
    raise exception 'days to keep must be 1..4000' using errcode = '22023';
  end if;
  for part in
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'nkudo.logs'::regclass and c.relname ~ '^logs_[0-9]{8}$'
      and to_date(substr(c.relname, 6), 'YYYYMMDD') < oldest
    order by c.relname
  loop
    execute format('drop table nkudo.%I', part);
    dropped := dropped + 1;
  end loop;
  return dropped;
end $$;

alter table nkudo.logs enable row level security;
alter table nkudo.logs force row level security;
create policy tenant_isolation on nkudo.logs to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
grant select on nkudo.logs to nkudo_app;
grant insert (tenant_id, microvm_id, source, incarnation, byte_offset, gap_bytes, data) on nkudo.logs to nkudo_app;
grant usage on sequence nkudo.log_ids to nkudo_app;
revoke execute on function nkudo.ensure_log_partitions(integer), nkudo.drop_log_partitions(integer) from public;
grant execute on function nkudo.ensure_log_partitions(integer), nkudo.drop_log_partitions(integer) to nkudo_system;

set local role nkudo_owner;

-- ---------------------------------------------------------------------------------------------------
-- Rules that hold whoever writes
-- ---------------------------------------------------------------------------------------------------

create function nkudo.enforce_transition() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    if new.status <> 'Pending' then
      raise exception '% must start as Pending', tg_argv[0] using errcode = 'NK001';
    end if;
  elsif not exists (
    select from nkudo.transitions t
    where t.entity = tg_argv[0] and t.from_status = old.status and t.to_status = new.status
  ) then
    raise exception '% can not go from % to %', tg_argv[0], old.status, new.status using errcode = 'NK001';
  end if;
  return new;
end $$;

create trigger starts_pending before insert on nkudo.plans for each row execute function nkudo.enforce_transition('plan');
create trigger transition before update on nkudo.plans for each row
  when (old.status is distinct from new.status) execute function nkudo.enforce_transition('plan');
create trigger starts_pending before insert on nkudo.operations for each row execute function nkudo.enforce_transition('operation');
create trigger transition before update on nkudo.operations for each row
  when (old.status is distinct from new.status) execute function nkudo.enforce_transition('operation');
-- An execution may first be heard of when it has ended already.
create trigger transition before update on nkudo.executions for each row
  when (old.status is distinct from new.status) execute function nkudo.enforce_transition('execution');

-- Refuses what the WHEN of its trigger found. Arguments: SQLSTATE, sentence.
create function nkudo.refuse() returns trigger language plpgsql as $$
begin
  raise exception '%', tg_argv[1] using errcode = tg_argv[0];
end $$;

create trigger immutable before update on nkudo.plans for each row
  when ((old.tenant_id, old.id, old.site_id, old.idempotency_key, old.content, old.content_hash, old.hash_version, old.revision, old.created_at)
    is distinct from
    (new.tenant_id, new.id, new.site_id, new.idempotency_key, new.content, new.content_hash, new.hash_version, new.revision, new.created_at))
  execute function nkudo.refuse('NK003', 'the content of a plan never changes');
create trigger immutable before update on nkudo.operations for each row
  when ((old.tenant_id, old.id, old.plan_id, old.microvm_id, old.host_id, old.kind, old.epoch, old.revision, old.generation, old.try_number, old.desired, old.start_within_ms)
    is distinct from
    (new.tenant_id, new.id, new.plan_id, new.microvm_id, new.host_id, new.kind, new.epoch, new.revision, new.generation, new.try_number, new.desired, new.start_within_ms))
  execute function nkudo.refuse('NK003', 'the content of an operation never changes');
create trigger immutable before update on nkudo.executions for each row
  when ((old.tenant_id, old.id, old.operation_id, old.microvm_id, old.attempt)
    is distinct from (new.tenant_id, new.id, new.operation_id, new.microvm_id, new.attempt))
  execute function nkudo.refuse('NK003', 'an execution never changes its operation');
create trigger immutable before update on nkudo.bindings for each row
  when ((old.tenant_id, old.microvm_id, old.epoch, old.host_id) is distinct from (new.tenant_id, new.microvm_id, new.epoch, new.host_id)
    or (old.released_at is not null and old.released_at is distinct from new.released_at))
  execute function nkudo.refuse('NK003', 'a binding keeps its host and epoch, and a released one stays released');
create trigger immutable before update on nkudo.certificates for each row
  when ((old.tenant_id, old.id, old.host_id, old.serial, old.counter, old.public_key_hash, old.chain_pem, old.not_before, old.not_after)
    is distinct from (new.tenant_id, new.id, new.host_id, new.serial, new.counter, new.public_key_hash, new.chain_pem, new.not_before, new.not_after)
    or (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at))
  execute function nkudo.refuse('NK003', 'a certificate never changes, and a revoked one stays revoked');
create trigger immutable before update on nkudo.enrollment_tokens for each row
  when (old.used_at is not null and
    (old.secret_hash, old.site_id, old.used_at, old.used_by_host_id, old.used_certificate_id)
      is distinct from (new.secret_hash, new.site_id, new.used_at, new.used_by_host_id, new.used_certificate_id))
  execute function nkudo.refuse('NK003', 'a used enrollment token never changes');
create trigger immutable before update on nkudo.hosts for each row
  when ((old.tenant_id, old.id, old.site_id) is distinct from (new.tenant_id, new.id, new.site_id)
    or (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at))
  execute function nkudo.refuse('NK003', 'a host keeps its site, and a revoked one stays revoked');

create trigger rising before update on nkudo.microvms for each row
  when (new.generation < old.generation or (old.is_deleting and not new.is_deleting)
    or (old.tombstoned_at is not null and new.tombstoned_at is null))
  execute function nkudo.refuse('NK005', 'the generation of a microvm never goes back, and a deletion is never taken back');
create trigger rising before update on nkudo.microvm_counters for each row
  when (new.epoch < old.epoch or new.revision < old.revision)
  execute function nkudo.refuse('NK005', 'epoch and revision of a microvm never go back');
create trigger rising before update on nkudo.sites for each row
  when (new.generation < old.generation)
  execute function nkudo.refuse('NK005', 'the generation of a site never goes back');
create trigger rising before update on nkudo.hosts for each row
  when (new.facts_revision < old.facts_revision or new.certificate_counter < old.certificate_counter
    or new.certificate_counter_used < old.certificate_counter_used)
  execute function nkudo.refuse('NK005', 'counters of a host never go back');
create trigger rising before update on nkudo.observations for each row
  when (new.epoch < old.epoch or (new.epoch = old.epoch and new.sequence <= old.sequence))
  execute function nkudo.refuse('NK005', 'an older observation never replaces a newer one');
create trigger rising before update on nkudo.log_cursors for each row
  when (new.next_offset < old.next_offset)
  execute function nkudo.refuse('NK005', 'a log cursor never goes back');
create trigger rising before update on nkudo.leadership for each row
  when (new.epoch <= old.epoch)
  execute function nkudo.refuse('NK005', 'the leadership epoch always rises');
create trigger rising before update on nkudo.installation for each row
  when (new.incarnation < old.incarnation)
  execute function nkudo.refuse('NK005', 'the incarnation never goes back');

-- Fails the COMMIT of a state change that has no audit row of the same transaction. Argument: subject kind.
create function nkudo.require_audit() returns trigger language plpgsql as $$
declare
  subject uuid;
begin
  if tg_argv[0] = 'binding' then
    subject := new.microvm_id;
  elsif tg_argv[0] = 'tenant' then
    subject := new.tenant_id;
  else
    subject := new.id;
  end if;
  if not exists (
    select from nkudo.audit_events e
    where e.tenant_id = new.tenant_id and e.xact = pg_current_xact_id()
      and e.subject_kind = tg_argv[0] and e.subject_id = subject
  ) then
    raise exception 'a change of a % needs an audit row in the same transaction', tg_argv[0] using errcode = 'NK004';
  end if;
  return null;
end $$;

do $$
declare
  rule record;
begin
  for rule in
    select * from (values
      ('tenants', 'tenant', 'true'),
      ('sites', 'site', 'true'),
      ('hosts', 'host', '(old.name, old.object_uid, old.is_approved, old.is_unschedulable, old.reserved_cpus, old.reserved_memory_bytes, old.quarantined_at, old.revoked_at) is distinct from (new.name, new.object_uid, new.is_approved, new.is_unschedulable, new.reserved_cpus, new.reserved_memory_bytes, new.quarantined_at, new.revoked_at)'),
      ('agents', 'agent', 'true'),
      ('certificates', 'certificate', 'true'),
      ('enrollment_tokens', 'enrollmentToken', 'true'),
      ('api_keys', 'apiKey', 'true'),
      ('microvms', 'microvm', '(old.name, old.site_id, old.generation, old.desired, old.is_deleting, old.torn_down_at, old.tombstoned_at, old.released_at) is distinct from (new.name, new.site_id, new.generation, new.desired, new.is_deleting, new.torn_down_at, new.tombstoned_at, new.released_at)'),
      ('bindings', 'binding', 'true'),
      ('plans', 'plan', 'old.status is distinct from new.status'),
      ('operations', 'operation', 'old.status is distinct from new.status')
    ) as r (relation, subject, on_update)
  loop
    execute format('create constraint trigger audited_insert after insert on nkudo.%I deferrable initially deferred for each row execute function nkudo.require_audit(%L)', rule.relation, rule.subject);
    execute format('create constraint trigger audited_update after update on nkudo.%I deferrable initially deferred for each row when (%s) execute function nkudo.require_audit(%L)', rule.relation, rule.on_update, rule.subject);
  end loop;
end $$;

-- First statement of every transaction of a leader: holds the row until the end, so that a new leader waits for
-- it, and refuses when the caller does not lead any more. Returns the incarnation.
create function nkudo.assert_leader(p_epoch bigint) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  held bigint;
begin
  select epoch into strict held from nkudo.leadership for share;
  if held <> p_epoch then
    raise exception 'leadership epoch % is not %', p_epoch, held using errcode = 'NK002';
  end if;
  return (select incarnation from nkudo.installation);
end $$;
revoke execute on function nkudo.assert_leader(bigint) from public;
grant execute on function nkudo.assert_leader(bigint) to nkudo_app;

-- ---------------------------------------------------------------------------------------------------
-- Row level security and grants
-- ---------------------------------------------------------------------------------------------------

do $$
declare
  relation text;
begin
  foreach relation in array array['tenants', 'sites', 'hosts', 'host_liveness', 'agents', 'certificates', 'enrollment_tokens',
    'api_keys', 'microvms', 'microvm_counters', 'bindings', 'plans', 'operations', 'executions', 'observations',
    'audit_events', 'audit_links', 'audit_checkpoints', 'log_cursors']
  loop
    execute format('alter table nkudo.%I enable row level security', relation);
    execute format('alter table nkudo.%I force row level security', relation);
    execute format($policy$
      create policy tenant_isolation on nkudo.%I to nkudo_app
        using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
        with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
    $policy$, relation);
    execute format('grant select on nkudo.%I to nkudo_app', relation);
  end loop;
end $$;

grant usage on schema nkudo to nkudo_app, nkudo_system, nkudo_maintenance;
grant select on nkudo.transitions to nkudo_app, nkudo_system;
grant select on nkudo.installation, nkudo.leadership to nkudo_app, nkudo_system;

grant insert on nkudo.tenants, nkudo.sites, nkudo.hosts, nkudo.host_liveness, nkudo.agents, nkudo.certificates,
  nkudo.enrollment_tokens, nkudo.api_keys, nkudo.microvms, nkudo.microvm_counters, nkudo.bindings, nkudo.plans,
  nkudo.operations, nkudo.executions, nkudo.observations, nkudo.log_cursors to nkudo_app;
-- The server fills id, xact and time.
grant insert (tenant_id, actor_kind, actor_name, actor_from, action, subject_kind, subject_id, before_hash, after_hash)
  on nkudo.audit_events to nkudo_app;

grant update (namespace) on nkudo.tenants to nkudo_app;
grant update (name, generation, require_approval, deleted_at) on nkudo.sites to nkudo_app;
grant update (object_uid, is_approved, is_unschedulable, reserved_cpus, reserved_memory_bytes, facts, facts_revision, orphan_ids,
  certificate_counter, certificate_counter_used, quarantined_at, revoked_at, changed_at) on nkudo.hosts to nkudo_app;
grant update (session_id, replica, session_changed_at, last_beat_at, boot_id, machine_id, lease_epoch, lease_granted_until)
  on nkudo.host_liveness to nkudo_app;
grant update (revoked_at) on nkudo.agents, nkudo.certificates, nkudo.api_keys to nkudo_app;
grant update (site_id, secret_hash, host_name, expires_at, revoked_at, used_at, used_by_host_id, used_certificate_id)
  on nkudo.enrollment_tokens to nkudo_app;
grant update (name, generation, desired, is_deleting, torn_down_at, tombstoned_at, released_at, changed_at) on nkudo.microvms to nkudo_app;
grant update (epoch, revision) on nkudo.microvm_counters to nkudo_app;
grant update (cpu_count, memory_bytes, released_at) on nkudo.bindings to nkudo_app;
grant update (status, finished_at) on nkudo.plans to nkudo_app;
grant update (status, error_code, error_message, dispatched_session_id, dispatched_at, finished_at, changed_at)
  on nkudo.operations to nkudo_app;
grant update (status, started_at, finished_at, error_code, error_message, received_at) on nkudo.executions to nkudo_app;
grant update (host_id, epoch, revision, generation, sequence, state, observed_at, booted_at, restarts, is_crash_looping, is_restart_required,
  last_exit, problem, received_at) on nkudo.observations to nkudo_app;
grant update (next_offset) on nkudo.log_cursors to nkudo_app;

-- The cross-tenant role: exactly the columns that work across tenants needs, each table with a policy of its own.
create policy system_reads on nkudo.tenants for select to nkudo_system using (true);
create policy system_reads on nkudo.sites for select to nkudo_system using (true);
create policy system_reads on nkudo.hosts for select to nkudo_system using (true);
create policy system_reads on nkudo.host_liveness for select to nkudo_system using (true);
create policy system_beats on nkudo.host_liveness for update to nkudo_system using (true) with check (true);
create policy system_reads on nkudo.certificates for select to nkudo_system using (true);
create policy system_reads on nkudo.enrollment_tokens for select to nkudo_system using (true);
create policy system_reads on nkudo.microvms for select to nkudo_system using (true);
create policy system_reads on nkudo.operations for select to nkudo_system using (true);
create policy system_reads on nkudo.observations for select to nkudo_system using (true);
create policy system_appends on nkudo.audit_events for insert to nkudo_system
  with check (tenant_id = '00000000-0000-0000-0000-000000000000');

grant select (tenant_id, namespace, created_at) on nkudo.tenants to nkudo_system;
grant select (tenant_id, id, name, require_approval) on nkudo.sites to nkudo_system;
grant select (tenant_id, id, site_id, name, is_approved, quarantined_at, revoked_at, changed_at) on nkudo.hosts to nkudo_system;
grant select (tenant_id, host_id, session_id, replica, session_changed_at, last_beat_at) on nkudo.host_liveness to nkudo_system;
grant update (last_beat_at) on nkudo.host_liveness to nkudo_system;
grant select (tenant_id, host_id, serial, counter, revoked_at) on nkudo.certificates to nkudo_system;
grant select (tenant_id, id, secret_hash) on nkudo.enrollment_tokens to nkudo_system;
grant select (tenant_id, id, changed_at) on nkudo.microvms to nkudo_system;
grant select (tenant_id, host_id, microvm_id, status, changed_at) on nkudo.operations to nkudo_system;
grant select (tenant_id, microvm_id, received_at) on nkudo.observations to nkudo_system;
grant update (epoch, holder, acquired_at) on nkudo.leadership to nkudo_system;
grant update (incarnation, system_identifier, timeline) on nkudo.installation to nkudo_system;
grant insert (tenant_id, actor_kind, actor_name, actor_from, action, subject_kind, subject_id, before_hash, after_hash)
  on nkudo.audit_events to nkudo_system;
