-- Recovery after a restore or a failover with a loss: what tells that this database is older than the hosts, which
-- hosts have reported since, and what they see that is not bound to them here.

-- Incarnation under which the host last told what it knows; below that of the installation its site waits for it.
alter table nkudo.hosts add column recovered_incarnation integer not null default 1 check (recovered_incarnation >= 1);
-- MicroVMs of the host's journal that are not bound to it here: [{"microvmId", "epoch", "revision", "isLive"}].
alter table nkudo.hosts add column sightings jsonb not null default '[]' check (jsonb_typeof(sightings) = 'array');
create index hosts_by_recovered on nkudo.hosts (recovered_incarnation) where revoked_at is null;
create index hosts_with_sightings on nkudo.hosts (tenant_id) where sightings <> '[]';

grant update (recovered_incarnation, sightings) on nkudo.hosts to nkudo_app;
grant select (recovered_incarnation, sightings) on nkudo.hosts to nkudo_system;

-- A host that enrolls now knows nothing from before.
create function nkudo.begin_recovered() returns trigger language plpgsql as $$
begin
  new.recovered_incarnation := (select incarnation from nkudo.installation);
  return new;
end $$;
create trigger begins_recovered before insert on nkudo.hosts for each row execute function nkudo.begin_recovered();

create trigger recovers before update on nkudo.hosts for each row
  when (new.recovered_incarnation < old.recovered_incarnation)
  execute function nkudo.refuse('NK005', 'a host never reports for an older incarnation');

-- How far this database has come: everything in it rises, unless an older copy took its place. The timeline is the one
-- that is written now; the control file shows a new one only after its first checkpoint.
create function nkudo.database_position()
returns table (incarnation integer, epoch bigint, kept_system_identifier text, kept_timeline bigint,
  system_identifier text, timeline bigint, audit_id bigint, flushed_lsn bigint, inserted_lsn bigint)
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select i.incarnation, l.epoch, i.system_identifier, i.timeline,
    (select s.system_identifier::text from pg_control_system() s),
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint,
    (select case when q.is_called then q.last_value else 0 end from nkudo.audit_events_id_seq q),
    (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint,
    (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint
  from nkudo.installation i, nkudo.leadership l
$$;
revoke execute on function nkudo.database_position() from public;
grant execute on function nkudo.database_position() to nkudo_system;

-- As assert_leader, and refuses also when the database is behind what the caller has seen committed: a restore of the
-- same leadership leaves the epoch as it was. Gives how far the audit has come.
create function nkudo.assert_leader_since(p_epoch bigint, p_audit_id bigint)
returns table (incarnation integer, audit_id bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  held bigint;
begin
  select l.epoch into strict held from nkudo.leadership l for share;
  if held <> p_epoch then
    raise exception 'leadership epoch % is not %', p_epoch, held using errcode = 'NK002';
  end if;
  select case when q.is_called then q.last_value else 0 end into audit_id from nkudo.audit_events_id_seq q;
  if audit_id < p_audit_id then
    raise exception 'the database is older than what was committed before' using errcode = 'NK002';
  end if;
  select i.incarnation into incarnation from nkudo.installation i;
  return next;
end $$;
revoke execute on function nkudo.assert_leader_since(bigint, bigint) from public;
grant execute on function nkudo.assert_leader_since(bigint, bigint) to nkudo_app;

-- For `nkudo-controller doctor`, which runs under the program's own roles.
create function nkudo.applied_migrations() returns table (name text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select m.name from nkudo.migrations m order by m.name
$$;
revoke execute on function nkudo.applied_migrations() from public;
grant execute on function nkudo.applied_migrations() to nkudo_app, nkudo_system;
