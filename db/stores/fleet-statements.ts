/** What sites, hosts and microVMs are read with, shared by the whole status and by the lists with filters. */
import type { Statement } from '../tx.ts';

/** Parameters: tenant, site name or null, silent before. */
const siteColumns = `select s.id, s.name, h.hosts, h.online as "hostsOnline", m.microvms, m.running as "microvmsRunning"
    from nkudo.sites s
    cross join lateral (
      select count(*) as hosts, count(*) filter (where l.last_beat_at >= $3) as online
      from nkudo.hosts h left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
      where h.tenant_id = s.tenant_id and h.site_id = s.id and h.revoked_at is null
    ) h
    cross join lateral (
      select count(*) as microvms, count(*) filter (where o.state = 'running') as running
      from nkudo.microvms m left join nkudo.observations o on o.tenant_id = m.tenant_id and o.microvm_id = m.id
      where m.tenant_id = s.tenant_id and m.site_id = s.id and m.released_at is null
    ) m
    where s.tenant_id = $1 and s.deleted_at is null and ($2::text is null or s.name = $2)`;

const hostColumns = `select h.id, h.name, s.name as "siteName", h.is_approved or not s.require_approval as "isApproved", h.quarantined_at is not null as "isQuarantined", h.revoked_at is not null as "isRevoked",
      h.emptying, h.facts->'hypervisor' as hypervisor, coalesce(l.last_beat_at >= $3, false) as "isOnline", l.last_beat_at as "lastBeatAtMs", b.microvms
    from nkudo.hosts h
    join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
    left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
    cross join lateral (
      select count(*) as microvms from nkudo.bindings b where b.tenant_id = h.tenant_id and b.host_id = h.id and b.released_at is null
    ) b
    where h.tenant_id = $1 and h.revoked_at is null and ($2::text is null or s.name = $2)`;

const microvmColumns = `select m.id, m.name, s.name as "siteName", h.name as "hostName", b.epoch, v.state, v.observed_at as "observedAtMs",
      coalesce(v.restarts, 0) as restarts, o.plan_id as "planId", p.status as "planStatus", v.site_override as "siteOverride", v.cpu_count as cpus, v.memory_bytes as "memoryBytes"
    from nkudo.microvms m
    join nkudo.sites s on s.tenant_id = m.tenant_id and s.id = m.site_id
    left join nkudo.bindings b on b.tenant_id = m.tenant_id and b.microvm_id = m.id and b.released_at is null
    left join nkudo.hosts h on h.tenant_id = b.tenant_id and h.id = b.host_id
    left join nkudo.observations v on v.tenant_id = m.tenant_id and v.microvm_id = m.id
    left join lateral (
      select n.plan_id from nkudo.operations n where n.tenant_id = m.tenant_id and n.microvm_id = m.id order by n.revision desc limit 1
    ) o on true
    left join nkudo.plans p on p.tenant_id = m.tenant_id and p.id = o.plan_id
    where m.tenant_id = $1 and m.released_at is null and ($2::text is null or s.name = $2)`;

/** A statement whose filters vary is planned anew each time, with what it is asked for. */
const varying = (name: string, text: string): Statement => ({ name, text });

export const sitesStatement: Statement = { name: 'fleet-sites', isHot: true, text: `${siteColumns} order by s.name` };
export const hostsStatement: Statement = { name: 'fleet-hosts', isHot: true, text: `${hostColumns} order by h.name` };
export const microvmsStatement: Statement = {
  name: 'fleet-microvms',
  isHot: true,
  text: `${microvmColumns} and ($3::text is null or (m.name, m.id) > ($3, $4::uuid)) order by m.name, m.id limit $5`,
};

/** Further parameters: name and id of the last one before, limit. */
export const sitesPage = varying('fleet-sites-page', `${siteColumns} and ($4::text is null or (s.name, s.id) > ($4, $5::uuid)) order by s.name, s.id limit $6`);
/** Further parameters: name or null, id or null. */
export const siteByName = varying('fleet-site', `${siteColumns} and s.name = $4`);
export const siteById = varying('fleet-site-by-id', `${siteColumns} and s.id = $4::uuid`);

