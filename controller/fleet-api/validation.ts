/**
 * The rules of every field of every request of the tenants' API, as data, and the one place that applies them. A
 * request is refused as a whole, with every field that is wrong and a sentence that says what to write instead.
 * What the objects themselves may say is the API server's to judge.
 */
import { AppError } from '#api/model/error-codes.ts';
import { isUuid } from '#api/model/ids.ts';
import { PlanAction_Kind } from '#api/gen/nkudo/v1/fleet.pb.ts';
import type {
  ApplyPlanRequest, CancelPlanRequest, GetPlanRequest, GetStatusRequest, ListExecutionsRequest, PlanAction, TailLogsRequest, WatchStatusRequest,
} from '#api/gen/nkudo/v1/fleet.pb.ts';

/** Null when the value is right; else what is wrong, to follow the name of the field. */
export type Check<Value, Request> = (value: Value, request: Request) => string | null;

export interface Rule<Request> {
  readonly problems: (request: Request) => readonly { readonly field: string; readonly problem: string }[];
}

/** The first check that fails speaks for the field. */
export function field<Request, Value>(name: string, read: (request: Request) => Value, ...checks: readonly Check<Value, Request>[]): Rule<Request> {
  return {
    problems: (request) => {
      for (const check of checks) {
        const problem = check(read(request), request);
        if (problem !== null) return [{ field: name, problem }];
      }
      return [];
    },
  };
}

/** The rules of each item of a list, under the name of the list and its index. */
export function items<Request, Item>(name: string, read: (request: Request) => readonly Item[], rulesOf: (request: Request) => readonly Rule<Item>[]): Rule<Request> {
  return {
    problems: (request) => {
      const rules = rulesOf(request);
      return read(request).slice(0, itemsCheckedMax).flatMap((item, index) => rules.flatMap((rule) => rule.problems(item)).map((found) => ({ ...found, field: `${name}[${index}].${found.field}` })));
    },
  };
}

/** The length of the list itself is a rule of its own. */
const itemsCheckedMax = 256;
/** More problems than a person reads at once. */
const problemsShownMax = 50;

/** @throws INVALID_REQUEST that names every refused field */
export function validate<Request>(rules: readonly Rule<Request>[], request: Request): void {
  const found = rules.flatMap((rule) => rule.problems(request));
  if (found.length === 0) return;
  const shown = found.slice(0, problemsShownMax).map(({ field: name, problem }) => `${name} ${problem}`);
  const more = found.length > shown.length ? [`and ${found.length - shown.length} more`] : [];
  throw new AppError('INVALID_REQUEST', [...shown, ...more].join('; '), { details: { fields: found.slice(0, problemsShownMax).map(({ field: name }) => name).join(',') } });
}

const labelPattern = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const namePattern = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const keyPattern = /^[\x21-\x7e]+$/;
const nameMax = 253;
const keyMax = 128;
const cursorMax = 1024;
const pageSizeMax = 1000;
const tailBytesMax = 1_048_576;
const objectBytesMax = 65_536;
const actionsMax = 256;
/** Keys of plans that the controller makes begin with it. */
const reservedKeyPrefix = 'cr/';

const isNamespace = (value: string): string | null => (labelPattern.test(value) && value.length <= 63 ? null : 'must be the name of a namespace: at most 63 of a-z, 0-9 and -');
const isName = (value: string): string | null =>
  namePattern.test(value) && value.length <= nameMax ? null : `must be the name of an object: at most ${nameMax} of a-z, 0-9, - and .`;
const isEmptyOr = <Request>(check: Check<string, Request>): Check<string, Request> => (value, request) => (value === '' ? null : check(value, request));
const isId = (value: string): string | null => (isUuid(value) ? null : 'must be a lower-case UUID');
const atMost = (max: number, unit: string) => (value: string): string | null => (value.length <= max ? null : `must have at most ${max} ${unit}`);
const inRange = (min: number, max: number) => (value: number): string | null =>
  Number.isSafeInteger(value) && value >= min && value <= max ? null : `must be a whole number from ${min} to ${max}`;
const oneOf = (...allowed: readonly string[]) => (value: string): string | null => (allowed.includes(value) ? null : `must be ${allowed.filter((text) => text !== '').join(' or ')}`);

const namespace = field<{ readonly namespace: string }, string>('namespace', (request) => request.namespace, isNamespace);
const optionalSite = field<{ readonly site: string }, string>('site', (request) => request.site, isEmptyOr(isName));
const planId = field<{ readonly planId: string }, string>('plan_id', (request) => request.planId, isId);
const page: readonly Rule<{ readonly pageSize: number; readonly pageToken: string }>[] = [
  field('page_size', (request) => request.pageSize, inRange(0, pageSizeMax)),
  field('page_token', (request) => request.pageToken, atMost(cursorMax, 'characters')),
];

