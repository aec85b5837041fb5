-- The chain over audit rows: who links them, in which order they are found, and checkpoints that name their predecessor.
-- Also: dropping log partitions never waits long for a lock, so that it can't hold up readers that queue behind it.

-- ---------------------------------------------------------------------------------------------------
-- The chainer's way through the rows: by transaction, over all tenants. The trigger that asks for an audit row uses the
-- same index: by transaction, then by subject.
-- ---------------------------------------------------------------------------------------------------

create index audit_events_in_order on nkudo.audit_events (xact, subject_id);
drop index nkudo.audit_events_by_xact;

-- Where the chainer goes on: every row of an earlier transaction is linked. One row, changed with each batch of links only.
create table nkudo.audit_chain (
  singleton boolean primary key default true check (singleton),
  linked_below xid8 not null default '0'
) with (fillfactor = 50);
insert into nkudo.audit_chain default values;

-- Position of the tenant's checkpoint before this one, 0 for the first: it is signed, so that one taken out is noticed.
alter table nkudo.audit_checkpoints
  add column previous_position bigint not null default 0 check (previous_position >= 0),
  add check (previous_position < position);
alter table nkudo.audit_checkpoints alter column previous_position drop default;

-- ---------------------------------------------------------------------------------------------------
-- The chainer's role: reads every audit row, appends links and checkpoints, changes and deletes none of them.
-- ---------------------------------------------------------------------------------------------------

grant usage on schema nkudo to nkudo_chainer;
grant select on nkudo.audit_events, nkudo.audit_links, nkudo.audit_checkpoints, nkudo.audit_chain to nkudo_chainer;
grant insert on nkudo.audit_links, nkudo.audit_checkpoints to nkudo_chainer;
grant update (linked_below) on nkudo.audit_chain to nkudo_chainer;
create policy chainer_reads on nkudo.audit_events for select to nkudo_chainer using (true);
create policy chainer_reads on nkudo.audit_links for select to nkudo_chainer using (true);
create policy chainer_appends on nkudo.audit_links for insert to nkudo_chainer with check (true);
create policy chainer_reads on nkudo.audit_checkpoints for select to nkudo_chainer using (true);
create policy chainer_appends on nkudo.audit_checkpoints for insert to nkudo_chainer with check (true);

create trigger rising before update on nkudo.audit_chain for each row
  when (new.linked_below < old.linked_below and old.linked_below <= pg_snapshot_xmax(pg_current_snapshot()))
  execute function nkudo.refuse('NK005', 'the chain never goes back, but after a restore into another cluster');

-- ---------------------------------------------------------------------------------------------------
-- Retention of logs. A partition is dropped under a lock on the whole log table: a wait for it is bounded, because
-- everybody who comes later waits behind it. What could not be dropped is dropped by the next call.
-- ---------------------------------------------------------------------------------------------------

set local role nkudo_maintenance;
alter function nkudo.drop_log_partitions(integer) set lock_timeout = '2s';
alter function nkudo.ensure_log_partitions(integer) set lock_timeout = '2s';
set local role nkudo_owner;
