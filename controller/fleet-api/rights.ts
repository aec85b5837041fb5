/**
 * Who may do what, as one table: each call of the tenants' API with the right that it asks for, and the rights of each
 * role of an API key. Kubernetes users are asked about by SubjectAccessReview, so that the same words stand in their roles.
 *
 * Invariant: a call that is not here can't be served; a write made for a caller needs the caller's right to that write.
 */
import type { PlanActionKind } from '#api/model/plan.ts';
import type { ApiKeyRole, SiteObject } from '#controller/ports/api-key-store.ts';

export interface ResourceRight {
  readonly verb: 'get' | 'list' | 'watch' | 'create' | 'update' | 'patch' | 'delete' | 'force';
  /** Of the group nkudo.dev. */
  readonly resource: 'microvms' | 'sites' | 'hosts';
  /** `log` reads a log, `audit` who changed what, `console` opens the serial console, `power` starts and stops beside the spec. */
  readonly subresource?: 'log' | 'audit' | 'console' | 'power';
  /** Of one object; absent: of any. */
  readonly name?: string;
}

/** Names of the calls, as in the proto. */
export type FleetMethod =
  | 'ApplyPlan' | 'GetPlan' | 'CancelPlan' | 'GetStatus' | 'WatchStatus' | 'ListExecutions' | 'TailLogs' | 'ListSites' | 'GetSite' | 'ListHosts'
  | 'GetHost' | 'ListMicroVMs' | 'GetMicroVM' | 'ListPlans' | 'WatchPlan' | 'GetExecution' | 'ListAuditEvents';

/**
 * The right that each call asks for in the namespace of its request. `perWrite`: ApplyPlan asks for the right to each
 * write that it makes, {@link writeRights}, and for `force` where the request has it.
 */
export const fleetRights = {
  ApplyPlan: 'perWrite',
  GetPlan: { verb: 'get', resource: 'microvms' },
  CancelPlan: { verb: 'patch', resource: 'microvms' },
  GetStatus: { verb: 'list', resource: 'microvms' },
  WatchStatus: { verb: 'watch', resource: 'microvms' },
  ListExecutions: { verb: 'list', resource: 'microvms' },
  TailLogs: { verb: 'get', resource: 'microvms', subresource: 'log' },
  ListSites: { verb: 'list', resource: 'sites' },
  GetSite: { verb: 'get', resource: 'sites' },
  ListHosts: { verb: 'list', resource: 'hosts' },
  GetHost: { verb: 'get', resource: 'hosts' },
  ListMicroVMs: { verb: 'list', resource: 'microvms' },
  GetMicroVM: { verb: 'get', resource: 'microvms' },
  ListPlans: { verb: 'list', resource: 'microvms' },
  WatchPlan: { verb: 'watch', resource: 'microvms' },
  GetExecution: { verb: 'get', resource: 'microvms' },
  ListAuditEvents: { verb: 'get', resource: 'microvms', subresource: 'audit' },
} as const satisfies Readonly<Record<FleetMethod, ResourceRight | 'perWrite'>>;

const right = (verb: ResourceRight['verb'], resource: ResourceRight['resource'], subresource?: ResourceRight['subresource']): ResourceRight =>
  subresource === undefined ? { verb, resource } : { verb, resource, subresource };

/** The write that an action of a plan makes for its caller. */
export const writeRights: Readonly<Record<PlanActionKind, ResourceRight>> = {
  Create: right('create', 'microvms'),
  Start: right('patch', 'microvms'),
  Stop: right('patch', 'microvms'),
  Delete: right('delete', 'microvms'),
};

/** Takes fields over from whoever owns them. */
export const forceRight: ResourceRight = right('force', 'microvms');

/** What an API key may do; each role has the rights of the one before it. */
export const keyRoles = ['read', 'operate', 'admin'] as const satisfies readonly ApiKeyRole[];

/** Rights that each role adds to the one before it. */
export const roleRights: Readonly<Record<ApiKeyRole, readonly ResourceRight[]>> = {
  read: [
    ...(['microvms', 'sites', 'hosts'] as const).flatMap((resource) => (['get', 'list', 'watch'] as const).map((verb) => right(verb, resource))),
    right('get', 'microvms', 'log'),
  ],
  operate: [
    ...(['create', 'update', 'patch', 'delete'] as const).map((verb) => right(verb, 'microvms')),
    right('get', 'microvms', 'console'),
    right('update', 'microvms', 'power'),
  ],
  admin: [forceRight, right('get', 'microvms', 'audit')],
};

const keyOf = ({ verb, resource, subresource }: ResourceRight): string => `${verb} ${resource}/${subresource ?? ''}`;

const granted: ReadonlyMap<ApiKeyRole, ReadonlySet<string>> = new Map(
  keyRoles.map((role, index) => [role, new Set(keyRoles.slice(0, index + 1).flatMap((lower) => roleRights[lower].map(keyOf)))]),
);

/** Whether a key of that role has the right, on every object of its namespace. */
export function roleAllows(role: ApiKeyRole, asked: ResourceRight): boolean {
  return granted.get(role)?.has(keyOf(asked)) ?? false;
}

/** For a sentence: `get microvms/log till`. */
export function describeRight({ verb, resource, subresource, name }: ResourceRight): string {
  return `${verb} ${resource}${subresource === undefined ? '' : `/${subresource}`}${name === undefined ? '' : ` ${name}`}`;
}

/** What a call is about, for keys that are good for one site. */
export type CallTarget = { readonly site: string } | SiteObject;

/** Calls that name one object by its name or its id. */
const namedKinds: Partial<Record<FleetMethod, 'site' | 'host' | 'microvm'>> = { GetSite: 'site', GetHost: 'host', GetMicroVM: 'microvm' };

/** Undefined when the request is about the whole namespace. */
export function targetOf(method: FleetMethod, request: object): CallTarget | undefined {
  const text = (field: string): string => {
    const value: unknown = Object.getOwnPropertyDescriptor(request, field)?.value;
    return typeof value === 'string' ? value : '';
  };
  const named = namedKinds[method];
  if (named === 'site') return { site: text('name') };
  if (named !== undefined) return text('name') === '' ? { kind: named, id: text('uid') || text('id') } : { kind: named, name: text('name') };
  if (text('site') !== '') return { site: text('site') };
  if (text('planId') !== '') return { kind: 'plan', id: text('planId') };
  if (text('microvmUid') !== '') return { kind: 'microvm', id: text('microvmUid') };
  return text('executionId') === '' ? undefined : { kind: 'execution', id: text('executionId') };
}
