-- What an AgentRollout tells each host, and what became of it there. The order that a host is given is that of its object
-- when it has one, else this; the columns of nkudo.hosts hold which one it is, and its revision.
create table nkudo.agent_rollout_hosts (
  tenant_id uuid not null,
  -- Of the host.
  id uuid not null,
  -- UID of the AgentRollout that told it last.
  rollout_id uuid not null,
  ring text not null check (length(ring) between 1 and 63),
  -- Together they name one try of the rollout.
  target_version text not null check (length(target_version) between 1 and 64),
  nonce bigint not null check (nonce between 0 and 9007199254740991),
  -- What the host ran before, and is given back; empty: nothing is known of that.
  from_version text not null check (length(from_version) <= 64),
  -- What the host is to run now because of this; null: nobody says so any more.
  order_version text check (length(order_version) between 1 and 64),
  order_manifest_url text check (length(order_manifest_url) between 1 and 2048),
  state text not null check (state in ('Ordered', 'Soaking', 'Passed', 'Settled', 'Failed')),
  is_returned boolean not null default false,
  -- Why it failed.
  problem text not null default '' check (length(problem) <= 1024),
  -- How often it ceased to be healthy while it soaked.
  breaks integer not null default 0 check (breaks between 0 and 1000),
  -- When this try came into this state.
  since timestamptz not null default now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, id) references nkudo.hosts (tenant_id, id),
  check ((order_version is null) = (order_manifest_url is null))
);
alter table nkudo.agent_rollout_hosts enable row level security;
alter table nkudo.agent_rollout_hosts force row level security;
create policy tenant_isolation on nkudo.agent_rollout_hosts to nkudo_app
  using (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
grant select, insert on nkudo.agent_rollout_hosts to nkudo_app;
grant update (rollout_id, ring, target_version, nonce, from_version, order_version, order_manifest_url, state, is_returned, problem, breaks, since)
  on nkudo.agent_rollout_hosts to nkudo_app;

create constraint trigger audited_insert after insert on nkudo.agent_rollout_hosts deferrable initially deferred
  for each row execute function nkudo.require_audit('host');
create constraint trigger audited_update after update on nkudo.agent_rollout_hosts deferrable initially deferred
  for each row when ((old.rollout_id, old.target_version, old.nonce, old.order_version, old.order_manifest_url, old.state, old.is_returned)
    is distinct from (new.rollout_id, new.target_version, new.nonce, new.order_version, new.order_manifest_url, new.state, new.is_returned))
  execute function nkudo.require_audit('host');
