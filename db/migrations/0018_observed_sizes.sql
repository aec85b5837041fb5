-- What the running guest has; null: it does not run, or its host does not say. And whether a newer Secret awaits its restart.
alter table nkudo.observations
  add column cpu_count integer check (cpu_count between 1 and 255),
  add column memory_bytes bigint check (memory_bytes >= 0),
  add column is_secret_changed boolean not null default false;
grant update (cpu_count, memory_bytes, is_secret_changed) on nkudo.observations to nkudo_app;
