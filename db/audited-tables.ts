/**
 * What counts as a state change, as data: the tables whose changes need an audit row in the same transaction, and those
 * that need none, each with its reason. The triggers are in the migrations; a test compares them with this list and
 * finds every table and every column that is in neither.
 */
import type { SubjectKind } from './audit.ts';

export interface AuditedTable {
  /** Kind of the subject that the audit row must name. */
  readonly subject: SubjectKind;
  /** Columns that may change without an audit row of their own: reports, counters, times that follow from another column. */
  readonly silent: readonly string[];
}

export const auditedTables: Readonly<Record<string, AuditedTable>> = {
  tenants: { subject: 'tenant', silent: [] },
  sites: { subject: 'site', silent: [] },
  hosts: { subject: 'host', silent: ['facts', 'facts_revision', 'orphan_ids', 'recovered_incarnation', 'sightings', 'quarantine', 'certificate_counter', 'certificate_counter_used', 'changed_at', 'emptying', 'agent_revision', 'agent_report'] },
  agents: { subject: 'agent', silent: [] },
  certificates: { subject: 'certificate', silent: [] },
  enrollment_tokens: { subject: 'enrollmentToken', silent: [] },
  api_keys: { subject: 'apiKey', silent: ['last_used_at'] },
  microvms: { subject: 'microvm', silent: ['update_restarts', 'site_order_noted', 'changed_at'] },
  adoptions: { subject: 'microvm', silent: [] },
  bindings: { subject: 'binding', silent: [] },
  plans: { subject: 'plan', silent: ['finished_at', 'cancel_requested_at'] },
  plan_actions: { subject: 'planAction', silent: ['microvm_id', 'spec_hash', 'generation', 'previous_run_policy', 'operation_id', 'error_code', 'error_message', 'changed_at'] },
  operations: { subject: 'operation', silent: ['error_code', 'error_message', 'dispatched_session_id', 'dispatched_at', 'finished_at', 'changed_at', 'cancel_requested_at'] },
  displacements: { subject: 'displacement', silent: [] },
  agent_rollout_hosts: { subject: 'host', silent: ['ring', 'from_version', 'problem', 'breaks', 'since'] },
  mesh_sites: { subject: 'meshSite', silent: [] },
  guest_holds: { subject: 'guestHold', silent: [] },
  mesh_hosts: { subject: 'meshHost', silent: ['revision', 'key_expires_at', 'claimed_by', 'claimed_until', 'changed_at'] },
};

export const unauditedTables: Readonly<Record<string, string>> = {
  host_liveness: 'beats and sessions',
  microvm_counters: 'counters that rise with audited changes',
  execution_records: 'reports of hosts',
  executions: 'what older replicas write of the reports of hosts',
  observations: 'reports of hosts',
  site_order_cursors: 'orders of people at a site, each of which has an audit row of its own',
  mesh_reports: 'reports of hosts',
  log_cursors: 'logs',
  log_exports: 'logs',
  logs: 'logs',
  audit_events: 'the audit itself',
  audit_links: 'the audit itself',
  audit_checkpoints: 'the audit itself',
};
