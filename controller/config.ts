/**
 * The controller's settings from the environment, read once into frozen objects. A wrong value is
 * refused with the name of the variable and what it must be; values are never quoted, as some are secrets.
 */
import { hostname } from 'node:os';
import { isManifestUrl } from '#api/model/release.ts';

export interface MigrateConfig {
  readonly databaseAdminUrl: string;
  readonly appPassword: string;
  readonly systemPassword: string;
  /** Undefined: derived from the password of the cross-tenant role. */
  readonly chainerPassword: string | undefined;
  readonly logLevel: string;
}

/** Settings of `doctor`. */
export interface DoctorConfig {
  /** Each login by the variable that it came from. */
  readonly logins: readonly { readonly variable: string; readonly url: string }[];
  readonly namespace: string;
}

/** Settings of `audit verify` and `audit export`. */
export interface AuditConfig {
  readonly databaseSystemUrl: string | null;
  readonly databaseChainerUrl: string | null;
  readonly namespace: string;
}

/** A second home of logs. */
export interface LogSinkConfig {
  readonly kind: 'loki' | 'otlp';
  /** Whole address that lines are posted to. */
  readonly url: string;
  /** File with a bearer token; null: none. */
  readonly tokenFile: string | null;
}

export interface ServeConfig {
  readonly databaseUrl: string;
  readonly databaseSystemUrl: string;
  /** Role nkudo_chainer; null: derived from the URL of the cross-tenant role. */
  readonly databaseChainerUrl: string | null;
  /** Longest time that a linked audit row waits for a signed checkpoint while others follow it. */
  readonly auditCheckpointIntervalMs: number;
  readonly logRetentionDays: number;
  /** Null: logs stay in Postgres. */
  readonly logSink: LogSinkConfig | null;
  /** Whole months after that of an operation, in which its executions are kept. */
  readonly executionRetentionMonths: number;
  readonly edgeListen: string;
  readonly fleetListen: string;
  /** The tenants' API over HTTPS. */
  readonly apiListen: string;
  /** Folder with tls.crt and tls.key for the tenants' API; null: certificates of the own authority. */
  readonly apiTlsDirectory: string | null;
  /** Origins of web pages that may call it from a browser. */
  readonly apiAllowedOrigins: readonly string[];
  readonly httpListen: string;
  /** `host:port` that agents dial; null: the bound edge address. */
  readonly advertise: string | null;
  readonly namespace: string;
  readonly readyFile: string | null;
  /** Validity of the certificates of hosts. */
  readonly hostCertificateMs: number;
  /** So long after its expiry a certificate of a host can be recovered by a proof of its key. */
  readonly recoveryWindowMs: number;
  readonly heartbeatIntervalMs: number;
  readonly resyncIntervalMs: number;
  readonly pollIntervalMs: number;
  readonly aggregateIntervalMs: number;
  /** URL of the manifests of the agent's releases, with `{version}` in it; null: each Host names its own. */
  readonly agentReleases: string | null;
  /** Between looks at a mesh account in which nothing seemed to change. */
  readonly meshResyncIntervalMs: number;
  /** Longest time between tries while a mesh account does not answer. */
  readonly meshRetryMaxMs: number;
  /** So long the deletion of a Site waits for a mesh account that does not answer. */
  readonly meshAbandonAfterMs: number;
  readonly logLevel: string;
  readonly faultSocket: string | undefined;
  /** Unique among the replicas that live at one time; the same after a restart in the same pod, which then leads on at once. */
  readonly replica: string;
}

export type Environment = Readonly<Record<string, string | undefined>>;

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'];
const addressPattern = /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,253}):([0-9]{1,5})$/;

/** The message is for the person who started the program. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

function required(environment: Environment, name: string): string {
  const value = environment[name];
  if (value === undefined || value === '') throw new ConfigError(`${name} must be set`);
  return value;
}

function postgresUrl(environment: Environment, name: string): string {
  const value = required(environment, name);
  const url = URL.parse(value);
  if (url === null || !['postgres:', 'postgresql:'].includes(url.protocol)) throw new ConfigError(`${name} must be a URL that begins with postgres://`);
  return value;
}

function optionalPostgresUrl(environment: Environment, name: string): string | null {
  return (environment[name] ?? '') === '' ? null : postgresUrl(environment, name);
}

/** From its own variable, or else the one in the role's URL, so that one Secret can serve both commands. Undefined when neither is set. */
function optionalPassword(environment: Environment, name: string, urlName: string): string | undefined {
  const own = environment[name];
  if (own !== undefined && own !== '') return own;
  const inUrl = URL.parse(environment[urlName] ?? '')?.password ?? '';
  return inUrl === '' ? undefined : decodeURIComponent(inUrl);
}

function password(environment: Environment, name: string, urlName: string): string {
  const found = optionalPassword(environment, name, urlName);
  if (found === undefined) throw new ConfigError(`${name} must be set, or ${urlName} must hold the password`);
  return found;
}

