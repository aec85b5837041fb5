-- Plans that callers make by ApplyPlan: what they asked for, action by action, and how far each is; cancels on
-- their way to hosts. The migrator runs this file in one transaction as role nkudo_owner. Never edited once released.

alter table nkudo.plans
  -- Who made it: the reconcilers from an object, or a caller by ApplyPlan.
  add column origin text not null default 'controller' check (origin in ('controller', 'caller')),
  add column is_forced boolean not null default false,
  add column cancel_requested_at timestamptz;

create index plans_of_callers on nkudo.plans (tenant_id, created_at desc) where origin = 'caller';

create trigger immutable_origin before update on nkudo.plans for each row
  when ((old.origin, old.is_forced) is distinct from (new.origin, new.is_forced))
  execute function nkudo.refuse('NK003', 'the content of a plan never changes');

alter table nkudo.operations
  -- Set while the host has not answered a cancel.
  add column cancel_requested_at timestamptz;
create index operations_to_cancel on nkudo.operations (tenant_id, host_id) where cancel_requested_at is not null;

-- The object of a Create is in the plan's content, at the same position.
create table nkudo.plan_actions (
  tenant_id uuid not null,
  id uuid not null,
  plan_id uuid not null,
  position smallint not null check (position between 0 and 255),
  kind text not null check (kind in ('Create', 'Start', 'Stop', 'Delete')),
  name text not null check (length(name) between 1 and 253),
  -- UID of the object; of a Create once it is known.
  microvm_id uuid,
  status text not null default 'Pending'
    check (status in ('Pending', 'Writing', 'Written', 'Published', 'Succeeded', 'Failed', 'Superseded', 'Cancelled')),
  -- SHA-256 of the canonical JSON of the spec that the write makes; the plan owns the generation with that spec.
  spec_hash text check (spec_hash ~ '^[0-9a-f]{64}$'),
  generation bigint check (generation >= 0),
  -- With Stop: what a later Start puts back.
  previous_run_policy text check (length(previous_run_policy) between 1 and 32),
  operation_id uuid,
  error_code text check (length(error_code) <= 64),
  error_message text check (length(error_message) <= 4096),
  changed_at timestamptz not null default now(),
  primary key (tenant_id, id),
  unique (tenant_id, plan_id, position),
  foreign key (tenant_id, plan_id) references nkudo.plans (tenant_id, id),
  foreign key (tenant_id, operation_id) references nkudo.operations (tenant_id, id),
  check (kind = 'Create' or microvm_id is not null),
  check (status <> 'Published' or operation_id is not null),
  check ((error_code is null) = (error_message is null))
);
create index plan_actions_by_microvm on nkudo.plan_actions (tenant_id, microvm_id) where microvm_id is not null;
create index plan_actions_to_drive on nkudo.plan_actions (tenant_id, plan_id) where status in ('Pending', 'Writing', 'Written');

alter table nkudo.transitions drop constraint transitions_entity_check;
alter table nkudo.transitions add constraint transitions_entity_check check (entity in ('plan', 'operation', 'execution', 'planAction'));
-- Equal to the table in api/model/plan.ts.
insert into nkudo.transitions (entity, from_status, to_status) values
  ('planAction', 'Pending', 'Writing'), ('planAction', 'Pending', 'Succeeded'), ('planAction', 'Pending', 'Failed'),
  ('planAction', 'Pending', 'Superseded'), ('planAction', 'Pending', 'Cancelled'),
  ('planAction', 'Writing', 'Written'), ('planAction', 'Writing', 'Published'), ('planAction', 'Writing', 'Succeeded'),
  ('planAction', 'Writing', 'Failed'), ('planAction', 'Writing', 'Superseded'), ('planAction', 'Writing', 'Cancelled'),
  ('planAction', 'Written', 'Published'), ('planAction', 'Written', 'Succeeded'), ('planAction', 'Written', 'Failed'),
  ('planAction', 'Written', 'Superseded'), ('planAction', 'Written', 'Cancelled');

create trigger starts_pending before insert on nkudo.plan_actions for each row execute function nkudo.enforce_transition('planAction');
create trigger transition before update on nkudo.plan_actions for each row
  when (old.status is distinct from new.status) execute function nkudo.enforce_transition('planAction');
create trigger immutable before update on nkudo.plan_actions for each row
  when ((old.tenant_id, old.id, old.plan_id, old.position, old.kind, old.name) is distinct from (new.tenant_id, new.id, new.plan_id, new.position, new.kind, new.name)
    or (old.microvm_id is not null and old.microvm_id is distinct from new.microvm_id)
    or (old.operation_id is not null and old.operation_id is distinct from new.operation_id))
  execute function nkudo.refuse('NK003', 'what was asked for in a plan never changes');

create constraint trigger audited_insert after insert on nkudo.plan_actions deferrable initially deferred
  for each row execute function nkudo.require_audit('planAction');
create constraint trigger audited_update after update on nkudo.plan_actions deferrable initially deferred
  for each row when (old.status is distinct from new.status) execute function nkudo.require_audit('planAction');

alter table nkudo.plan_actions enable row level security;
alter table nkudo.plan_actions force row level security;
create policy tenant_isolation on nkudo.plan_actions to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
grant select, insert on nkudo.plan_actions to nkudo_app;
grant update (microvm_id, status, spec_hash, generation, previous_run_policy, operation_id, error_code, error_message, changed_at)
  on nkudo.plan_actions to nkudo_app;
grant update (cancel_requested_at) on nkudo.plans, nkudo.operations to nkudo_app;

-- The leader asks over all tenants which plans are to be driven, a gateway which of its hosts have cancels waiting.
create policy system_reads on nkudo.plan_actions for select to nkudo_system using (true);
grant select (tenant_id, plan_id, status) on nkudo.plan_actions to nkudo_system;
grant select (cancel_requested_at) on nkudo.operations to nkudo_system;
