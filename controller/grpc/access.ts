/**
 * Who may reach which method, deny by default: a method that is not in the table can't be registered,
 * and a call to one that needs a caller is answered before its handler hears of it.
 *
 * Leaves to the listener how a caller proves itself.
 */
import {
  Metadata,
  ServerInterceptingCall,
  type Server,
  type ServerInterceptor,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { PeerCertificate } from 'node:tls';
import type { Logger } from 'pino';
import { AppError } from '#api/model/error-codes.ts';
import { toStatus } from './errors.ts';

/** `public`: everybody. `caller`: only who was authenticated. */
export type Access = 'public' | 'caller';
/** By path, such as `/nkudo.v1.FleetService/GetPlan`. */
export type AccessTable = Readonly<Record<string, Access>>;

/** What a call shows of its caller. */
export interface Credentials {
  /** Present only when TLS verified it against the certificate authority. */
  readonly certificate: PeerCertificate | undefined;
  readonly metadata: Metadata;
  readonly path: string;
  /** Remote `ip:port`. */
  readonly peer: string;
}

/** @throws AppError when the caller is nobody */
export type Authenticate<Caller> = (credentials: Credentials) => Promise<Caller>;

/** What an authenticated call holds until its end. */
export interface HeldCall {
  /** Whether its caller was granted a right. */
  readonly isGranted: boolean;
  close(): void;
}

/** `end` ends the call from outside. */
export type HoldCall<Caller> = (caller: Caller, call: { readonly isStream: boolean; readonly end: (error: unknown) => void }) => HeldCall;

type AuthContext = ReturnType<ServerInterceptingCall['getAuthContext']>;

/** Carries the caller from the interceptor to the handler, which sees only the authentication context. */
class AuthenticatedCall extends ServerInterceptingCall {
  readonly #context: AuthContext = {};
  override getAuthContext(): AuthContext {
    return this.#context;
  }
}

/** Callers by the authentication context of their call; entries go with the call. */
export interface Callers<Caller> {
  /** @throws UNAUTHENTICATED when the call has none, such as one to a public method */
  of(context: object | undefined | null): Caller;
  readonly interceptor: ServerInterceptor;
}

export function createCallers<Caller>(input: {
  readonly table: AccessTable;
  readonly authenticate: Authenticate<Caller>;
  readonly log: Logger;
  /** With it, a handler that answers before its caller was granted a right is cut off: its answer never leaves. */
  readonly hold?: HoldCall<Caller>;
}): Callers<Caller> {
  const callers = new WeakMap<object, { readonly caller: Caller }>();
  const interceptor: ServerInterceptor = (method, call) => {
    if (input.table[method.path] === 'public') return new ServerInterceptingCall(call);
    let held: HeldCall | null = null;
    let isOver = false;
    const admit = (caller: Caller, proceed: () => void): void => {
      const isStream = method.requestStream || method.responseStream;
      held = input.hold?.(caller, { isStream, end: (error) => call.sendStatus(toStatus(error, input.log)) }) ?? null;
      callers.set(intercepted.getAuthContext(), { caller });
      if (isOver) held?.close();
      proceed();
    };
    const intercepted: AuthenticatedCall = new AuthenticatedCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (metadata, proceed) => {
            const certificate = call.getAuthContext().sslPeerCertificate;
            input.authenticate({ certificate, metadata, path: method.path, peer: call.getPeer() }).then(
              (caller) => admit(caller, () => proceed(metadata)),
              (error: unknown) => {
                call.sendStatus(toStatus(error, input.log));
              },
            );
          },
          // grpc-js says so at the end of every call, not of cancelled ones only.
          onCancel: () => {
            isOver = true;
            held?.close();
          },
        }),
      sendMessage: (message, next) => {
        if (held === null || held.isGranted) return next(message);
        input.log.error({ path: method.path }, 'a handler answered without asking for a right');
        call.sendStatus(toStatus(new AppError('INTERNAL'), input.log));
      },
    });
    return intercepted;
  };
  return {
    interceptor,
    of: (context) => {
      const found = context === null || context === undefined ? undefined : callers.get(context);
      if (found === undefined) throw new AppError('UNAUTHENTICATED');
      return found.caller;
    },
  };
}

export interface RegisteredService {
  readonly definition: ServiceDefinition;
  readonly implementation: UntypedServiceImplementation;
}

/**
 * Adds the services to the server.
 * @throws Error when a method is not in the table, or the table names a method that no service has
 */
export function registerServices(server: Pick<Server, 'addService'>, table: AccessTable, services: readonly RegisteredService[]): void {
  const paths = new Set(services.flatMap((service) => Object.values(service.definition).map((method) => method.path)));
  const unlisted = [...paths].filter((path) => !Object.hasOwn(table, path));
  if (unlisted.length > 0) throw new Error(`no access rule for ${unlisted.join(', ')}`);
  const missing = Object.keys(table).filter((path) => !paths.has(path));
  if (missing.length > 0) throw new Error(`access rules without a handler: ${missing.join(', ')}`);
  for (const service of services) server.addService(service.definition, service.implementation);
}
