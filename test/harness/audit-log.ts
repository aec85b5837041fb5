/**
 * Reads the API server's audit log: who asked for what, counted at the server and not in any client.
 * The server writes an event before it sends the answer, so what a test has seen happen is in the file.
 */
import { readFileSync, statSync } from 'node:fs';

/** The fields of an audit event that tests use. Source: audit.k8s.io/v1, level Metadata. */
export interface AuditEvent {
  readonly stage: string;
  readonly verb: string;
  readonly requestURI: string;
  readonly user: { readonly username: string; readonly groups?: readonly string[] };
  readonly impersonatedUser?: { readonly username: string };
  readonly userAgent?: string;
  readonly objectRef?: {
    readonly resource?: string;
    readonly namespace?: string;
    readonly name?: string;
    readonly apiGroup?: string;
    readonly subresource?: string;
  };
  readonly responseStatus?: { readonly code?: number; readonly reason?: string };
  /** `authorization.k8s.io/decision` is allow or forbid; an admission policy refuses what was allowed. */
  readonly annotations?: Readonly<Record<string, string>>;
  readonly requestReceivedTimestamp: string;
}

/** A place in the log. */
export type AuditMark = number;

/** See the module's header. */
export interface AuditLog {
  /** The present end of the log. */
  mark(): AuditMark;
  /** All finished requests after the mark. */
  since(mark: AuditMark): AuditEvent[];
  /** Those that may have changed something, without the API server's own upkeep and the test's requests. */
  writesSince(mark: AuditMark): AuditEvent[];
}

const writeVerbs: ReadonlySet<string> = new Set(['create', 'update', 'patch', 'delete', 'deletecollection']);
/** Reviews are POSTs that store nothing. */
const reviewGroups: ReadonlySet<string> = new Set(['authentication.k8s.io', 'authorization.k8s.io']);

/** Reads the log file of one API server. */
export function openAuditLog(file: string): AuditLog {
  const since = (mark: AuditMark): AuditEvent[] =>
    readFileSync(file)
      .subarray(mark)
      .toString('utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map(parseEvent)
      .filter((event) => event.stage === 'ResponseComplete' || event.stage === 'Panic');
  return {
    mark: () => statSync(file).size,
    since,
    writesSince: (mark) =>
      since(mark).filter(
        (event) =>
          writeVerbs.has(event.verb) &&
          !reviewGroups.has(event.objectRef?.apiGroup ?? '') &&
          event.user.username !== 'system:apiserver' &&
          event.userAgent !== 'nkudo-test' &&
          !(event.userAgent ?? '').startsWith('kubectl/'),
      ),
  };
}

function parseEvent(line: string): AuditEvent {
  // Parsing boundary: the API server's own format; the fields read here exist on every event.
  return JSON.parse(line) as AuditEvent;
}

/** One line per event, for failure messages. */
export function describeEvent(event: AuditEvent): string {
  return `${event.verb} ${event.requestURI} by ${event.user.username} (${event.userAgent ?? 'no user agent'}): ${event.responseStatus?.code ?? 'no status'}`;
}
