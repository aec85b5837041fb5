/**
 * Tokens, host identities and certificates. A token is consumed in the transaction that records the certificate, under
 * the lock of the token's row, so that one token gives one certificate however many ask at once.
 */
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { enrollmentTokenId, hostId, sessionId, siteId, tenantId, type EnrollmentTokenId, type TenantId } from '#api/model/ids.ts';
import type { Actor } from '#controller/ports/audit.ts';
import type { CertificateIdentity, EnrolledHost, EnrollInput, EnrollmentStore, IssuedCertificate, RecoverInput, TokenRegistration } from '#controller/ports/enrollment-store.ts';
import type { HostQuarantine } from '#controller/ports/host-store.ts';
import type { IdSource } from '#controller/ports/ids.ts';
import { createBatchRead } from '../batch-read.ts';
import { appendAudit, type AuditEntry } from '../audit.ts';
import type { LeaderTx, Transactions, Tx } from '../tx.ts';
import { isAcceptedClaimant, type LastSession } from './host-claims.ts';
import { noteClaim, quarantine } from './host-session.ts';

type RenewInput = Parameters<EnrollmentStore['renew']>[0];

/** Certificates of one look. */
const identitiesMax = 1_000;

export function createEnrollmentStore(deps: { readonly transactions: Transactions; readonly ids: IdSource }): EnrollmentStore {
  const { transactions, ids } = deps;
  // A replica asks for every open session at each safety read: thousands of keys, a few statements.
  const identify = createBatchRead(identitiesMax, async (serials) => {
    const { rows } = await transactions.systemQuery<IdentityRow>(identifyStatement, [serials]);
    return new Map(rows.map((row) => [row.serial, toIdentity(row)]));
  });
  return {
    registerToken: async (input, epoch, actor) => {
      await transactions.leader(input.tenantId, epoch, {
        settled: async (tx) => (isRegistered(await readToken(tx, input.tenantId, input.tokenId, ''), input) ? true : undefined),
        work: (tx) => registerToken(tx, input, actor),
      });
    },
    loadToken: (tenant, tokenId) =>
      transactions.tenant(tenant, async (tx) => {
        const row = await readToken(tx, tenant, tokenId, '');
        if (row === undefined) return null;
        return {
          usedAtMs: row.used_at, usedByHostId: row.used_by_host_id === null ? null : hostId(row.used_by_host_id),
          usedByHostName: row.used_by_host_name, expiresAtMs: row.expires_at,
        };
      }),
    revokeToken: async (tenant, tokenId, epoch, actor) => {
      await transactions.leader(tenant, epoch, {
        settled: async (tx) => ((await readToken(tx, tenant, tokenId, ''))?.is_revoked ?? true ? true : undefined),
        work: (tx) => revokeToken(tx, tenant, tokenId, actor),
      });
    },
    enroll: async (input) => {
      const found = await transactions.systemQuery<{ tenant_id: string; id: string }>(
        { name: 'find-token', isHot: true, text: 'select tenant_id, id from nkudo.enrollment_tokens where secret_hash = $1' },
        [Buffer.from(input.secretHash)],
      );
      const [token] = found.rows;
      if (token === undefined) throw new AppError('TOKEN_UNKNOWN');
      const tenant = tenantId(token.tenant_id);
      try {
        return await transactions.tenant(tenant, (tx) => enroll(tx, ids, { tenantId: tenant, tokenId: enrollmentTokenId(token.id), input }));
      } catch (error) {
        // Two machines with two tokens and one name: the second one's insert waits for the first one's commit.
        if (isAppError(error) && error.details['constraint'] === 'hosts_live_name') throw new AppError('HOST_NAME_TAKEN');
        throw error;
      }
    },
    identify,
    renew: async (input) => {
      const renewed = await transactions.tenant(input.identity.tenantId, (tx) => renew(tx, ids, input));
      // Thrown after the commit, as below.
      if (renewed === 'quarantined') throw new AppError('HOST_QUARANTINED');
      return renewed;
    },
    recover: async (input) => {
      const identity = await identify(input.serial);
      if (identity === null) throw new AppError('RECOVERY_PROOF_INVALID', 'no such certificate was issued');
      const recovered = await transactions.tenant(identity.tenantId, (tx) => recover(tx, ids, { identity, input }));
      // Thrown after the commit, which records the quarantine and who claims to be the host.
      if (recovered === 'quarantined') throw new AppError('HOST_QUARANTINED');
      return recovered;
    },
  };
}

