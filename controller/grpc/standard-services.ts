/**
 * The standard health service and server reflection version 1, served from the descriptor set that
 * buf builds: the messages are encoded by their descriptors, so nothing needs files at run time.
 */
import { createFileRegistry, create, fromBinary, isMessage, toBinary, type DescFile, type DescMessage, type FileRegistry, type Message } from '@bufbuild/protobuf';
import { reflect } from '@bufbuild/protobuf/reflect';
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { status, type MethodDefinition } from '@grpc/grpc-js';
import { fleetDescriptorSet } from '#api/gen/fleet-descriptors.ts';
import { AppError } from '#api/model/error-codes.ts';
import type { AccessTable, RegisteredService } from './access.ts';
import { duplex, serverStream, unary, type CallDeps } from './calls.ts';

const registry: FileRegistry = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(fleetDescriptorSet, 'base64')));

function messageType(name: string): DescMessage {
  const found = registry.getMessage(name);
  if (found === undefined) throw new Error(`the descriptor set lacks ${name}`);
  return found;
}

function method(path: string, types: { readonly request: DescMessage; readonly response: DescMessage }, streams: { readonly request: boolean; readonly response: boolean }): MethodDefinition<Message, Message> {
  const encode = (type: DescMessage) => (value: Message): Buffer => Buffer.from(toBinary(type, value));
  const decode = (type: DescMessage) => (bytes: Buffer): Message => fromBinary(type, bytes);
  return {
    path,
    requestStream: streams.request,
    responseStream: streams.response,
    requestSerialize: encode(types.request),
    requestDeserialize: decode(types.request),
    responseSerialize: encode(types.response),
    responseDeserialize: decode(types.response),
  };
}

/** Reads a field by the name it has in the proto file; unset fields give their default. */
function fieldOf(type: DescMessage, message: Message, name: string): unknown {
  const field = type.fields.find((candidate) => candidate.name === name);
  if (field === undefined || !isMessage(message, type)) throw new Error(`${type.typeName} has no field ${name}`);
  return reflect(type, message).get(field);
}

// --- health ---

const healthTypes = { request: messageType('grpc.health.v1.HealthCheckRequest'), response: messageType('grpc.health.v1.HealthCheckResponse') };
const healthDefinition = {
  check: method('/grpc.health.v1.Health/Check', healthTypes, { request: false, response: false }),
  watch: method('/grpc.health.v1.Health/Watch', healthTypes, { request: false, response: true }),
};
/** Numbers of grpc.health.v1.HealthCheckResponse.ServingStatus. */
const servingStatus = { SERVING: 1, NOT_SERVING: 2, SERVICE_UNKNOWN: 3 } as const;
type ServingStatus = keyof typeof servingStatus;

export const healthAccess: AccessTable = { '/grpc.health.v1.Health/Check': 'public', '/grpc.health.v1.Health/Watch': 'public' };

/** Serving until told otherwise. */
export interface Health {
  readonly service: RegisteredService;
  /** Also tells everybody who watches. */
  setServing(isServing: boolean): void;
}

/** `services` are the names that have a status; the empty name stands for the whole server. */
export function createHealth(deps: CallDeps, services: readonly string[]): Health {
  const known = new Set(['', ...services]);
  const listeners = new Set<() => void>();
  let overall: ServingStatus = 'SERVING';
  const statusOf = (name: string): ServingStatus => (known.has(name) ? overall : 'SERVICE_UNKNOWN');
  const answer = (value: ServingStatus): Message => create(healthTypes.response, { status: servingStatus[value] });
  const nameOf = (request: Message): string => String(fieldOf(healthTypes.request, request, 'service'));
  const implementation = {
    check: unary<Message, Message>(deps, (request) => {
      const value = statusOf(nameOf(request));
      if (value === 'SERVICE_UNKNOWN') return Promise.reject(new AppError('NOT_FOUND', 'no such service'));
      return Promise.resolve(answer(value));
    }),
    watch: serverStream<Message, Message>(deps, async (request, out) => {
      const name = nameOf(request);
      let sent: ServingStatus | null = null;
      while (!out.signal.aborted) {
        const next = statusOf(name);
        if (next !== sent) await out.send(answer(next));
        sent = next;
        await new Promise<void>((resolve) => {
          const wake = (): void => {
            listeners.delete(wake);
            out.signal.removeEventListener('abort', wake);
            resolve();
          };
          listeners.add(wake);
          out.signal.addEventListener('abort', wake, { once: true });
          if (out.signal.aborted || statusOf(name) !== sent) wake();
        });
      }
    }),
  };
  return {
    service: { definition: healthDefinition, implementation },
    setServing: (isServing) => {
      overall = isServing ? 'SERVING' : 'NOT_SERVING';
      for (const listener of [...listeners]) listener();
    },
  };
}

// --- reflection ---

const reflectionTypes = { request: messageType('grpc.reflection.v1.ServerReflectionRequest'), response: messageType('grpc.reflection.v1.ServerReflectionResponse') };
const reflectionPath = '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo';

export const reflectionAccess: AccessTable = { [reflectionPath]: 'public' };

/** The file and everything that it imports, each once. */
function withImports(file: DescFile): readonly Uint8Array[] {
  const seen = new Set<DescFile>();
  const visit = (next: DescFile): void => {
    if (seen.has(next)) return;
    seen.add(next);
    next.dependencies.forEach(visit);
  };
  visit(file);
  return [...seen].map((each) => toBinary(FileDescriptorProtoSchema, each.proto));
}

function findSymbol(name: string): DescFile | undefined {
  const direct = registry.get(name);
  if (direct !== undefined) return direct.file;
  // A method, a field or an enum value: its parent declares it.
  const parent = registry.get(name.slice(0, Math.max(0, name.lastIndexOf('.'))));
  return parent?.file;
}

function answerReflection(request: Message): object {
  const question = request as Message & { readonly messageRequest: { readonly case?: string; readonly value?: unknown } }; // The shape that protobuf-es gives a oneof.
  const { case: kind, value } = question.messageRequest;
  const files = (file: DescFile | undefined): object =>
    file === undefined
      ? { case: 'errorResponse', value: { errorCode: status.NOT_FOUND, errorMessage: 'not found' } }
      : { case: 'fileDescriptorResponse', value: { fileDescriptorProto: withImports(file) } };
  switch (kind) {
    case 'listServices':
      return { case: 'listServicesResponse', value: { service: [...registry].filter((each) => each.kind === 'service').map((each) => ({ name: each.typeName })) } };
    case 'fileByFilename':
      return files(registry.getFile(String(value).replace(/\.proto$/, '')) ?? registry.getFile(String(value)));
    case 'fileContainingSymbol':
      return files(findSymbol(String(value)));
    default:
      return { case: 'errorResponse', value: { errorCode: status.UNIMPLEMENTED, errorMessage: 'there are no extensions' } };
  }
}

export function createReflection(deps: CallDeps): RegisteredService {
  return {
    definition: { serverReflectionInfo: method(reflectionPath, reflectionTypes, { request: true, response: true }) },
    implementation: {
      serverReflectionInfo: duplex<Message, Message>(deps, async (stream) => {
        for (let request = await stream.receive(); request !== null; request = await stream.receive()) {
          await stream.send(create(reflectionTypes.response, { originalRequest: request, messageResponse: answerReflection(request) }));
        }
      }),
    },
  };
}
