-- A boot that was replaced by another one is over. When it opens a session again, two machines have one identity,
-- also when both have the machine-id of one image.
alter table nkudo.host_liveness add column replaced_boot_id text not null default '';
grant update (replaced_boot_id) on nkudo.host_liveness to nkudo_app;
