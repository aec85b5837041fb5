/**
 * The messages of the tenants' API by their descriptors: the one declaration from which the JSON of this API, its
 * parameters and its description come. Comments of the proto are the descriptions.
 */
import { createFileRegistry, fromBinary, ScalarType, type DescEnum, type DescField, type DescFile, type DescMessage } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { fleetDescriptorSet } from '#api/gen/fleet-descriptors.ts';
import type { FleetMethod } from '#controller/fleet-api/rights.ts';

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(fleetDescriptorSet, 'base64')));
const service = registry.getService('nkudo.v1.FleetService');

export interface CallMessages {
  readonly input: DescMessage;
  readonly output: DescMessage;
}

export function messagesOf(call: FleetMethod): CallMessages {
  const method = service?.methods.find((each) => each.name === call);
  if (method === undefined) throw new Error(`the descriptor set lacks ${call}`);
  return { input: method.input, output: method.output };
}

export const timestampType = 'google.protobuf.Timestamp';

export type FieldType =
  | { readonly kind: 'text' | 'bytes' | 'flag' | 'integer' | 'time' }
  | { readonly kind: 'enum'; readonly of: DescEnum }
  | { readonly kind: 'message'; readonly of: DescMessage };

function typeOfScalar(scalar: ScalarType): FieldType {
  switch (scalar) {
    case ScalarType.STRING:
      return { kind: 'text' };
    case ScalarType.BYTES:
      return { kind: 'bytes' };
    case ScalarType.BOOL:
      return { kind: 'flag' };
    case ScalarType.UINT32:
    case ScalarType.UINT64:
      return { kind: 'integer' };
    default:
      throw new Error(`fields of the scalar type ${ScalarType[scalar]} have no JSON here`);
  }
}

const ofMessage = (message: DescMessage): FieldType => (message.typeName === timestampType ? { kind: 'time' } : { kind: 'message', of: message });

/** Type of a field, or of the items of a list. */
export function typeOf(field: DescField): FieldType {
  switch (field.fieldKind) {
    case 'scalar':
      return typeOfScalar(field.scalar);
    case 'enum':
      return { kind: 'enum', of: field.enum };
    case 'message':
      return ofMessage(field.message);
    case 'list':
      if (field.listKind === 'scalar') return typeOfScalar(field.scalar);
      return field.listKind === 'enum' ? { kind: 'enum', of: field.enum } : ofMessage(field.message);
    default:
      throw new Error(`${field.toString()} is a map, which has no JSON here`);
  }
}

const comments = new Map<DescFile, ReadonlyMap<string, string>>();

function commentAt(file: DescFile, path: readonly number[]): string {
  let known = comments.get(file);
  if (known === undefined) {
    known = new Map((file.proto.sourceCodeInfo?.location ?? []).map((location) => [location.path.join('.'), location.leadingComments.trim().replaceAll(/\s*\n\s*/g, ' ')]));
    comments.set(file, known);
  }
  return known.get(path.join('.')) ?? '';
}

/** Numbers of fields in descriptor.proto. */
const inFile = { messages: 4, enums: 5 } as const;
const inMessage = { fields: 2, nested: 3, enums: 4 } as const;

function pathOf(message: DescMessage): readonly number[] {
  if (message.parent === undefined) return [inFile.messages, message.file.messages.indexOf(message)];
  return [...pathOf(message.parent), inMessage.nested, message.parent.nestedMessages.indexOf(message)];
}

export function commentOf(described: DescMessage | DescField | DescEnum): string {
  if (described.kind === 'field') return commentAt(described.parent.file, [...pathOf(described.parent), inMessage.fields, described.parent.fields.indexOf(described)]);
  if (described.kind === 'message') return commentAt(described.file, pathOf(described));
  if (described.parent === undefined) return commentAt(described.file, [inFile.enums, described.file.enums.indexOf(described)]);
  return commentAt(described.file, [...pathOf(described.parent), inMessage.enums, described.parent.nestedEnums.indexOf(described)]);
}
