-- How far the emptying of a host is that its object asks for, so that the tenants' API tells the same phase as the object.
-- Null: the object asks for none, or nobody has looked since this column was added.
alter table nkudo.hosts add column emptying text check (emptying in ('Draining', 'Drained'));
grant update (emptying) on nkudo.hosts to nkudo_app;
