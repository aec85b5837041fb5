/** What `doctor` makes of what it read: one line for each thing, with what to do about it. Pure. */

import type { RoleFacts, ServerFacts } from '../ports/database-facts.ts';

export type Verdict = 'ok' | 'warning' | 'failure';

export interface Finding {
  readonly check: string;
  readonly verdict: Verdict;
  readonly detail: string;
  /** What a person can do; empty when nothing is to be done. */
  readonly remedy: string;
}

/** Oldest Postgres that the schema is tested on, as `server_version_num`. */
const postgresMin = 140_000;
/** Oldest Kubernetes: rules of the CRDs use functions of 1.30 and later. */
const kubernetesMinorMin = 30;
const skewWarningMs = 2_000;
const skewFailureMs = 30_000;
const dayMs = 86_400_000;
const expiryWarningMs = 30 * dayMs;
const partitionsMin = 2;

const ok = (check: string, detail: string): Finding => ({ check, verdict: 'ok', detail, remedy: '' });
const warning = (check: string, detail: string, remedy: string): Finding => ({ check, verdict: 'warning', detail, remedy });
const failure = (check: string, detail: string, remedy: string): Finding => ({ check, verdict: 'failure', detail, remedy });

export function judgeRoles(roles: readonly RoleFacts[]): readonly Finding[] {
  return roles.map((role) => {
    const check = `role ${role.role === '' ? role.variable : role.role}`;
    if (role.problem !== null) return failure(check, role.problem, 'the sentence says it');
    if (role.isTooStrong) return failure(check, 'it is superuser, may make roles or passes by row level security', `use the role that migrate made in ${role.variable}`);
    return ok(check, 'logs in, and row level security holds it');
  });
}

export function judgeServer(server: ServerFacts): readonly Finding[] {
  return [
    server.versionNumber >= postgresMin ? ok('Postgres version', server.version) : failure('Postgres version', `${server.version} is too old`, 'use 14 or newer'),
    server.isInRecovery ? failure('Postgres primary', 'it is a standby and takes no writes', 'let the URLs lead to the primary') : ok('Postgres primary', 'it takes writes'),
    server.isDurable ? ok('durability', 'fsync and full_page_writes are on') : failure('durability', 'fsync or full_page_writes is off', 'turn both on: what was acknowledged is lost with the machine otherwise'),
    judgeReplication(server),
    judgeSchema(server.pendingMigrations),
    judgePartitions(server.logPartitionsAhead),
    server.incarnation === null || server.incarnation === 1
      ? ok('incarnation', server.incarnation === null ? 'there is none yet' : '1: the database was never restored')
      : ok('incarnation', `${server.incarnation}: it rises with each restore and each failover`),
    judgeSkew('clock of Postgres', server.clockAheadMs),
  ];
}

function judgeReplication({ synchronousStandbys, synchronousCommit }: ServerFacts): Finding {
  const check = 'synchronous replication';
  const isWaiting = synchronousStandbys !== '' && ['on', 'remote_write', 'remote_apply'].includes(synchronousCommit);
  if (isWaiting) return ok(check, `a commit waits for ${synchronousStandbys}: a failover to one of them loses nothing`);
  return warning(
    check,
    synchronousStandbys === '' ? 'a commit waits for no standby' : `synchronous_commit is ${synchronousCommit}, so a commit waits for no standby`,
    'a failover then loses the last commits: microVMs go on and no epoch is issued twice, but what a tenant was told is accepted may be forgotten. Set synchronous_standby_names, or live with it',
  );
}

function judgeSchema(pending: readonly string[] | null): Finding {
  if (pending === null) return failure('schema', 'it is not there, or older than this program', 'run nkudo-controller migrate');
  return pending.length === 0 ? ok('schema', 'newest') : failure('schema', `${pending.length} migrations are missing, from ${pending[0] ?? ''}`, 'run nkudo-controller migrate');
}

function judgePartitions(ahead: number | null): Finding {
  if (ahead === null) return failure('log partitions', 'the table of logs is not there', 'run nkudo-controller migrate');
  return ahead >= partitionsMin ? ok('log partitions', `made for ${ahead} days ahead`) : failure('log partitions', `made for ${ahead} days ahead`, 'run nkudo-controller migrate, and look into the leader’s log why it makes none');
}

export function judgeSkew(check: string, aheadMs: number): Finding {
  const text = `${Math.abs(aheadMs)} ms ${aheadMs < 0 ? 'behind' : 'ahead of'} this machine`;
  if (Math.abs(aheadMs) <= skewWarningMs) return ok(check, text);
  const remedy = 'let both follow the same NTP servers; leases count on no wall clock, certificates and tokens do';
  return Math.abs(aheadMs) <= skewFailureMs ? warning(check, text, remedy) : failure(check, text, remedy);
}

export function judgeKubernetesVersion(version: { readonly gitVersion: string; readonly minor: number }): Finding {
  return version.minor >= kubernetesMinorMin ? ok('Kubernetes version', version.gitVersion) : failure('Kubernetes version', `${version.gitVersion} is too old`, `use 1.${kubernetesMinorMin} or newer`);
}

export interface DefinitionFacts {
  readonly name: string;
  readonly state: 'served' | 'missing' | 'notEstablished' | 'deleting' | 'unreadable';
}

export function judgeDefinitions(definitions: readonly DefinitionFacts[]): readonly Finding[] {
  return definitions.map(({ name, state }) => {
    const check = `CRD ${name}`;
    switch (state) {
      case 'served':
        return ok(check, 'v1alpha1 is served');
      case 'missing':
        return failure(check, 'it is not installed', 'install the CRDs of this version');
      case 'notEstablished':
        return failure(check, 'v1alpha1 is not served', 'look at the conditions of the CRD; install the CRDs of this version');
      case 'deleting':
        return failure(check, 'it is being deleted, and every object of its kind with it', 'no microVM is touched; see docs/operations.md, "The definitions were deleted"');
      case 'unreadable':
        return warning(check, 'it may not be read', 'allow get on customresourcedefinitions');
    }
  });
}

export function judgeRights(missing: readonly string[], asked: number): Finding {
  if (missing.length === 0) return ok('rights in Kubernetes', `all ${asked} are there`);
  return failure('rights in Kubernetes', `missing: ${missing.join(', ')}`, 'grant them to the controller’s service account');
}

export function judgeCertificate(check: string, notAfterMs: number, nowMs: number): Finding {
  const left = notAfterMs - nowMs;
  const text = `valid until ${new Date(notAfterMs).toISOString()}`;
  if (left <= 0) return failure(check, `expired since ${new Date(notAfterMs).toISOString()}`, 'see docs/enrollment.md for a new authority');
  return left > expiryWarningMs ? ok(check, text) : warning(check, text, 'renew it in time: see docs/enrollment.md');
}

/** 0: nothing failed. 4: something did. */
export function exitCodeOf(findings: readonly Finding[]): number {
  return findings.some(({ verdict }) => verdict === 'failure') ? 4 : 0;
}