export const hostsPage = varying('fleet-hosts-page', `${hostColumns} and ($4::text is null or (h.name, h.id) > ($4, $5::uuid)) order by h.name, h.id limit $6`);
export const hostByName = varying('fleet-host', `${hostColumns} and h.name = $4`);
export const hostById = varying('fleet-host-by-id', `${hostColumns} and h.id = $4::uuid`);

/** Further parameters: host name or null, state or null, name and id of the last one before, limit. */
export const microvmsPage = varying(
  'fleet-microvms-page',
  `${microvmColumns} and ($3::text is null or h.name = $3) and ($4::text is null or v.state = $4)
      and ($5::text is null or (m.name, m.id) > ($5, $6::uuid)) order by m.name, m.id limit $7`,
);
export const microvmByName = varying('fleet-microvm', `${microvmColumns} and m.name = $3 order by m.changed_at desc limit 1`);
export const microvmById = varying('fleet-microvm-by-id', `${microvmColumns} and m.id = $3::uuid`);

/** Parameters: tenant, site name, microVM, status, whether the controller's plans count, time and id of the last one before, limit. */
export const plansPage = (columns: string): Statement =>
  varying(
    'fleet-plans-page',
    `select ${columns}, (extract(epoch from p.created_at) * 1000000)::bigint::text as created_micros
      from nkudo.plans p join nkudo.sites s on s.tenant_id = p.tenant_id and s.id = p.site_id
      where p.tenant_id = $1 and ($2::text is null or s.name = $2)
        and ($3::uuid is null or p.id = any(array(
          select o.plan_id from nkudo.operations o where o.tenant_id = $1 and o.microvm_id = $3
          union select a.plan_id from nkudo.plan_actions a where a.tenant_id = $1 and a.microvm_id = $3)))
        and ($4::text is null or p.status = $4) and ($5::boolean or p.origin = 'caller')
        and ($6::bigint is null or (p.created_at, p.id) < ('epoch'::timestamptz + $6::bigint * interval '1 microsecond', $7::uuid))
      order by p.created_at desc, p.id desc limit $8`,
  );

/** The kind is looked up for what is shown only. */
const executionColumns = `select e.id, e.operation_id, e.microvm_id,
      (select o.kind from nkudo.operations o where o.tenant_id = e.tenant_id and o.id = e.operation_id) as kind,
      e.attempt, e.status, e.started_at, e.finished_at, e.error_code, e.error_message
    from nkudo.execution_records e
    where e.tenant_id = $1`;

/**
 * Parameters: tenant, site name, microVM, operation, plan, status, started from and before, start and id of the last one
 * before, limit, host name. Start times have the precision of a millisecond, as the wire has.
 */
export const executionsPage = varying(
  'fleet-executions-page',
  `${executionColumns}
      and ($2::text is null or exists (
        select from nkudo.microvms m join nkudo.sites s on s.tenant_id = m.tenant_id and s.id = m.site_id
        where m.tenant_id = e.tenant_id and m.id = e.microvm_id and s.name = $2))
      and ($3::uuid is null or e.microvm_id = $3) and ($4::uuid is null or e.operation_id = $4) and ($5::uuid is null or e.plan_id = $5)
      and ($12::text is null or e.host_id = any(array(select h.id from nkudo.hosts h where h.tenant_id = $1 and h.name = $12)))
      and ($6::text is null or e.status = $6) and ($7::timestamptz is null or e.started_at >= $7) and ($8::timestamptz is null or e.started_at < $8)
      and ($9::bigint is null or (e.started_at, e.id) < ('epoch'::timestamptz + $9::bigint * interval '1 millisecond', $10::uuid))
    order by e.started_at desc, e.id desc limit $11`,
);
export const executionById = varying('fleet-execution', `${executionColumns} and e.id = $2::uuid`);

/** Parameters: tenant, kind and id of the subject, id of the last one before, limit. */
export const auditPage = varying(
  'fleet-audit-page',
  `select id, at as "atMs", actor_kind as "actorKind", actor_name as "actorName", actor_from as "actorFrom", action, subject_kind as "subjectKind",
      subject_id as "subjectId", before_hash as "beforeHash", after_hash as "afterHash"
    from nkudo.audit_events
    where tenant_id = $1 and ($2::text is null or subject_kind = $2) and ($3::uuid is null or subject_id = $3) and ($4::bigint is null or id < $4)
    order by id desc limit $5`,
);
