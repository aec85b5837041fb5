/**
 * Between the messages of ts-proto and JSON, by their descriptors. Names are those of the protobuf JSON mapping and enums
 * are their names, so that what gRPC clients print is what this API answers; 64-bit numbers are numbers, as all of them
 * are below 2^53.
 *
 * Decoding is strict: a field that is unknown, there twice or of another type is a problem, and all problems are named.
 */
import type { DescEnum, DescField, DescMessage } from '@bufbuild/protobuf';
import type { Timestamp } from '#api/gen/google/protobuf/timestamp.pb.ts';
import type { FieldProblem } from '#controller/fleet-api/validation.ts';
import { typeOf, type FieldType } from './descriptors.ts';

type Json = Readonly<Record<string, unknown>>;
/** A message as ts-proto represents it. */
export type MessageValue = Readonly<Record<string, unknown>>;

/** Name of the property in ts-proto's messages: it makes `listMicroVMs`-like names as protobuf's JSON does. */
const nameOf = (field: DescField): string => field.jsonName;

// --- to JSON ---

function encodeEnum(type: DescEnum, value: unknown): string {
  return type.values.find((each) => each.number === value)?.name ?? String(value);
}

function encodeTime(value: Timestamp): string {
  return new Date(value.seconds * 1000 + Math.floor(value.nanos / 1e6)).toISOString();
}

function encodeValue(type: FieldType, value: unknown): unknown {
  switch (type.kind) {
    case 'enum':
      return encodeEnum(type.of, value);
    case 'time':
      return encodeTime(value as Timestamp); // By the descriptor.
    case 'bytes':
      return Buffer.from(value as Uint8Array).toString('base64'); // By the descriptor.
    case 'message':
      return encodeMessage(type.of, value as MessageValue); // By the descriptor.
    default:
      return value;
  }
}

/** Every field is there, but times and messages that are absent and the cases of a oneof that are not the one. */
export function encodeMessage(type: DescMessage, message: MessageValue): Json {
  const json: Record<string, unknown> = {};
  for (const oneof of type.oneofs) {
    const chosen = message[oneof.localName] as { readonly $case: string; readonly value: unknown } | undefined; // ts-proto's shape of a oneof.
    const field = oneof.fields.find((each) => nameOf(each) === chosen?.$case);
    if (field !== undefined && chosen !== undefined) json[nameOf(field)] = encodeValue(typeOf(field), chosen.value);
  }
  for (const field of type.fields) {
    if (field.oneof !== undefined) continue;
    const value = message[nameOf(field)];
    if (value === undefined) continue;
    json[nameOf(field)] = field.fieldKind === 'list' ? (value as readonly unknown[]).map((item) => encodeValue(typeOf(field), item)) : encodeValue(typeOf(field), value); // By the descriptor.
  }
  return json;
}

// --- from JSON and from texts of a path or a query ---

const timePattern = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$/;

function parseTime(text: string): Timestamp | null {
  const ms = timePattern.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isFinite(ms)) return null;
  const seconds = Math.floor(ms / 1000);
  return { seconds, nanos: (ms - seconds * 1000) * 1_000_000 };
}

interface Parsed {
  readonly value: unknown;
  readonly problem: string | null;
}

const ok = (value: unknown): Parsed => ({ value, problem: null });
const wrong = (problem: string): Parsed => ({ value: undefined, problem });

function parseText(type: FieldType, text: string): Parsed {
  switch (type.kind) {
    case 'text':
      return ok(text);
    case 'integer':
      return /^\d{1,15}$/.test(text) ? ok(Number(text)) : wrong('must be a whole number of at most 15 digits');
    case 'flag':
      return text === 'true' || text === 'false' ? ok(text === 'true') : wrong('must be true or false');
    default:
      return parseShared(type, text);
  }
}