interface TokenRow {
  readonly site_id: string;
  readonly secret_hash: Buffer;
  readonly host_name: string | null;
  readonly expires_at: number;
  readonly is_revoked: boolean;
  readonly used_at: number | null;
  readonly used_by_host_id: string | null;
  readonly used_by_host_name: string | null;
  readonly used_certificate_id: string | null;
}

async function readToken(tx: Tx, tenant: TenantId, tokenId: EnrollmentTokenId, lock: '' | 'for update of t'): Promise<TokenRow | undefined> {
  const { rows } = await tx.query<TokenRow>(
    {
      name: lock === '' ? 'read-token' : 'lock-token',
      isHot: true,
      text: `select t.site_id, t.secret_hash, t.host_name, t.expires_at, t.revoked_at is not null as is_revoked,
          t.used_at, t.used_by_host_id, h.name as used_by_host_name, t.used_certificate_id
        from nkudo.enrollment_tokens t
        left join nkudo.hosts h on h.tenant_id = t.tenant_id and h.id = t.used_by_host_id
        where t.tenant_id = $1 and t.id = $2 ${lock}`,
    },
    [tenant, tokenId],
  );
  return rows[0];
}

/** A used or revoked token stays as it is. */
function isRegistered(found: TokenRow | undefined, input: TokenRegistration): boolean {
  if (found === undefined) return false;
  if (found.used_at !== null || found.is_revoked) return true;
  return (
    found.site_id === input.siteId && found.secret_hash.equals(input.secretHash) &&
    found.host_name === input.hostName && found.expires_at === input.expiresAtMs
  );
}

async function registerToken(tx: LeaderTx, input: TokenRegistration, actor: Actor): Promise<true> {
  const found = await readToken(tx, input.tenantId, input.tokenId, 'for update of t');
  if (isRegistered(found, input)) return true;
  const site = await tx.query(
    { name: 'find-site-of-token', text: 'select from nkudo.sites where tenant_id = $1 and id = $2 and deleted_at is null' },
    [input.tenantId, input.siteId],
  );
  if (site.rowCount === 0) throw new AppError('SITE_NOT_FOUND', 'the site was not saved yet');
  await tx.query(
    {
      name: 'register-token',
      text: `insert into nkudo.enrollment_tokens (tenant_id, id, site_id, secret_hash, host_name, expires_at) values ($1, $2, $3, $4, $5, $6)
        on conflict (tenant_id, id) do update
        set site_id = excluded.site_id, secret_hash = excluded.secret_hash, host_name = excluded.host_name, expires_at = excluded.expires_at`,
    },
    [input.tenantId, input.tokenId, input.siteId, Buffer.from(input.secretHash), input.hostName, new Date(input.expiresAtMs)],
  );
  const describe = (token: { readonly siteId: string; readonly hostName: string | null; readonly expiresAtMs: number }): unknown => token;
  await appendAudit(tx, input.tenantId, actor, [
    {
      action: 'registered', subject: 'enrollmentToken', id: input.tokenId,
      before: found === undefined ? null : describe({ siteId: found.site_id, hostName: found.host_name, expiresAtMs: found.expires_at }),
      after: describe({ siteId: input.siteId, hostName: input.hostName, expiresAtMs: input.expiresAtMs }),
    },
  ]);
  return true;
}

async function revokeToken(tx: LeaderTx, tenant: TenantId, tokenId: EnrollmentTokenId, actor: Actor): Promise<true> {
  const { rowCount } = await tx.query(
    { name: 'revoke-token', text: 'update nkudo.enrollment_tokens set revoked_at = now() where tenant_id = $1 and id = $2 and revoked_at is null' },
    [tenant, tokenId],
  );
  if (rowCount === 1) {
    await appendAudit(tx, tenant, actor, [
      { action: 'revoked', subject: 'enrollmentToken', id: tokenId, before: { isRevoked: false }, after: { isRevoked: true } },
    ]);
  }
  return true;
}

interface EnrollCall {
  readonly tenantId: TenantId;
  readonly tokenId: EnrollmentTokenId;
  readonly input: EnrollInput;
}

