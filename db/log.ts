/** What this room needs of a logger; a pino logger fits. Fields never hold SQL parameters, passwords or connection strings. */
export interface DatabaseLog {
  info(fields: Readonly<Record<string, unknown>>, message: string): void;
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
  error(fields: Readonly<Record<string, unknown>>, message: string): void;
}

/** For callers that do not log. */
export const silentLog: DatabaseLog = { info: () => {}, warn: () => {}, error: () => {} };
