/**
 * The roles of the database. They belong to the whole cluster while migrators may run in several of its
 * databases at once, so that each step here is safe against the same step elsewhere. The owner has no login;
 * a login role that already exists with more rights than it may have is refused, not repaired.
 */
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import pg from 'pg';

export const ownerRole = 'nkudo_owner';
export const maintenanceRole = 'nkudo_maintenance';
export const appRole = 'nkudo_app';
export const systemRole = 'nkudo_system';
export const chainerRole = 'nkudo_chainer';

const loginRoles = [appRole, systemRole, chainerRole];
/** Owns partitions and logs in to drop them; the other owner never logs in. */
const owners = [ownerRole, maintenanceRole];

/** Times that a statement on a role is tried while another migrator changes the same role. */
const roleAttempts = 10;
const roleRetryMs = 20;
/** What Postgres itself uses for SCRAM-SHA-256. */
const scramIterations = 4096;

export interface LoginPasswords {
  readonly appPassword: string;
  readonly systemPassword: string;
  /** Default: derived from the one of the cross-tenant role, as in {@link deriveChainerUrl}. */
  readonly chainerPassword?: string;
}

/**
 * Connection string of the chainer's role for an installation that has set no password of its own for it; null when
 * the given string holds no password to derive from.
 */
export function deriveChainerUrl(systemUrl: string): string | null {
  return deriveUrl(systemUrl, chainerRole);
}

/** As {@link deriveChainerUrl}, of the role that owns partitions. */
export function deriveMaintenanceUrl(systemUrl: string): string | null {
  return deriveUrl(systemUrl, maintenanceRole);
}

function deriveUrl(systemUrl: string, role: string): string | null {
  const url = URL.parse(systemUrl);
  if (url === null || url.password === '') return null;
  url.password = derivePassword(decodeURIComponent(url.password), role);
  url.username = role;
  return url.href;
}

/** One way: who knows the result does not learn the password that it came from. */
function derivePassword(password: string, role: string): string {
  return createHmac('sha256', password).update(`password of ${role}`).digest('base64url');
}

/** Makes the roles that are missing and gives the login roles their passwords. Idempotent. */
export async function ensureRoles(admin: pg.Client, adminUrl: string, passwords: LoginPasswords): Promise<void> {
  await createRole(admin, ownerRole, 'nologin');
  await createRole(admin, maintenanceRole, 'login');
  for (const role of loginRoles) await createRole(admin, role, 'login');
  await refuseStrongRoles(admin);
  await allowLogin(admin, maintenanceRole);
  await joinOwners(admin);
  await ensurePassword(admin, adminUrl, appRole, passwords.appPassword);
  await ensurePassword(admin, adminUrl, systemRole, passwords.systemPassword);
  await ensurePassword(admin, adminUrl, maintenanceRole, derivePassword(passwords.systemPassword, maintenanceRole));
  await ensurePassword(admin, adminUrl, chainerRole, passwords.chainerPassword ?? derivePassword(passwords.systemPassword, chainerRole));
}

async function createRole(admin: pg.Client, role: string, login: 'login' | 'nologin'): Promise<void> {
  const found = await admin.query('select from pg_roles where rolname = $1', [role]);
  if (found.rowCount !== 0) return;
  // Another migrator can be quicker between the look and the statement; both codes mean that the role is there.
  await admin.query(`
    do $$ begin
      create role ${role} ${login} nosuperuser nocreatedb nocreaterole noreplication nobypassrls inherit;
    exception when duplicate_object or unique_violation then null;
    end $$`);
}

async function refuseStrongRoles(admin: pg.Client): Promise<void> {
  const { rows } = await admin.query<{ rolname: string }>(
    `select rolname from pg_roles
     where rolname = any($1) and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication)`,
    [[...owners, ...loginRoles]],
  );
  const [strong] = rows;
  if (strong !== undefined) {
    throw new Error(`the role ${strong.rolname} exists with superuser, bypassrls or other rights that it must not have: alter it first`);
  }
  const members = await admin.query<{ rolname: string }>(
    `select m.rolname from pg_auth_members a join pg_roles m on m.oid = a.member join pg_roles r on r.oid = a.roleid
     where m.rolname = any($1) and r.rolname = any($2)`,
    [loginRoles, owners],
  );
  const [member] = members.rows;
  if (member !== undefined) throw new Error(`the role ${member.rolname} is a member of an owner of the tables: revoke that first`);
}

/** Earlier versions made the role without a login. */
async function allowLogin(admin: pg.Client, role: string): Promise<void> {
  const { rows } = await admin.query<{ rolcanlogin: boolean }>('select rolcanlogin from pg_roles where rolname = $1', [role]);
  if (rows[0]?.rolcanlogin !== true) await retryWhileChanged(() => admin.query(`alter role ${role} login`));
}

/** An administrator who is no superuser needs membership to act as an owner. */
async function joinOwners(admin: pg.Client): Promise<void> {
  for (const role of owners) {
    const { rows } = await admin.query<{ can: boolean }>(`select pg_has_role(current_user, $1, 'MEMBER') as can`, [role]);
    if (rows[0]?.can !== true) await retryWhileChanged(() => admin.query(`grant ${role} to current_user`));
  }
}

/** Sets the password unless it is that one already, so that a second run changes nothing. */
async function ensurePassword(admin: pg.Client, adminUrl: string, role: string, password: string): Promise<void> {
  if (await canLogIn(adminUrl, role, password)) return;
  const verifier = admin.escapeLiteral(scramVerifier(password));
  await retryWhileChanged(() => admin.query(`alter role ${role} password ${verifier}`));
}

async function canLogIn(adminUrl: string, role: string, password: string): Promise<boolean> {
  const url = new URL(adminUrl);
  url.username = role;
  url.password = encodeURIComponent(password);
  const client = new pg.Client({ connectionString: url.href, connectionTimeoutMillis: 5_000 });
  client.on('error', () => {}); // The connection only proves the password.
  try {
    await client.connect();
    return true;
  } catch {
    return false; // Whatever the cause, setting the password is right, and the next statement tells if it can't be.
  } finally {
    await client.end().catch(() => {});
  }
}

/** The verifier that Postgres stores, so that the password itself is in no statement and no server log. */
function scramVerifier(password: string): string {
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(password.normalize('NFKC'), salt, scramIterations, 32, 'sha256');
  const clientKey = createHmac('sha256', salted).update('Client Key').digest();
  const storedKey = createHash('sha256').update(clientKey).digest();
  const serverKey = createHmac('sha256', salted).update('Server Key').digest();
  return `SCRAM-SHA-256$${scramIterations}:${salt.toString('base64')}$${storedKey.toString('base64')}:${serverKey.toString('base64')}`;
}

/** Two sessions that alter one role make Postgres refuse the second with XX000; the row is free a moment later. */
async function retryWhileChanged(statement: () => Promise<unknown>): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await statement();
      return;
    } catch (error) {
      const code = error instanceof pg.DatabaseError ? error.code : undefined;
      if (attempt === roleAttempts || (code !== 'XX000' && code !== '23505')) throw error;
      await new Promise((resolve) => setTimeout(resolve, roleRetryMs * attempt));
    }
  }
}
