/**
 * A request for every call of the tenants' API, made from the descriptor of its message: a value for each field by its
 * name. A field that is not known here fails the run, so that a new one is told to be an id or not.
 */
import { PlanAction_Kind } from '#api/gen/nkudo/v1/fleet.pb.ts';
import type { FleetMethod } from '#controller/fleet-api/rights.ts';
import { messagesOf, typeOf } from '#controller/http-api/descriptors.ts';
import type { Message } from '../identity/fleet-client.ts';
import type { TestTenant } from '../identity/fleet-server.ts';

/** What the names of a call's `name`, `uid` and `id` stand for. */
const named: Partial<Record<FleetMethod, { readonly name: keyof TestTenant; readonly id: keyof TestTenant }>> = {
  GetSite: { name: 'siteName', id: 'siteId' },
  GetHost: { name: 'hostName', id: 'hostId' },
  GetMicroVM: { name: 'microvmName', id: 'microvmId' },
};

/** Fields that name something of a tenant, with their value there. */
const idFields: Readonly<Record<string, (tenant: TestTenant, method: FleetMethod) => string>> = {
  site: (tenant) => tenant.siteName,
  host: (tenant) => tenant.hostName,
  planId: (tenant) => tenant.planId,
  operationId: (tenant) => tenant.operationId,
  executionId: (tenant) => tenant.executionId,
  microvmUid: (tenant) => tenant.microvmId,
  subjectId: (tenant) => tenant.microvmId,
  name: (tenant, method) => tenant[named[method]?.name ?? 'siteName'],
  uid: (tenant, method) => tenant[named[method]?.id ?? 'siteId'],
  id: (tenant, method) => tenant[named[method]?.id ?? 'siteId'],
};

/** Fields that name nothing. */
const neutralFields = new Set([
  'namespace', 'pageSize', 'pageToken', 'status', 'state', 'source', 'tailBytes', 'follow', 'startedFrom', 'startedBefore', 'subjectKind', 'includeController',
  'idempotencyKey', 'actions', 'dryRun', 'force', 'fromOffset', 'incarnation', 'since', 'until',
]);

/** Ids without which a call says nothing; all others are filters. */
const needed: Readonly<Record<string, readonly FleetMethod[]>> = {
  planId: ['GetPlan', 'CancelPlan', 'WatchPlan'],
  executionId: ['GetExecution'],
  microvmUid: ['TailLogs'],
  site: ['ApplyPlan'],
};

const empty = { text: '', bytes: Buffer.alloc(0), flag: false, integer: 0, time: undefined, enum: 0, message: undefined } as const;

/** Names of the fields of the call's request that name something. */
export function idFieldsOf(method: FleetMethod): readonly string[] {
  return messagesOf(method).input.fields.map((field) => field.jsonName).filter((name) => Object.hasOwn(idFields, name));
}

/** Fields that nobody has said to be an id or not. */
export function unknownFieldsOf(method: FleetMethod): readonly string[] {
  return messagesOf(method).input.fields.map((field) => field.jsonName).filter((name) => !Object.hasOwn(idFields, name) && !neutralFields.has(name));
}

export const valueOf = (field: string, tenant: TestTenant, method: FleetMethod): string => idFields[field]?.(tenant, method) ?? '';

let keys = 0;

const actionOf = (tenant: TestTenant, kind: PlanAction_Kind): Message =>
  kind === PlanAction_Kind.CREATE
    ? { kind, name: 'made', uid: '', objectJson: JSON.stringify({ apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name: 'made' }, spec: { siteRef: { name: tenant.siteName } } }) }
    : { kind, name: tenant.microvmName, uid: tenant.microvmId, objectJson: '' };

/** A request that is right for the tenant. */
export function sampleOf(method: FleetMethod, tenant: TestTenant, kind: PlanAction_Kind = PlanAction_Kind.STOP): Message {
  const message: Record<string, unknown> = {};
  for (const field of messagesOf(method).input.fields) {
    message[field.jsonName] = field.fieldKind === 'list' ? [] : empty[typeOf(field).kind];
  }
  message['namespace'] = tenant.namespace;
  for (const [name, methods] of Object.entries(needed)) if (methods.includes(method)) message[name] = valueOf(name, tenant, method);
  if (named[method] !== undefined) message['name'] = valueOf('name', tenant, method);
  if (method === 'ApplyPlan') {
    keys += 1;
    message['idempotencyKey'] = `sample-${keys}`;
    message['actions'] = [actionOf(tenant, kind)];
  }
  return message;
}

/** The same request with one id of another tenant. */
export function withForeign(method: FleetMethod, field: string, tenants: { readonly own: TestTenant; readonly foreign: TestTenant }): Message {
  const message = { ...sampleOf(method, tenants.own), [field]: valueOf(field, tenants.foreign, method) };
  // By exactly one of its names.
  if (named[method] !== undefined && field !== 'name') return { ...message, name: '' };
  return method === 'ListAuditEvents' ? { ...message, subjectKind: 'microvm' } : message;
}
