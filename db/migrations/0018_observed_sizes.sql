-- What the running guest has; null: it does not run, or its host does not say.
alter table nkudo.observations
  add column cpu_count integer check (cpu_count between 1 and 255),
  add column memory_bytes bigint check (memory_bytes >= 0);
grant update (cpu_count, memory_bytes) on nkudo.observations to nkudo_app;
