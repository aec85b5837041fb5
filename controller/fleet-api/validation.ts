/**
 * The rules of every field of every request of the tenants' API, as data, and the one place that applies them. A
 * request is refused as a whole, with every field that is wrong and a sentence that says what to write instead.
 * What the objects themselves may say is the API server's to judge.
 */
import { AppError } from '#api/model/error-codes.ts';
import { isUuid } from '#api/model/ids.ts';
import { PlanAction_Kind, PlanStatus } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { observedStates } from '#api/model/microvm.ts';
import { executionStatuses } from '#api/model/plan.ts';
import type { Timestamp } from '#api/gen/google/protobuf/timestamp.pb.ts';
import type {
  ApplyPlanRequest, CancelPlanRequest, GetExecutionRequest, GetHostRequest, GetMicroVMRequest, GetPlanRequest, GetSiteRequest, GetStatusRequest,
  ListAuditEventsRequest, ListExecutionsRequest, ListHostsRequest, ListMicroVMsRequest, ListPlansRequest, ListSitesRequest, PlanAction,
  TailLogsRequest, WatchPlanRequest, WatchStatusRequest,
} from '#api/gen/nkudo/v1/fleet.pb.ts';

/** The part of JSON Schema that can say what a check asks for; the rest is in its sentence. */
export type SchemaPart = Readonly<Record<string, string | number | readonly (string | number)[]>>;

/** Null when the value is right; else what is wrong, to follow the name of the field. */
export interface Check<Value, Request> {
  (value: Value, request: Request): string | null;
  /** For the description of the API; checks that depend on other fields have none. */
  readonly schema?: SchemaPart;
}

export interface Rule<Request> {
  readonly problems: (request: Request) => readonly FieldProblem[];
  /** What the rule says of each field, by its path: `site`, `actions[].name`. */
  readonly schemas: Readonly<Record<string, SchemaPart>>;
}

function described<Value, Request = unknown>(schema: SchemaPart, check: (value: Value, request: Request) => string | null): Check<Value, Request> {
  return Object.assign((value: Value, request: Request) => check(value, request), { schema });
}

