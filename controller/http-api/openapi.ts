/**
 * The OpenAPI 3.1 description, made from the table of routes, the descriptors of the messages and the rules of their
 * fields. Nothing is declared here a second time; a test holds the document and the server's answers against each other.
 */
import type { DescEnum, DescField, DescMessage } from '@bufbuild/protobuf';
import { errorCatalogue } from '#api/model/error-codes.ts';
import { fleetRules } from '#controller/fleet-api/fleet-calls.ts';
import type { SchemaPart } from '#controller/fleet-api/validation.ts';
import { commentOf, messagesOf, typeOf, type FieldType } from './descriptors.ts';
import { httpStatuses, jsonPath, problemType } from './problem.ts';
import { httpRoutes, pathParameters, type HttpRoute } from './routes.ts';

type Schema = Readonly<Record<string, unknown>>;
export type OpenApiDocument = Readonly<Record<string, unknown>>;

/** By the JSON path of the field: `actions[].name`. */
type Limits = Readonly<Record<string, SchemaPart>>;

const shortName = (type: DescMessage | DescEnum): string => type.typeName.replace(/^nkudo\.v1\./, '').replaceAll('.', '');
const reference = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` });

function limitsOf(route: HttpRoute): Limits {
  const rules: readonly { readonly schemas: Limits }[] = fleetRules[route.call];
  return Object.fromEntries(rules.flatMap((rule) => Object.entries(rule.schemas)).map(([path, schema]) => [jsonPath(path), schema]));
}

function ofType(type: FieldType): Schema {
  switch (type.kind) {
    case 'text':
      return { type: 'string' };
    case 'bytes':
      return { type: 'string', contentEncoding: 'base64' };
    case 'flag':
      return { type: 'boolean' };
    case 'integer':
      return { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER };
    case 'time':
      return { type: 'string', format: 'date-time' };
    default:
      return reference(shortName(type.of));
  }
}

function withComment(schema: Schema, comment: string): Schema {
  return comment === '' ? schema : { ...schema, description: comment };
}

/** Of an answer: every field but absent ones is there, and no other. */
function ofAnswer(type: DescMessage): Schema {
  const properties = type.fields.map((field): [string, Schema] => {
    const one = ofType(typeOf(field));
    return [field.jsonName, withComment(field.fieldKind === 'list' ? { type: 'array', items: one } : one, commentOf(field))];
  });
  const required = type.fields.filter((field) => field.oneof === undefined && !isAbsentable(field)).map((field) => field.jsonName);
  const choices = type.oneofs.flatMap((oneof) => oneof.fields.map((field) => ({ required: [field.jsonName] })));
  return withComment(
    { type: 'object', properties: Object.fromEntries(properties), required, additionalProperties: false, ...(choices.length === 0 ? {} : { oneOf: choices }) },
    commentOf(type),
  );
}

const isAbsentable = (field: DescField): boolean => field.fieldKind === 'message';

function ofEnum(type: DescEnum): Schema {
  return withComment({ type: 'string', enum: type.values.map((value) => value.name) }, commentOf(type));
}

/** Types that the answers hold, each once, by name. */
function answerTypes(routes: readonly HttpRoute[]): Readonly<Record<string, Schema>> {
  const found: Record<string, Schema> = {};
  const visit = (type: DescMessage | DescEnum): void => {
    const name = shortName(type);
    if (found[name] !== undefined) return;
    found[name] = type.kind === 'enum' ? ofEnum(type) : ofAnswer(type);
    if (type.kind === 'enum') return;
    for (const field of type.fields) {
      const kind = typeOf(field);
      if (kind.kind === 'message' || kind.kind === 'enum') visit(kind.of);
    }
  };
  for (const route of routes) visit(messagesOf(route.call).output);
  return found;
}

/** Of a field of a request, with what its rule says. */
function ofRequestField(field: DescField, limits: Limits, prefix = ''): Schema {
  const type = typeOf(field);
  const path = `${prefix}${field.jsonName}`;
  const limit = limits[path] ?? {};
  if (field.fieldKind !== 'list') {
    const one = type.kind === 'enum' ? ofEnum(type.of) : ofType(type);
    return withComment({ ...one, ...limit }, commentOf(field));
  }
  return withComment({ type: 'array', items: type.kind === 'message' ? ofRequest(type.of, limits, `${path}[].`) : ofType(type), ...limit }, commentOf(field));
}

function ofRequest(type: DescMessage, limits: Limits, prefix: string, without: readonly string[] = []): Schema {
  const fields = type.fields.filter((field) => !without.includes(field.jsonName));
  return withComment({ type: 'object', properties: Object.fromEntries(fields.map((field) => [field.jsonName, ofRequestField(field, limits, prefix)])), additionalProperties: false }, commentOf(type));
}

function parametersOf(route: HttpRoute): readonly Schema[] {
  const limits = limitsOf(route);
  const inPath = pathParameters(route.path);
  return messagesOf(route.call).input.fields.flatMap((field): readonly Schema[] => {
    const isInPath = inPath.includes(field.jsonName);
    if (!isInPath && (route.takes !== 'query' || (route.without ?? []).includes(field.jsonName))) return [];
    const { description, ...schema } = ofRequestField(field, limits);
    return [{ name: field.jsonName, in: isInPath ? 'path' : 'query', required: isInPath, schema, ...(description === undefined ? {} : { description }) }];
  });
}

const lastEventId: Schema = {
  name: 'Last-Event-ID', in: 'header', required: false, schema: { type: 'string', maxLength: 128 },
  description: 'Id of the last event that was received: goes on after it. Where the replica does not know it any more, an event `reset` comes first and everything follows.',
};

function answersOf(route: HttpRoute): Schema {
  const output = reference(shortName(messagesOf(route.call).output));
  const content: Readonly<Record<HttpRoute['kind'], Schema>> = {
    json: { 'application/json': { schema: output } },
    // The data of each event is such a message.
    events: { 'text/event-stream': { schema: { type: 'string' }, 'x-nkudo-event': output } },
    text: { 'text/plain': { schema: { type: 'string' } } },
  };
  return {
    '200': { description: route.kind === 'events' ? 'Server-sent events; comments keep the connection alive.' : 'The answer.', content: content[route.kind] },
    default: { description: 'A problem.', content: { [problemType]: { schema: reference('Problem') } } },
  };
}

function operationOf(route: HttpRoute): Schema {
  const { right } = route;
  const parameters = [...parametersOf(route), ...(route.kind === 'events' && route.call !== 'WatchPlan' ? [lastEventId] : [])];
  return {
    operationId: `${route.method.toLowerCase()}${route.path.replaceAll(/[^A-Za-z]+(\w?)/g, (_, letter: string) => letter.toUpperCase())}`,
    summary: route.summary,
    tags: [route.call],
    'x-nkudo-right': right === 'perWrite' ? 'the right to each write that the plan makes' : `${right.verb} ${right.resource}${'subresource' in right ? `/${right.subresource}` : ''}`,
    parameters,
    ...(route.takes !== 'body'
      ? {}
      : { requestBody: { required: true, content: { 'application/json': { schema: ofRequest(messagesOf(route.call).input, limitsOf(route), '', pathParameters(route.path)) } } } }),
    responses: answersOf(route),
  };
}

const problemSchema: Schema = {
  type: 'object',
  description: 'Problem details as in RFC 9457.',
  properties: {
    type: { type: 'string', description: 'urn:nkudo:error: and the code.' },
    title: { type: 'string', description: 'What the code means.' },
    status: { type: 'integer', enum: [...new Set([...Object.values(httpStatuses), 405, 413, 414, 415, 431])] },
    code: { type: 'string', enum: Object.keys(errorCatalogue), description: 'Of docs/errors.md.' },
    detail: { type: 'string', description: 'What is wrong here.' },
    remedy: { type: 'string', description: 'What can be done.' },
    fields: {
      type: 'array',
      description: 'Every field that was refused.',
      items: { type: 'object', properties: { field: { type: 'string' }, problem: { type: 'string' } }, required: ['field', 'problem'], additionalProperties: false },
    },
    retryAfterMs: { type: 'integer', minimum: 0 },
  },
  required: ['type', 'title', 'status', 'code', 'detail', 'remedy'],
  additionalProperties: false,
};

export function describeApi(routes: readonly HttpRoute[] = httpRoutes): OpenApiDocument {
  const paths: Record<string, Record<string, Schema>> = {};
  for (const route of routes) (paths[route.path] ??= {})[route.method.toLowerCase()] = operationOf(route);
  return {
    openapi: '3.1.0',
    info: {
      title: 'n-kudo, the tenants\' API',
      version: 'v1',
      description: 'The same calls as nkudo.v1.FleetService, as HTTPS and JSON. Names and values are those of the protobuf JSON mapping, with 64-bit numbers as numbers.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths,
    components: {
      schemas: { ...answerTypes(routes), Problem: problemSchema },
      securitySchemes: { bearer: { type: 'http', scheme: 'bearer', description: 'A Kubernetes token for the audience nkudo, or an API key.' } },
    },
    security: [{ bearer: [] }],
  };
}