export const getPlanRules: readonly Rule<GetPlanRequest>[] = [namespace, planId];
export const cancelPlanRules: readonly Rule<CancelPlanRequest>[] = [namespace, planId];
export const getStatusRules: readonly Rule<GetStatusRequest>[] = [namespace, optionalSite, ...page];
export const watchStatusRules: readonly Rule<WatchStatusRequest>[] = [namespace, optionalSite];
export const listExecutionsRules: readonly Rule<ListExecutionsRequest>[] = [
  namespace,
  field('microvm_uid', (request) => request.microvmUid, isEmptyOr(isId)),
  ...page,
];
export const tailLogsRules: readonly Rule<TailLogsRequest>[] = [
  namespace,
  field('microvm_uid', (request) => request.microvmUid, isId),
  field('source', (request) => request.source, oneOf('', 'serial', 'vmm')),
  field('tail_bytes', (request) => request.tailBytes, inRange(0, tailBytesMax)),
];

export const applyPlanRules: readonly Rule<ApplyPlanRequest>[] = [
  namespace,
  field('site', (request) => request.site, isName),
  field(
    'idempotency_key',
    (request) => request.idempotencyKey,
    (value, request) => (request.dryRun && value !== '' ? 'must be empty with dry_run, which uses no key' : null),
    (value, request) => (!request.dryRun && value === '' ? 'must be given, unless dry_run is set' : null),
    isEmptyOr((value) => (keyPattern.test(value) && value.length <= keyMax ? null : `must have at most ${keyMax} printable ASCII characters without spaces`)),
    (value) => (value.startsWith(reservedKeyPrefix) ? `must not begin with ${reservedKeyPrefix}` : null),
  ),
  field(
    'actions',
    (request) => request.actions,
    (actions) => (actions.length >= 1 && actions.length <= actionsMax ? null : `must have 1 to ${actionsMax} items`),
    (actions) => {
      const names = actions.map((action) => action.name);
      const twice = names.find((name, index) => names.indexOf(name) !== index);
      return twice === undefined ? null : `must name each microVM once, and ${JSON.stringify(twice.slice(0, nameMax))} is there twice`;
    },
  ),
  items('actions', (request) => request.actions, actionRules),
];

const knownKinds: ReadonlySet<number> = new Set([PlanAction_Kind.CREATE, PlanAction_Kind.START, PlanAction_Kind.STOP, PlanAction_Kind.DELETE]);

function actionRules(request: ApplyPlanRequest): readonly Rule<PlanAction>[] {
  return [
    field('kind', (action) => action.kind, (kind) => (knownKinds.has(kind) ? null : 'must be KIND_CREATE, KIND_START, KIND_STOP or KIND_DELETE')),
    field('name', (action) => action.name, isName),
    field('uid', (action) => action.uid, (uid, action) =>
      action.kind === PlanAction_Kind.CREATE ? (uid === '' ? null : 'must be empty with KIND_CREATE: the API server gives it') : isId(uid),
    ),
    field('object_json', (action) => action.objectJson, (text, action) =>
      action.kind === PlanAction_Kind.CREATE ? objectProblem(text, action, request) : text === '' ? null : 'must be empty unless kind is KIND_CREATE',
    ),
  ];
}

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value);

/** Null when the text is none. */
export function parseObject(text: string): Json | null {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : null;
  } catch {
    return null; // The rule says so.
  }
}

const metadataKeys: ReadonlySet<string> = new Set(['name', 'namespace', 'labels', 'annotations']);
const objectKeys: ReadonlySet<string> = new Set(['apiVersion', 'kind', 'metadata', 'spec']);
const planAnnotation = 'nkudo.dev/plan';

function objectProblem(text: string, action: PlanAction, request: ApplyPlanRequest): string | null {
  if (Buffer.byteLength(text) > objectBytesMax) return `must have at most ${objectBytesMax} bytes`;
  const object = parseObject(text);
  if (object === null) return 'must be a MicroVM object as JSON';
  if (object['apiVersion'] !== 'nkudo.dev/v1alpha1' || object['kind'] !== 'MicroVM') return 'must have apiVersion nkudo.dev/v1alpha1 and kind MicroVM';
  const extra = Object.keys(object).find((key) => !objectKeys.has(key));
  if (extra !== undefined) return `must hold apiVersion, kind, metadata and spec only, not ${JSON.stringify(extra.slice(0, 64))}`;
  return metadataProblem(object['metadata'] ?? {}, action, request) ?? specProblem(object['spec'], request);
}

function metadataProblem(metadata: unknown, action: PlanAction, request: ApplyPlanRequest): string | null {
  if (!isObject(metadata)) return 'must have an object as metadata';
  const extra = Object.keys(metadata).find((key) => !metadataKeys.has(key));
  if (extra !== undefined) return `may have name, namespace, labels and annotations in its metadata, not ${JSON.stringify(extra.slice(0, 64))}`;
  if (metadata['name'] !== undefined && metadata['name'] !== action.name) return 'must have the name of the action as metadata.name';
  if (metadata['namespace'] !== undefined && metadata['namespace'] !== request.namespace) return 'must have the namespace of the request as metadata.namespace';
  const annotations = metadata['annotations'] ?? {};
  if (isObject(annotations) && planAnnotation in annotations) return `must not have the annotation ${planAnnotation}, which the plan sets`;
  return null;
}

function specProblem(spec: unknown, request: ApplyPlanRequest): string | null {
  if (!isObject(spec)) return 'must have an object as spec';
  const siteRef = spec['siteRef'];
  return isObject(siteRef) && siteRef['name'] === request.site ? null : 'must have the site of the request as spec.siteRef.name';
}
