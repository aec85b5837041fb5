/**
 * Branded identifiers of the whole product, and the only place where they are made from strings.
 * All of them are UUIDs except where said otherwise; a wrong shape is refused here, so that no
 * other room needs to check again.
 */

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

/** UID of the Kubernetes namespace; a namespace that is made again is another tenant. */
export type TenantId = Branded<'TenantId'>;
/** UID of the Site custom resource. */
export type SiteId = Branded<'SiteId'>;
/** Identity of an enrolled machine, issued at enrollment. It is not the UID of the Host object. */
export type HostId = Branded<'HostId'>;
/** UID of the MicroVM custom resource. */
export type MicroVMId = Branded<'MicroVMId'>;
export type PlanId = Branded<'PlanId'>;
export type OperationId = Branded<'OperationId'>;
export type ExecutionId = Branded<'ExecutionId'>;
/** One connection of one agent process: made anew at every connect. */
export type SessionId = Branded<'SessionId'>;
/** UID of the EnrollmentToken custom resource. */
export type EnrollmentTokenId = Branded<'EnrollmentTokenId'>;
/** UID of the APIKey custom resource. */
export type ApiKeyId = Branded<'ApiKeyId'>;

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** True for a lower-case UUID of any version, the form that Kubernetes and Postgres print. */
export function isUuid(text: string): boolean {
  return uuidPattern.test(text);
}

function parseUuid<Id extends string>(kind: string, text: string): Id {
  if (!isUuid(text)) throw new TypeError(`${kind} must be a lower-case UUID`);
  return text as Id; // The brand is only a compile-time tag; the shape was checked above.
}

/** @throws TypeError when the text is not a lower-case UUID; so do all the others below. */
export const tenantId = (text: string): TenantId => parseUuid('tenant id', text);
export const siteId = (text: string): SiteId => parseUuid('site id', text);
export const hostId = (text: string): HostId => parseUuid('host id', text);
export const microVMId = (text: string): MicroVMId => parseUuid('microvm id', text);
export const planId = (text: string): PlanId => parseUuid('plan id', text);
export const operationId = (text: string): OperationId => parseUuid('operation id', text);
export const executionId = (text: string): ExecutionId => parseUuid('execution id', text);
export const sessionId = (text: string): SessionId => parseUuid('session id', text);
export const enrollmentTokenId = (text: string): EnrollmentTokenId => parseUuid('enrollment token id', text);
export const apiKeyId = (text: string): ApiKeyId => parseUuid('api key id', text);