async function enroll(tx: Tx, ids: IdSource, call: EnrollCall): Promise<EnrolledHost> {
  const { input } = call;
  const token = await readToken(tx, call.tenantId, call.tokenId, 'for update of t');
  if (token === undefined || token.is_revoked || !token.secret_hash.equals(input.secretHash)) throw new AppError('TOKEN_UNKNOWN');
  const isExpired = input.nowMs >= token.expires_at;
  if (token.used_certificate_id !== null) {
    const issued = await readIssued(tx, call.tenantId, token.used_certificate_id, input.publicKeyHash);
    if (issued === null) throw new AppError('TOKEN_USED');
    if (isExpired) throw new AppError('TOKEN_EXPIRED');
    return issued;
  }
  if (isExpired) throw new AppError('TOKEN_EXPIRED');
  const name = input.hostName ?? token.host_name ?? input.facts.hostName;
  if (token.host_name !== null && token.host_name !== name) throw new AppError('TOKEN_HOST_MISMATCH');
  return admit(tx, ids, { ...call, token, name });
}

/** What was issued the first time, when it was to this key and the host still stands. */
async function readIssued(tx: Tx, tenant: TenantId, certificateId: string, publicKeyHash: Uint8Array): Promise<EnrolledHost | null> {
  const { rows } = await tx.query<SiteRow & { host_id: string; host_name: string; site_id: string; serial: string; chain_pem: string; not_before: number; not_after: number }>(
    {
      name: 'read-issued',
      text: `select c.host_id, h.name as host_name, h.site_id, s.name as site_name, n.namespace, c.serial, c.chain_pem, c.not_before, c.not_after
        from nkudo.certificates c
        join nkudo.hosts h on h.tenant_id = c.tenant_id and h.id = c.host_id
        join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
        join nkudo.tenants n on n.tenant_id = c.tenant_id
        where c.tenant_id = $1 and c.id = $2 and c.public_key_hash = $3 and c.revoked_at is null and h.revoked_at is null`,
    },
    [tenant, certificateId, Buffer.from(publicKeyHash)],
  );
  const [row] = rows;
  if (row === undefined) return null;
  return {
    tenantId: tenant, siteId: siteId(row.site_id), siteName: row.site_name, namespace: row.namespace, hostId: hostId(row.host_id), hostName: row.host_name,
    certificate: { serial: row.serial, chainPem: row.chain_pem, notBeforeMs: row.not_before, notAfterMs: row.not_after },
  };
}

interface SiteRow {
  readonly site_name: string;
  readonly namespace: string;
}

async function admit(tx: Tx, ids: IdSource, call: EnrollCall & { readonly token: TokenRow; readonly name: string }): Promise<EnrolledHost> {
  const { input, token, name } = call;
  const site = await readSite(tx, call.tenantId, token.site_id);
  const host = await ensureHost(tx, ids, call);
  const issued = await issueNext(tx, ids, {
    tenantId: call.tenantId, siteId: token.site_id, hostId: host.id, hostName: name, publicKeyHash: input.publicKeyHash, issue: input.issue,
  });
  await tx.query(
    {
      name: 'use-token',
      text: `update nkudo.enrollment_tokens set used_at = $3, used_by_host_id = $4, used_certificate_id = $5 where tenant_id = $1 and id = $2`,
    },
    [call.tenantId, call.tokenId, new Date(input.nowMs), host.id, issued.id],
  );
  await appendAudit(tx, call.tenantId, input.actor, [
    ...host.entries,
    issued.entry,
    { action: 'used', subject: 'enrollmentToken', id: call.tokenId, before: { usedBy: null }, after: { usedBy: host.id } },
  ]);
  return {
    tenantId: call.tenantId, siteId: siteId(token.site_id), siteName: site.site_name, namespace: site.namespace,
    hostId: hostId(host.id), hostName: name, certificate: issued.certificate,
  };
}

async function readSite(tx: Tx, tenant: TenantId, id: string): Promise<SiteRow> {
  const { rows } = await tx.query<SiteRow>(
    {
      name: 'read-site-of-token',
      // Locked against a removal of the site that checks for hosts at this moment.
      text: `select s.name as site_name, t.namespace from nkudo.sites s join nkudo.tenants t on t.tenant_id = s.tenant_id
        where s.tenant_id = $1 and s.id = $2 and s.deleted_at is null for key share of s`,
    },
    [tenant, id],
  );
  const [row] = rows;
  if (row === undefined) throw new AppError('TOKEN_UNKNOWN', 'the site of the enrollment token was deleted');
  return row;
}