/** The first check that fails speaks for the field. */
export function field<Request, Value>(name: string, read: (request: Request) => Value, ...checks: readonly Check<Value, NoInfer<Request>>[]): Rule<Request> {
  return {
    schemas: { [name]: Object.assign({}, ...checks.map((check) => check.schema ?? {})) as SchemaPart }, // Parts of parts.
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
export function items<Request, Item>(name: string, read: (request: Request) => readonly Item[], rulesOf: (request: Request) => readonly Rule<Item>[], describedBy: readonly Rule<Item>[]): Rule<Request> {
  return {
    // What the rules of an item say of its form is the same in every request.
    schemas: Object.fromEntries(describedBy.flatMap((rule) => Object.entries(rule.schemas)).map(([path, schema]) => [`${name}[].${path}`, schema])),
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

export interface FieldProblem {
  readonly field: string;
  /** To follow the name of the field. */
  readonly problem: string;
}

const problems = new WeakMap<AppError, readonly FieldProblem[]>();

/** What {@link refuse} said, field by field; empty for every other error. */
export function problemsOf(error: AppError): readonly FieldProblem[] {
  return problems.get(error) ?? [];
}

/** @throws INVALID_REQUEST that names every refused field, unless there is none */
export function refuse(found: readonly FieldProblem[]): void {
  if (found.length === 0) return;
  const shown = found.slice(0, problemsShownMax);
  const sentences = shown.map(({ field: name, problem }) => `${name} ${problem}`);
  const more = found.length > shown.length ? [`and ${found.length - shown.length} more`] : [];
  const error = new AppError('INVALID_REQUEST', [...sentences, ...more].join('; '), { details: { fields: shown.map(({ field: name }) => name).join(',') } });
  problems.set(error, shown);
  throw error;
}

/** All problems that the rules find. */
export function check<Request>(rules: readonly Rule<Request>[], request: Request): readonly FieldProblem[] {
  return rules.flatMap((rule) => rule.problems(request));
}

/** @throws INVALID_REQUEST that names every refused field */
export function validate<Request>(rules: readonly Rule<Request>[], request: Request): void {
  refuse(check(rules, request));
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
const planPageSizeMax = 100;
const uuidPattern = '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
const knownPlanStatuses: ReadonlySet<number> = new Set(Object.values(PlanStatus).filter((status) => status >= PlanStatus.UNSPECIFIED));
/** Keys of plans that the controller makes begin with it. */
const reservedKeyPrefix = 'cr/';

const isNamespace = described<string>({ pattern: labelPattern.source, maxLength: 63 }, (value) =>
  labelPattern.test(value) && value.length <= 63 ? null : 'must be the name of a namespace: at most 63 of a-z, 0-9 and -',
);
const isName = described<string>({ pattern: namePattern.source, maxLength: nameMax }, (value) =>
  namePattern.test(value) && value.length <= nameMax ? null : `must be the name of an object: at most ${nameMax} of a-z, 0-9, - and .`,
);
/** The schema says what it must be when it is there: an empty text on the wire is a field that was left out. */
const isEmptyOr = <Request>(check: Check<string, Request>): Check<string, Request> => described(check.schema ?? {}, (value, request: Request) => (value === '' ? null : check(value, request)));
const isId = described<string>({ format: 'uuid', pattern: uuidPattern }, (value) => (isUuid(value) ? null : 'must be a lower-case UUID'));
const atMost = (max: number, unit: string): Check<string, unknown> => described({ maxLength: max }, (value) => (value.length <= max ? null : `must have at most ${max} ${unit}`));
const inRange = (min: number, max: number): Check<number, unknown> =>
  described({ minimum: min, maximum: max }, (value) => (Number.isSafeInteger(value) && value >= min && value <= max ? null : `must be a whole number from ${min} to ${max}`));
const oneOf = (...allowed: readonly string[]): Check<string, unknown> => {
  const shown = allowed.filter((text) => text !== '');
  return described({ enum: shown }, (value) => (allowed.includes(value) ? null : `must be ${shown.slice(0, -1).join(', ')} or ${shown.at(-1)}`));
};
const isPlanStatus: Check<number, unknown> = (value) => (knownPlanStatuses.has(value) ? null : 'must be one of the names of PlanStatus');
/** Latest time that a timestamp can hold, see google/protobuf/timestamp.proto. */
const latestSeconds = 253_402_300_799;
const isTime: Check<Timestamp | undefined, unknown> = (value) =>
  value === undefined || (value.seconds >= 0 && value.seconds <= latestSeconds && value.nanos >= 0 && value.nanos < 1e9) ? null : 'must be a time from 1970 to 9999';

const namespace = field<{ readonly namespace: string }, string>('namespace', (request) => request.namespace, isNamespace);
const optionalSite = field<{ readonly site: string }, string>('site', (request) => request.site, isEmptyOr(isName));
const planId = field<{ readonly planId: string }, string>('plan_id', (request) => request.planId, isId);
const optionalMicroVM = field<{ readonly microvmUid: string }, string>('microvm_uid', (request) => request.microvmUid, isEmptyOr(isId));
type PageRequest = { readonly pageSize: number; readonly pageToken: string };
const pageOf = (max: number): readonly Rule<PageRequest>[] => [
  field('page_size', (request: PageRequest) => request.pageSize, inRange(0, max)),
  field('page_token', (request: PageRequest) => request.pageToken, atMost(cursorMax, 'characters')),
];
const page = pageOf(pageSizeMax);
/** An object by its name or by its id, under the name that the id has in the message. */
function nameOr<Request extends { readonly name: string }>(idName: string, readId: (request: Request) => string): readonly Rule<Request>[] {
  return [
    field('name', (request: Request) => request.name, (value, request) => ((value === '') === (readId(request) === '') ? `must be given, or ${idName}, and not both` : null), isEmptyOr(isName)),
    field(idName, readId, isEmptyOr(isId)),
  ];
}

export const getPlanRules: readonly Rule<GetPlanRequest>[] = [namespace, planId];
export const watchPlanRules: readonly Rule<WatchPlanRequest>[] = [namespace, planId];
export const cancelPlanRules: readonly Rule<CancelPlanRequest>[] = [namespace, planId];
export const getStatusRules: readonly Rule<GetStatusRequest>[] = [namespace, optionalSite, ...page];
export const watchStatusRules: readonly Rule<WatchStatusRequest>[] = [namespace, optionalSite];
export const listSitesRules: readonly Rule<ListSitesRequest>[] = [namespace, ...page];
export const getSiteRules: readonly Rule<GetSiteRequest>[] = [namespace, ...nameOr<GetSiteRequest>('uid', (request) => request.uid)];
export const listHostsRules: readonly Rule<ListHostsRequest>[] = [namespace, optionalSite, ...page];
export const getHostRules: readonly Rule<GetHostRequest>[] = [namespace, ...nameOr<GetHostRequest>('id', (request) => request.id)];
export const getMicroVMRules: readonly Rule<GetMicroVMRequest>[] = [namespace, ...nameOr<GetMicroVMRequest>('uid', (request) => request.uid)];
export const listMicroVMsRules: readonly Rule<ListMicroVMsRequest>[] = [
  namespace,
  optionalSite,
  field('host', (request) => request.host, isEmptyOr(isName)),
  field('state', (request) => request.state, oneOf('', ...observedStates)),
  ...page,
];
export const listPlansRules: readonly Rule<ListPlansRequest>[] = [namespace, optionalSite, optionalMicroVM, field('status', (request) => request.status, isPlanStatus), ...pageOf(planPageSizeMax)];
export const listExecutionsRules: readonly Rule<ListExecutionsRequest>[] = [
  namespace,
  optionalSite,
  optionalMicroVM,
  field('operation_id', (request) => request.operationId, isEmptyOr(isId)),
  field('plan_id', (request) => request.planId, isEmptyOr(isId)),
  field('host', (request) => request.host, isEmptyOr(isName)),
  field('status', (request) => request.status, oneOf('', ...executionStatuses)),
  field('started_from', (request) => request.startedFrom, isTime),
  field('started_before', (request) => request.startedBefore, isTime),
  ...page,
];
export const getExecutionRules: readonly Rule<GetExecutionRequest>[] = [namespace, field('execution_id', (request) => request.executionId, isId)];
export const listAuditEventsRules: readonly Rule<ListAuditEventsRequest>[] = [
  namespace,
  field('subject_kind', (request) => request.subjectKind, isEmptyOr(described({ pattern: '^[a-zA-Z]+$', maxLength: 32 }, (value) => (/^[a-zA-Z]{1,32}$/.test(value) ? null : 'must have at most 32 letters')))),
  field('subject_id', (request) => request.subjectId, isEmptyOr(isId)),
  ...page,
];
export const tailLogsRules: readonly Rule<TailLogsRequest>[] = [
  namespace,
  field('microvm_uid', (request) => request.microvmUid, isId),
  field('source', (request) => request.source, oneOf('', 'serial', 'vmm')),
  field('tail_bytes', (request) => request.tailBytes, inRange(0, tailBytesMax), (value, request) => (value > 0 && request.incarnation > 0 ? 'must be 0 with incarnation, which says where to begin' : null)),
  field('incarnation', (request) => request.incarnation, inRange(0, Number.MAX_SAFE_INTEGER)),
  field('from_offset', (request) => request.fromOffset, inRange(0, Number.MAX_SAFE_INTEGER), (value, request) => (value > 0 && request.incarnation === 0 ? 'must be 0 without incarnation' : null)),
];

export const applyPlanRules: readonly Rule<ApplyPlanRequest>[] = [
  namespace,
  field('site', (request) => request.site, isName),
  field(
    'idempotency_key',
    (request) => request.idempotencyKey,
    (value, request) => (request.dryRun && value !== '' ? 'must be empty with dry_run, which uses no key' : null),
    (value, request) => (!request.dryRun && value === '' ? 'must be given, unless dry_run is set' : null),
    isEmptyOr(described({ pattern: keyPattern.source, maxLength: keyMax }, (value) => (keyPattern.test(value) && value.length <= keyMax ? null : `must have at most ${keyMax} printable ASCII characters without spaces`))),
    (value) => (value.startsWith(reservedKeyPrefix) ? `must not begin with ${reservedKeyPrefix}` : null),
  ),
  field(
    'actions',
    (request) => request.actions,
    described<readonly PlanAction[]>({ minItems: 1, maxItems: actionsMax }, (actions) => (actions.length >= 1 && actions.length <= actionsMax ? null : `must have 1 to ${actionsMax} items`)),
    (actions) => {
      const names = actions.map((action) => action.name);
      const twice = names.find((name, index) => names.indexOf(name) !== index);
      return twice === undefined ? null : `must name each microVM once, and ${JSON.stringify(twice.slice(0, nameMax))} is there twice`;
    },
  ),
  items<ApplyPlanRequest, PlanAction>('actions', (request) => request.actions, actionRules, actionRules(null)),
];

const knownKinds: ReadonlySet<number> = new Set([PlanAction_Kind.CREATE, PlanAction_Kind.START, PlanAction_Kind.STOP, PlanAction_Kind.DELETE]);

/** Null as request: for the description alone. */
function actionRules(request: ApplyPlanRequest | null): readonly Rule<PlanAction>[] {
  return [
    field('kind', (action) => action.kind, (kind) => (knownKinds.has(kind) ? null : 'must be KIND_CREATE, KIND_START, KIND_STOP or KIND_DELETE')),
    field('name', (action) => action.name, isName),
    field('uid', (action) => action.uid, described(isId.schema ?? {}, (uid, action: PlanAction) =>
      action.kind === PlanAction_Kind.CREATE ? (uid === '' ? null : 'must be empty with KIND_CREATE: the API server gives it') : isId(uid, action),
    )),
    field('object_json', (action) => action.objectJson, described({ maxLength: objectBytesMax }, (text, action: PlanAction) => {
      if (action.kind !== PlanAction_Kind.CREATE) return text === '' ? null : 'must be empty unless kind is KIND_CREATE';
      return request === null ? null : objectProblem(text, action, request);
    })),
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