function address(environment: Environment, name: string, fallback: string | null): string | null {
  const value = environment[name];
  if (value === undefined || value === '') return fallback;
  const port = Number(addressPattern.exec(value)?.[2] ?? '-1');
  if (port < 0 || port > 65_535) throw new ConfigError(`${name} must be host:port with a port from 0 to 65535`);
  return value;
}

function releases(environment: Environment, name: string): string | null {
  const value = environment[name];
  if (value === undefined || value === '') return null;
  if (!value.includes('{version}') || !isManifestUrl(value.replaceAll('{version}', '0.0.0'))) throw new ConfigError(`${name} must be an http or https URL with {version} in it, such as https://releases.example/{version}/manifest.json`);
  return value;
}

interface Range {
  readonly fallback: number;
  readonly min: number;
  readonly max: number;
}

function wholeNumber(environment: Environment, name: string, { unit, fallback, min, max }: Range & { readonly unit: 'milliseconds' | 'days' | 'months' }): number {
  const value = environment[name];
  if (value === undefined || value === '') return fallback;
  const parsed = Number(value);
  if (!/^\d+$/.test(value) || parsed < min || parsed > max) throw new ConfigError(`${name} must be a whole number of ${unit} from ${min} to ${max}`);
  return parsed;
}

function milliseconds(environment: Environment, name: string, range: Range): number {
  return wholeNumber(environment, name, { ...range, unit: 'milliseconds' });
}

function logLevel(environment: Environment): string {
  const value = environment['NKUDO_LOG_LEVEL'] ?? 'info';
  if (!levels.includes(value)) throw new ConfigError(`NKUDO_LOG_LEVEL must be one of ${levels.join(', ')}`);
  return value;
}

function namespace(environment: Environment): string {
  const value = environment['NKUDO_NAMESPACE'] ?? 'nkudo-system';
  if (!/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(value)) throw new ConfigError('NKUDO_NAMESPACE must be the name of a namespace');
  return value;
}

/** @throws ConfigError */
export function parseMigrateConfig(environment: Environment): MigrateConfig {
  return Object.freeze({
    databaseAdminUrl: postgresUrl(environment, 'NKUDO_DATABASE_ADMIN_URL'),
    appPassword: password(environment, 'NKUDO_DATABASE_APP_PASSWORD', 'NKUDO_DATABASE_URL'),
    systemPassword: password(environment, 'NKUDO_DATABASE_SYSTEM_PASSWORD', 'NKUDO_DATABASE_SYSTEM_URL'),
    chainerPassword: optionalPassword(environment, 'NKUDO_DATABASE_CHAINER_PASSWORD', 'NKUDO_DATABASE_CHAINER_URL'),
    logLevel: logLevel(environment),
  });
}

/** @throws ConfigError */
export function parseDoctorConfig(environment: Environment): DoctorConfig {
  const variables = ['NKUDO_DATABASE_URL', 'NKUDO_DATABASE_SYSTEM_URL'];
  return Object.freeze({ logins: variables.map((variable) => ({ variable, url: postgresUrl(environment, variable) })), namespace: namespace(environment) });
}

/** The controller's own namespace. @throws ConfigError */
export function parseNamespace(environment: Environment): string {
  return namespace(environment);
}

/** Settings of `tenant rebind`. @throws ConfigError */
export function parseRebindConfig(environment: Environment): { readonly databaseUrl: string; readonly databaseSystemUrl: string } {
  return Object.freeze({ databaseUrl: postgresUrl(environment, 'NKUDO_DATABASE_URL'), databaseSystemUrl: postgresUrl(environment, 'NKUDO_DATABASE_SYSTEM_URL') });
}

/** @throws ConfigError */
export function parseAuditConfig(environment: Environment): AuditConfig {
  const databaseChainerUrl = optionalPostgresUrl(environment, 'NKUDO_DATABASE_CHAINER_URL');
  const databaseSystemUrl = optionalPostgresUrl(environment, 'NKUDO_DATABASE_SYSTEM_URL');
  if (databaseChainerUrl === null && databaseSystemUrl === null) throw new ConfigError('NKUDO_DATABASE_CHAINER_URL must be set, or NKUDO_DATABASE_SYSTEM_URL to derive it from');
  return Object.freeze({ databaseChainerUrl, databaseSystemUrl, namespace: namespace(environment) });
}

const originsMax = 32;

function origins(environment: Environment, name: string): readonly string[] {
  const values = (environment[name] ?? '').split(',').map((value) => value.trim()).filter((value) => value !== '');
  const isOrigin = (value: string): boolean => /^https?:\/\//.test(value) && URL.parse(value)?.origin === value;
  if (values.length > originsMax || !values.every(isOrigin)) throw new ConfigError(`${name} must be at most ${originsMax} origins such as https://console.example.com, separated by commas`);
  return values;
}