/** A new host, or the one that this very key enrolled under this name before. */
async function ensureHost(tx: Tx, ids: IdSource, call: EnrollCall & { readonly token: TokenRow; readonly name: string }): Promise<{ readonly id: string; readonly entries: readonly AuditEntry[] }> {
  const { input, token, name } = call;
  const key = Buffer.from(input.publicKeyHash);
  const { rows } = await tx.query<{ id: string; site_id: string; has_key: boolean }>(
    {
      name: 'find-host-by-name',
      text: `select h.id, h.site_id, exists (
          select from nkudo.agents a where a.tenant_id = h.tenant_id and a.host_id = h.id and a.public_key_hash = $3 and a.revoked_at is null
        ) as has_key
        from nkudo.hosts h where h.tenant_id = $1 and h.name = $2 and h.revoked_at is null for no key update of h`,
    },
    [call.tenantId, name, key],
  );
  const [existing] = rows;
  if (existing !== undefined) {
    if (!existing.has_key || existing.site_id !== token.site_id) throw new AppError('HOST_NAME_TAKEN');
    return { id: existing.id, entries: [] };
  }
  await tx.query(
    { name: 'insert-host', text: 'insert into nkudo.hosts (tenant_id, id, site_id, name, facts) values ($1, $2, $3, $4, $5)' },
    [call.tenantId, input.newHostId, token.site_id, name, JSON.stringify(input.facts)],
  );
  const agentId = ids.uuid();
  await insertAgent(tx, { tenantId: call.tenantId, agentId, hostId: input.newHostId, publicKeyHash: key });
  return {
    id: input.newHostId,
    entries: [
      { action: 'enrolled', subject: 'host', id: input.newHostId, before: null, after: { name, siteId: token.site_id } },
      { action: 'enrolled', subject: 'agent', id: agentId, before: null, after: { hostId: input.newHostId, publicKeyHash: key.toString('hex') } },
    ],
  };
}

async function insertAgent(tx: Tx, agent: { readonly tenantId: string; readonly agentId: string; readonly hostId: string; readonly publicKeyHash: Uint8Array }): Promise<void> {
  await tx.query(
    { name: 'insert-agent', text: 'insert into nkudo.agents (tenant_id, id, host_id, public_key_hash) values ($1, $2, $3, $4)' },
    [agent.tenantId, agent.agentId, agent.hostId, Buffer.from(agent.publicKeyHash)],
  );
}

interface IssueCall {
  readonly tenantId: TenantId;
  readonly siteId: string;
  readonly hostId: string;
  readonly hostName: string;
  readonly publicKeyHash: Uint8Array;
  readonly issue: EnrollInput['issue'];
}

