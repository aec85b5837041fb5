-- What the probes of a guest show; null: it has none, or does not run.
alter table nkudo.observations add column readiness jsonb check (jsonb_typeof(readiness) = 'object');
grant update (readiness) on nkudo.observations to nkudo_app;