function logSink(environment: Environment): LogSinkConfig | null {
  const { NKUDO_LOG_SINK: kind = '', NKUDO_LOG_SINK_URL: url = '', NKUDO_LOG_SINK_TOKEN_FILE: tokenFile = '' } = environment;
  if (kind === '') return null;
  if (kind !== 'loki' && kind !== 'otlp') throw new ConfigError('NKUDO_LOG_SINK must be loki or otlp, or not be set');
  if (!['http:', 'https:'].includes(URL.parse(url)?.protocol ?? '')) throw new ConfigError('NKUDO_LOG_SINK_URL must be the http or https address that lines are posted to');
  return { kind, url, tokenFile: tokenFile === '' ? null : tokenFile };
}

/** `suffix` tells two processes on one machine apart. @throws ConfigError */
export function parseServeConfig(environment: Environment, suffix: string): ServeConfig {
  const hourMs = 3_600_000;
  const listen = (name: string, port: number): string => address(environment, name, `0.0.0.0:${port}`) ?? '';
  const fleetListen = listen('NKUDO_FLEET_LISTEN', 8444);
  return Object.freeze({
    databaseUrl: postgresUrl(environment, 'NKUDO_DATABASE_URL'),
    databaseSystemUrl: postgresUrl(environment, 'NKUDO_DATABASE_SYSTEM_URL'),
    databaseChainerUrl: optionalPostgresUrl(environment, 'NKUDO_DATABASE_CHAINER_URL'),
    auditCheckpointIntervalMs: milliseconds(environment, 'NKUDO_AUDIT_CHECKPOINT_INTERVAL_MS', { fallback: 60_000, min: 100, max: 24 * hourMs }),
    logRetentionDays: wholeNumber(environment, 'NKUDO_LOG_RETENTION_DAYS', { unit: 'days', fallback: 14, min: 1, max: 3_650 }),
    logSink: logSink(environment),
    executionRetentionMonths: wholeNumber(environment, 'NKUDO_EXECUTION_RETENTION_MONTHS', { unit: 'months', fallback: 6, min: 1, max: 120 }),
    edgeListen: listen('NKUDO_EDGE_LISTEN', 8443),
    fleetListen,
    // The same callers, so the same address; where one listener takes any free port, so does this one.
    apiListen: address(environment, 'NKUDO_API_LISTEN', fleetListen.replace(/:\d+$/, fleetListen.endsWith(':0') ? ':0' : ':8445')) ?? '',
    apiTlsDirectory: environment['NKUDO_API_TLS_DIR'] || null,
    apiAllowedOrigins: origins(environment, 'NKUDO_API_ALLOWED_ORIGINS'),
    httpListen: listen('NKUDO_HTTP_LISTEN', 8080),
    advertise: address(environment, 'NKUDO_ADVERTISE', null),
    namespace: namespace(environment),
    readyFile: environment['NKUDO_READY_FILE'] || null,
    hostCertificateMs: milliseconds(environment, 'NKUDO_HOST_CERTIFICATE_MS', { fallback: 24 * hourMs, min: 1_000, max: 30 * 24 * hourMs }),
    recoveryWindowMs: wholeNumber(environment, 'NKUDO_RECOVERY_DAYS', { unit: 'days', fallback: 90, min: 1, max: 3_650 }) * 24 * hourMs,
    heartbeatIntervalMs: milliseconds(environment, 'NKUDO_HEARTBEAT_INTERVAL_MS', { fallback: 10_000, min: 100, max: 300_000 }),
    resyncIntervalMs: milliseconds(environment, 'NKUDO_RESYNC_INTERVAL_MS', { fallback: 600_000, min: 1_000, max: 24 * hourMs }),
    pollIntervalMs: milliseconds(environment, 'NKUDO_POLL_INTERVAL_MS', { fallback: 2_000, min: 50, max: 24 * hourMs }),
    aggregateIntervalMs: milliseconds(environment, 'NKUDO_AGGREGATE_INTERVAL_MS', { fallback: 10_000, min: 50, max: hourMs }),
    agentReleases: releases(environment, 'NKUDO_AGENT_RELEASES'),
    meshResyncIntervalMs: milliseconds(environment, 'NKUDO_MESH_RESYNC_INTERVAL_MS', { fallback: 600_000, min: 1_000, max: 24 * hourMs }),
    meshRetryMaxMs: milliseconds(environment, 'NKUDO_MESH_RETRY_MAX_MS', { fallback: 300_000, min: 100, max: 24 * hourMs }),
    meshAbandonAfterMs: milliseconds(environment, 'NKUDO_MESH_ABANDON_AFTER_MS', { fallback: 600_000, min: 0, max: 24 * hourMs }),
    logLevel: logLevel(environment),
    faultSocket: environment['NKUDO_FAULT_SOCKET'],
    replica: environment['POD_NAME'] || `${hostname()}-${suffix}`,
  });
}