/** What is written alike in JSON and in a query. */
function parseShared(type: FieldType, value: unknown): Parsed {
  if (type.kind === 'enum') {
    const found = type.of.values.find((each) => each.name === value);
    return found === undefined ? wrong(`must be one of ${type.of.values.map((each) => each.name).join(', ')}`) : ok(found.number);
  }
  if (type.kind === 'time') {
    const time = typeof value === 'string' ? parseTime(value) : null;
    return time === null ? wrong('must be a time as in RFC 3339, such as 2026-01-31T12:00:00Z') : ok(time);
  }
  throw new Error(`a request has no field of the kind ${type.kind}`);
}

const defaults: Readonly<Record<FieldType['kind'], unknown>> = { text: '', bytes: undefined, flag: false, integer: 0, time: undefined, enum: 0, message: undefined };

function emptyOf(field: DescField): unknown {
  return field.fieldKind === 'list' ? [] : defaults[typeOf(field).kind];
}

export interface Decoded {
  /** With every field, those that were not given at their defaults. */
  readonly message: MessageValue;
  readonly problems: readonly FieldProblem[];
}

/** Of fields that were given as texts. */
export function decodeTexts(type: DescMessage, texts: Readonly<Record<string, unknown>>, takes: (name: string) => boolean): Decoded {
  const message: Record<string, unknown> = Object.fromEntries(type.fields.map((field) => [nameOf(field), emptyOf(field)]));
  const problems: FieldProblem[] = [];
  for (const [name, text] of Object.entries(texts)) {
    const field = type.fields.find((each) => nameOf(each) === name);
    if (field === undefined || !takes(name)) problems.push({ field: shown(name), problem: 'is not a field of this request' });
    else if (typeof text !== 'string') problems.push({ field: name, problem: 'must be there once' });
    else {
      const parsed = parseText(typeOf(field), text);
      if (parsed.problem === null) message[name] = parsed.value;
      else problems.push({ field: name, problem: parsed.problem });
    }
  }
  return { message, problems };
}

/** Names that a caller made up are repeated in part. */
const shown = (name: string): string => (/^[\w.[\]-]{1,64}$/.test(name) ? name : JSON.stringify(name.slice(0, 64)));

/** More items than any rule allows are not looked at; the rule of the list refuses it. */
const itemsReadMax = 257;

/** `takes` limits the fields of the outermost object. */
export function decodeJson(type: DescMessage, json: unknown, takes: (name: string) => boolean = () => true, path = ''): Decoded {
  const message: Record<string, unknown> = Object.fromEntries(type.fields.map((field) => [nameOf(field), emptyOf(field)]));
  const problems: FieldProblem[] = [];
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return { message, problems: [{ field: path === '' ? 'body' : path, problem: 'must be a JSON object' }] };
  const prefix = path === '' ? '' : `${path}.`;
  const take = (at: string, parsed: Parsed): unknown => {
    if (parsed.problem !== null) problems.push({ field: at, problem: parsed.problem });
    return parsed.value;
  };
  const decodeOne = (kind: FieldType, value: unknown, at: string): unknown => {
    switch (kind.kind) {
      case 'text':
        return take(at, typeof value === 'string' ? ok(value) : wrong('must be a text'));
      case 'flag':
        return take(at, typeof value === 'boolean' ? ok(value) : wrong('must be true or false'));
      case 'integer':
        return take(at, typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? ok(value) : wrong('must be a whole number'));
      case 'message': {
        const inner = decodeJson(kind.of, value, () => true, at);
        problems.push(...inner.problems);
        return inner.message;
      }
      default:
        return take(at, parseShared(kind, value));
    }
  };
  for (const [name, value] of Object.entries(json)) {
    const field = type.fields.find((each) => nameOf(each) === name);
    const at = `${prefix}${shown(name)}`;
    if (field === undefined || !takes(name)) problems.push({ field: at, problem: 'is not a field of this request' });
    else if (field.fieldKind !== 'list') message[name] = decodeOne(typeOf(field), value, at) ?? emptyOf(field);
    else if (!Array.isArray(value)) problems.push({ field: at, problem: 'must be a list' });
    else message[name] = value.slice(0, itemsReadMax).map((item: unknown, index) => decodeOne(typeOf(field), item, `${at}[${index}]`));
  }
  return { message, problems };
}
