-- API keys as the APIKey objects ask for them, and the quota of a Site. No column ever holds the text of a key.

alter table nkudo.api_keys drop constraint api_keys_access_check;
update nkudo.api_keys set access = 'operate' where access = 'write';
alter table nkudo.api_keys add constraint api_keys_access_check check (access in ('read', 'operate', 'admin'));
alter table nkudo.api_keys
  -- Name of the one site that it is good for; null: every site of the namespace.
  add column site_name text check (length(site_name) between 1 and 253),
  -- To the hour.
  add column last_used_at timestamptz;
update nkudo.api_keys set expires_at = created_at + interval '90 days' where expires_at is null;
alter table nkudo.api_keys alter column expires_at set not null;
-- Keys name themselves by their id; their tenant is found from it.
create index api_keys_by_id on nkudo.api_keys (id);

create trigger immutable before update on nkudo.api_keys for each row
  when ((old.tenant_id, old.id, old.name, old.access, old.site_name, old.expires_at) is distinct from (new.tenant_id, new.id, new.name, new.access, new.site_name, new.expires_at)
    or (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at)
    or (old.revoked_at is not null and new.key_hash <> old.key_hash))
  execute function nkudo.refuse('NK003', 'an API key keeps what it is good for, and stays revoked');

drop trigger audited_update on nkudo.api_keys;
create constraint trigger audited_update after update on nkudo.api_keys deferrable initially deferred
  for each row when ((old.key_hash, old.revoked_at) is distinct from (new.key_hash, new.revoked_at))
  execute function nkudo.require_audit('apiKey');

grant update (key_hash, last_used_at) on nkudo.api_keys to nkudo_app;
create policy system_reads on nkudo.api_keys for select to nkudo_system using (true);
grant select (tenant_id, id, name, key_hash, access, site_name, expires_at, revoked_at, last_used_at) on nkudo.api_keys to nkudo_system;

-- {microvms, vcpus, memoryBytes, diskBytes}, each left out when there is no limit; null: no quota.
alter table nkudo.sites add column quota jsonb check (jsonb_typeof(quota) = 'object' and length(quota::text) <= 1024);
grant update (quota) on nkudo.sites to nkudo_app;
