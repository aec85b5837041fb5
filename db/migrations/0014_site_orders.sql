-- What people at a site order for a microVM, beside and above its spec. The host reports the override that stands and each
-- order once more until it is acknowledged; every order has one audit row, with its own actor.

-- The override that stands on the host; null: none.
alter table nkudo.observations add column site_override jsonb check (jsonb_typeof(site_override) = 'object');
grant update (site_override) on nkudo.observations to nkudo_app;

-- What the leader had seen of the object when it first saw the override with that number: only a later change of the
-- spec ends it.
alter table nkudo.microvms add column site_order_noted jsonb check (jsonb_typeof(site_order_noted) = 'object');
grant update (site_order_noted) on nkudo.microvms to nkudo_app;

-- Number of the newest order of each host that has its audit row. Kept by host: one that was given up tells its orders late.
create table nkudo.site_order_cursors (
  tenant_id uuid not null,
  microvm_id uuid not null,
  host_id uuid not null,
  number bigint not null default 0 check (number between 0 and 9007199254740991),
  primary key (tenant_id, microvm_id, host_id),
  foreign key (tenant_id, microvm_id) references nkudo.microvms (tenant_id, id),
  foreign key (tenant_id, host_id) references nkudo.hosts (tenant_id, id)
);
alter table nkudo.site_order_cursors enable row level security;
alter table nkudo.site_order_cursors force row level security;
create policy tenant_isolation on nkudo.site_order_cursors to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
grant select, insert on nkudo.site_order_cursors to nkudo_app;
grant update (number) on nkudo.site_order_cursors to nkudo_app;

-- Wider than before, so rows that are there need no check.
alter table nkudo.audit_events drop constraint audit_events_actor_kind_check;
alter table nkudo.audit_events add constraint audit_events_actor_kind_check
  check (actor_kind in ('controller', 'host', 'user', 'apiKey', 'system', 'siteOperator')) not valid;
