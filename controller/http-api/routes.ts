/**
 * The routes of the HTTPS API as one table. Each names the call of the tenants' API that it makes, and with it the right
 * that it needs; its parameters are the fields of that call's request. Server, authorisation matrix and description are
 * made from this table: a route that is not in it can't be served.
 */
import { fleetRights, type FleetMethod, type ResourceRight } from '#controller/fleet-api/rights.ts';

/** `json` one answer; `events` server-sent events; `text` the bytes of a log as they come. */
export type RouteKind = 'json' | 'events' | 'text';

export interface HttpRoute {
  readonly method: 'GET' | 'POST';
  /** With parameters in braces, named as the fields of the request: `/v1/namespaces/{namespace}/sites/{name}`. */
  readonly path: string;
  readonly call: FleetMethod;
  readonly kind: RouteKind;
  /** Where the fields are that the path does not name. */
  readonly takes: 'query' | 'body' | 'nothing';
  /** Fields that this route does not take, since another one serves them. */
  readonly without?: readonly string[];
  /** One sentence for the description. */
  readonly summary: string;
  /** Asked for in the namespace of the path. */
  readonly right: ResourceRight | 'perWrite';
}

const base = '/v1/namespaces/{namespace}';

function get(path: string, call: FleetMethod, summary: string, more: Partial<Pick<HttpRoute, 'kind' | 'takes' | 'without'>> = {}): HttpRoute {
  return { method: 'GET', path: `${base}${path}`, call, kind: 'json', takes: 'query', summary, right: fleetRights[call], ...more };
}

function post(path: string, call: FleetMethod, summary: string, takes: HttpRoute['takes']): HttpRoute {
  return { method: 'POST', path: `${base}${path}`, call, kind: 'json', takes, summary, right: fleetRights[call] };
}

export const httpRoutes: readonly HttpRoute[] = [
  get('/status', 'GetStatus', 'Sites, hosts and microVMs; microVMs in pages.'),
  get('/status/watch', 'WatchStatus', 'The whole status, then every change.', { kind: 'events' }),
  get('/sites', 'ListSites', 'Sites in order of their names.'),
  get('/sites/{name}', 'GetSite', 'One site by its name.', { without: ['uid'] }),
  get('/sites/by-uid/{uid}', 'GetSite', 'One site by its UID.', { without: ['name'] }),
  get('/hosts', 'ListHosts', 'Hosts in order of their names.'),
  get('/hosts/{name}', 'GetHost', 'One host by its name.', { without: ['id'] }),
  get('/hosts/by-id/{id}', 'GetHost', 'One host by its id.', { without: ['name'] }),
  get('/microvms', 'ListMicroVMs', 'MicroVMs in order of their names.'),
  get('/microvms/{name}', 'GetMicroVM', 'One microVM by its name.', { without: ['uid'] }),
  get('/microvms/by-uid/{uid}', 'GetMicroVM', 'One microVM by its UID.', { without: ['name'] }),
  get('/microvms/by-uid/{microvmUid}/logs', 'TailLogs', 'A log as text; where bytes were lost, a line says how many.', { kind: 'text' }),
  get('/microvms/by-uid/{microvmUid}/logs/watch', 'TailLogs', 'A log as events, each with its place; goes on with what comes.', { kind: 'events', without: ['follow'] }),
  get('/plans', 'ListPlans', 'Plans with their actions and operations, newest first.'),
  post('/plans', 'ApplyPlan', 'Accepts an intent for microVMs of one site; with dryRun nothing is changed.', 'body'),
  get('/plans/{planId}', 'GetPlan', 'One plan with its actions and operations.'),
  get('/plans/{planId}/watch', 'WatchPlan', 'The plan, then again with each change until it has ended.', { kind: 'events' }),
  post('/plans/{planId}/cancel', 'CancelPlan', 'Asks to end what has not started yet.', 'nothing'),
  get('/executions', 'ListExecutions', 'Attempts of hosts, newest first.'),
  get('/executions/{executionId}', 'GetExecution', 'One attempt.'),
  get('/audit-events', 'ListAuditEvents', 'Who changed what, newest first.'),
];

/** Served to everybody: it says nothing about any tenant. */
export const descriptionPath = '/openapi.json';

/** As fastify writes parameters. */
export function templateOf(path: string): string {
  return path.replaceAll(/\{(\w+)\}/g, ':$1');
}

export function pathParameters(path: string): readonly string[] {
  return [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? '');
}
