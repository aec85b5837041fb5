/**
 * API keys at rest: a hash, never the key. The reconciler of APIKey objects writes them, every replica reads them.
 */
import type { ApiKeyId, TenantId } from '#api/model/ids.ts';
import type { Actor } from './audit.ts';

export type ApiKeyRole = 'read' | 'operate' | 'admin';

export interface ApiKeyRegistration {
  readonly tenantId: TenantId;
  /** Name of the tenant's namespace: a key may be made before the first Site. */
  readonly namespace: string;
  readonly keyId: ApiKeyId;
  readonly name: string;
  /** SHA-256 of the secret part, 32 bytes. */
  readonly secretHash: Uint8Array;
  readonly role: ApiKeyRole;
  /** Name of the one site that it is good for; null: every site of the namespace. */
  readonly siteName: string | null;
  readonly expiresAtMs: number;
}

export interface ApiKeyState {
  readonly expiresAtMs: number;
  readonly isRevoked: boolean;
  /** To the hour; null: never used. */
  readonly lastUsedAtMs: number | null;
}

export interface ApiKeyRecord extends Omit<ApiKeyRegistration, 'expiresAtMs'>, ApiKeyState {}

/** Names something that is at a site, by its UUID or by its name in the tenant. */
export type SiteObject =
  | { readonly kind: 'plan' | 'execution' | 'microvm' | 'host'; readonly id: string }
  | { readonly kind: 'microvm' | 'host'; readonly name: string };

export interface ApiKeyReader {
  /** Across tenants; null when there is no such key, or when its namespace was made again since. @throws DATABASE_UNAVAILABLE */
  find(keyId: ApiKeyId): Promise<ApiKeyRecord | null>;
  /** Notes a use. Writes at most once in an hour for each key, whichever replicas ask. */
  noteUsed(tenantId: TenantId, keyId: ApiKeyId, atMs: number): Promise<void>;
  /** Name of the site of that object; null when the tenant has no such object. */
  siteOf(tenantId: TenantId, object: SiteObject): Promise<string | null>;
}

export interface ApiKeyStore extends ApiKeyReader {
  /** Records a key. Idempotent by id; a change of the hash replaces it. A revoked key stays revoked. @throws LEADERSHIP_LOST */
  register(input: ApiKeyRegistration, epoch: number, actor: Actor): Promise<void>;
  load(tenantId: TenantId, keyId: ApiKeyId): Promise<ApiKeyState | null>;
  /** Ends a key for good. Idempotent. @throws LEADERSHIP_LOST */
  revoke(tenantId: TenantId, keyId: ApiKeyId, epoch: number, actor: Actor): Promise<void>;
}
