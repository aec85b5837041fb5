/** Why a connection to Postgres can't be made, as a sentence for the person who started the program. Never shows a password. */
import pg from 'pg';

/** `variable`: the setting that holds the URL. */
export function describeConnectError(error: unknown, url: string, variable: string): string {
  const at = URL.parse(url);
  const place = at === null ? 'the server' : `${at.hostname}:${at.port === '' ? '5432' : at.port}`;
  const name = at === null ? '' : decodeURIComponent(at.pathname.slice(1));
  const user = at === null ? '' : decodeURIComponent(at.username);
  const code = codeOf(error);
  switch (code) {
    case 'ECONNREFUSED':
      return `nothing listens at ${place}: start Postgres there, or correct ${variable}`;
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `the name of ${place} can not be resolved: correct ${variable}, or look at the DNS`;
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
    case 'ETIMEDOUT':
      return `${place} can not be reached from here: look at routes and firewalls, or correct ${variable}`;
    case 'ECONNRESET':
      return `${place} closed the connection at once: is it Postgres, and does it take TLS as ${variable} asks?`;
    case '28P01':
    case '28000':
      return `Postgres at ${place} refuses user ${user}: correct user and password in ${variable}, or pg_hba.conf`;
    case '3D000':
      return `there is no database ${name} at ${place}: create it, or correct ${variable}`;
    case '57P03':
      return `Postgres at ${place} is starting or stopping: try again`;
    case '53300':
      return `Postgres at ${place} has no connection left: raise max_connections, or end others`;
    default:
      return `no connection to Postgres at ${place} (${code ?? 'no answer in time'}): look at the server and at ${variable}`;
  }
}

function codeOf(error: unknown): string | undefined {
  if (error instanceof pg.DatabaseError) return error.code;
  // Node tries several addresses of one name and gives all failures.
  if (error instanceof AggregateError) return codeOf(error.errors[0]);
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