/** Takes the next counter of the host, lets the signer sign, and records the certificate. */
async function issueNext(tx: Tx, ids: IdSource, call: IssueCall): Promise<{ readonly id: string; readonly certificate: IssuedCertificate; readonly entry: AuditEntry }> {
  const { rows } = await tx.query<{ certificate_counter: number }>(
    {
      name: 'next-certificate-counter',
      text: 'update nkudo.hosts set certificate_counter = certificate_counter + 1 where tenant_id = $1 and id = $2 returning certificate_counter',
    },
    [call.tenantId, call.hostId],
  );
  const counter = rows[0]?.certificate_counter;
  if (counter === undefined) throw new AppError('NOT_FOUND', 'no such host is enrolled');
  const certificate = await call.issue({ tenantId: call.tenantId, siteId: siteId(call.siteId), hostId: hostId(call.hostId), hostName: call.hostName, counter });
  const id = ids.uuid();
  await tx.query(
    {
      name: 'insert-certificate',
      text: `insert into nkudo.certificates (tenant_id, id, host_id, serial, counter, public_key_hash, chain_pem, not_before, not_after)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    },
    [
      call.tenantId, id, call.hostId, certificate.serial, counter, Buffer.from(call.publicKeyHash), certificate.chainPem,
      new Date(certificate.notBeforeMs), new Date(certificate.notAfterMs),
    ],
  );
  const entry: AuditEntry = {
    action: 'issued', subject: 'certificate', id, before: null,
    after: { serial: certificate.serial, counter, hostId: call.hostId, notAfterMs: certificate.notAfterMs },
  };
  return { id, certificate, entry };
}

interface IdentityRow {
  readonly serial: string;
  readonly tenant_id: string;
  readonly site_id: string;
  readonly host_id: string;
  readonly name: string;
  readonly counter: number;
  readonly is_revoked: boolean;
  readonly is_quarantined: boolean;
  readonly awaits_approval: boolean;
  readonly session_id: string | null;
}

const identifyStatement = {
  name: 'identify',
  isHot: true,
  text: `select c.serial, c.tenant_id, h.site_id, c.host_id, h.name, c.counter,
      c.revoked_at is not null or h.revoked_at is not null as is_revoked, h.quarantined_at is not null as is_quarantined,
      s.require_approval and not h.is_approved as awaits_approval, l.session_id
    from nkudo.certificates c
    join nkudo.hosts h on h.tenant_id = c.tenant_id and h.id = c.host_id
    join nkudo.sites s on s.tenant_id = h.tenant_id and s.id = h.site_id
    left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
    where c.serial = any($1::text[])`,
};

function toIdentity(row: IdentityRow): CertificateIdentity {
  return {
    tenantId: tenantId(row.tenant_id), siteId: siteId(row.site_id), hostId: hostId(row.host_id), hostName: row.name, serial: row.serial, counter: row.counter,
    isRevoked: row.is_revoked, isQuarantined: row.is_quarantined, awaitsApproval: row.awaits_approval,
    currentSessionId: row.session_id,
  };
}

/** `quarantined` when an older certificate than one that was used asks: whoever holds it is not the one who went on. */
async function renew(tx: Tx, ids: IdSource, input: RenewInput): Promise<IssuedCertificate | 'quarantined'> {
  const { identity } = input;
  const { rows } = await tx.query<RenewableRow>(
    {
      name: 'lock-host-to-renew',
      text: `select h.revoked_at is not null or c.revoked_at is not null as is_revoked, h.quarantined_at is not null as is_quarantined,
          h.quarantine is not null as is_being_settled, c.counter, h.certificate_counter_used, l.machine_id, l.boot_id, l.agent_instance
        from nkudo.hosts h join nkudo.certificates c on c.tenant_id = h.tenant_id and c.host_id = h.id and c.serial = $3
        left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
        where h.tenant_id = $1 and h.id = $2 for no key update of h`,
    },
    [identity.tenantId, identity.hostId, identity.serial],
  );
  const [row] = rows;
  if (row === undefined || row.is_revoked) throw new AppError('HOST_REVOKED');
  if (row.is_quarantined) throw new AppError('HOST_QUARANTINED');
  if (!row.is_being_settled && row.counter < row.certificate_counter_used) {
    const claimant = { machineId: '', bootId: '', agentInstance: '', address: input.actor.from, counter: row.counter };
    await quarantine(tx, { ...identity, sessionId: sessionId(ids.uuid()) }, { reason: 'CertificateReplayed', last: lastSession(row), claimant }, input.actor);
    return 'quarantined';
  }
  const agents = await rotateKey(tx, ids, input);
  const issued = await issueNext(tx, ids, { ...identity, publicKeyHash: input.publicKeyHash, issue: input.issue });
  await appendAudit(tx, identity.tenantId, input.actor, [...agents, issued.entry]);
  return issued.certificate;
}

interface KnownSessionRow {
  readonly certificate_counter_used: number;
  readonly machine_id: string | null;
  readonly boot_id: string | null;
  readonly agent_instance: string | null;
}

interface RenewableRow extends KnownSessionRow {
  readonly is_revoked: boolean;
  readonly is_quarantined: boolean;
  readonly is_being_settled: boolean;
  readonly counter: number;
}

/** For a judgement by certificates alone. */
function lastSession(row: KnownSessionRow): LastSession {
  return {
    machineId: row.machine_id, bootId: row.boot_id, agentInstance: row.agent_instance, replacedBootId: null, replacedAgentInstance: null,
    isAlive: false, counterUsed: row.certificate_counter_used,
  };
}

interface RecoverableRow extends KnownSessionRow {
  readonly is_revoked: boolean;
  readonly is_quarantined: boolean;
  readonly is_key_of_certificate: boolean;
  readonly is_key_of_agent: boolean;
  readonly not_after: number;
  readonly counter: number;
  readonly quarantine: HostQuarantine | null;
}

interface RecoverCall {
  readonly identity: CertificateIdentity;
  readonly input: RecoverInput;
}

/** `quarantined` when the host is, or is from now on; what was found out must be committed. */
async function recover(tx: Tx, ids: IdSource, { identity, input }: RecoverCall): Promise<IssuedCertificate | 'quarantined'> {
  const row = await lockRecoverable(tx, { identity, input });
  if (row === undefined || row.is_revoked) throw new AppError('HOST_REVOKED');
  if (!row.is_key_of_certificate || !row.is_key_of_agent) throw new AppError('RECOVERY_PROOF_INVALID', 'the certificate belongs to another key');
  if (input.nowMs > row.not_after + input.windowMs) throw new AppError('RECOVERY_WINDOW_PASSED');
  const claimant = { machineId: input.facts?.machineId ?? '', bootId: input.facts?.bootId ?? '', agentInstance: '', address: input.actor.from, counter: row.counter };
  const host = { tenantId: identity.tenantId, hostId: identity.hostId, sessionId: sessionId(ids.uuid()) };
  const isAccepted = isAcceptedClaimant(row.quarantine, claimant);
  if (row.is_quarantined || (row.quarantine !== null && !isAccepted)) {
    await noteClaim(tx, host, { quarantine: row.quarantine, claimant });
    return 'quarantined';
  }
  if (!isAccepted && row.counter < row.certificate_counter_used) {
    await quarantine(tx, host, { reason: 'CertificateReplayed', last: lastSession(row), claimant }, input.actor);
    return 'quarantined';
  }
  const issued = await issueNext(tx, ids, { ...identity, publicKeyHash: input.publicKeyHash, issue: input.issue });
  await appendAudit(tx, identity.tenantId, input.actor, [
    { ...issued.entry, action: 'recovered', before: { serial: input.serial, notAfterMs: row.not_after } },
    { action: 'recovered', subject: 'host', id: identity.hostId, before: { serial: input.serial }, after: { serial: issued.certificate.serial } },
  ]);
  return issued.certificate;
}

async function lockRecoverable(tx: Tx, { identity, input }: RecoverCall): Promise<RecoverableRow | undefined> {
  const { rows } = await tx.query<RecoverableRow>(
    {
      name: 'lock-host-to-recover',
      text: `select h.revoked_at is not null or c.revoked_at is not null as is_revoked, h.quarantined_at is not null as is_quarantined,
          c.public_key_hash = $4 as is_key_of_certificate, c.not_after, c.counter, h.certificate_counter_used, h.quarantine,
          exists (
            select from nkudo.agents a where a.tenant_id = h.tenant_id and a.host_id = h.id and a.public_key_hash = $4 and a.revoked_at is null
          ) as is_key_of_agent, l.machine_id, l.boot_id, l.agent_instance
        from nkudo.hosts h join nkudo.certificates c on c.tenant_id = h.tenant_id and c.host_id = h.id and c.serial = $3
        left join nkudo.host_liveness l on l.tenant_id = h.tenant_id and l.host_id = h.id
        where h.tenant_id = $1 and h.id = $2 for no key update of h`,
    },
    [identity.tenantId, identity.hostId, input.serial, Buffer.from(input.publicKeyHash)],
  );
  return rows[0];
}

/** A host may renew with a new key; the old one is then revoked as an identity, not its certificates. */
async function rotateKey(tx: Tx, ids: IdSource, input: RenewInput): Promise<readonly AuditEntry[]> {
  const key = Buffer.from(input.publicKeyHash);
  const { tenantId: tenant, hostId: host } = input.identity;
  const { rows } = await tx.query<{ id: string; is_same: boolean }>(
    { name: 'read-agents', text: 'select id, public_key_hash = $3 as is_same from nkudo.agents where tenant_id = $1 and host_id = $2 and revoked_at is null' },
    [tenant, host, key],
  );
  if (rows.some((row) => row.is_same)) return [];
  await tx.query({ name: 'retire-agents', text: 'update nkudo.agents set revoked_at = now() where tenant_id = $1 and host_id = $2 and revoked_at is null' }, [tenant, host]);
  const agentId = ids.uuid();
  await insertAgent(tx, { tenantId: tenant, agentId, hostId: host, publicKeyHash: key });
  return [
    ...rows.map((row) => ({ action: 'revoked', subject: 'agent' as const, id: row.id, before: { isRevoked: false }, after: { isRevoked: true } })),
    { action: 'enrolled', subject: 'agent', id: agentId, before: null, after: { hostId: host, publicKeyHash: key.toString('hex') } },
  ];
}
