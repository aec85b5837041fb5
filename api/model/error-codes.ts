/**
 * The closed list of errors that cross a boundary of the product: one entry gives the sentence, the
 * gRPC status, the condition reason, whether a retry helps and what a person can do.
 * `docs/errors.md` is generated from it. Codes are never reused with another meaning.
 */

export type RetryRule = 'backoff' | 'after' | 'never';

/** Names of the gRPC status codes, see https://grpc.io/docs/guides/status-codes/. */
export type GrpcStatusName =
  | 'INVALID_ARGUMENT'
  | 'DEADLINE_EXCEEDED'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'PERMISSION_DENIED'
  | 'RESOURCE_EXHAUSTED'
  | 'FAILED_PRECONDITION'
  | 'ABORTED'
  | 'UNIMPLEMENTED'
  | 'INTERNAL'
  | 'UNAVAILABLE'
  | 'UNAUTHENTICATED';

export interface ErrorEntry {
  readonly meaning: string;
  readonly grpcStatus: GrpcStatusName;
  /** CamelCase reason that conditions and events use. */
  readonly reason: string;
  readonly retry: RetryRule;
  readonly remedy: string;
}

const entry = (
  reason: string,
  grpcStatus: GrpcStatusName,
  retry: RetryRule,
  meaning: string,
  remedy: string,
): ErrorEntry => ({ meaning, grpcStatus, reason, retry, remedy });

export const errorCatalogue = {
  // Requests
  INVALID_REQUEST: entry('InvalidRequest', 'INVALID_ARGUMENT', 'never', 'a field of the request is missing or out of range', 'correct the fields that the message names'),
  NOT_FOUND: entry('NotFound', 'NOT_FOUND', 'never', 'there is no such object in this tenant', 'check the name and the namespace'),
  CONFLICT: entry('Conflict', 'ABORTED', 'backoff', 'somebody else changed the object meanwhile', 'read it again and repeat'),
  IDEMPOTENCY_KEY_REUSED: entry('IdempotencyKeyReused', 'ALREADY_EXISTS', 'never', 'the idempotency key belongs to a plan with other content', 'use a new key for a new intent'),
  ALREADY_EXISTS: entry('AlreadyExists', 'ALREADY_EXISTS', 'never', 'there is an object of that name that this plan did not make', 'choose another name, or delete the object first'),
  FIELD_OWNED_ELSEWHERE: entry('FieldOwnedElsewhere', 'FAILED_PRECONDITION', 'never', 'another field manager owns the field that the plan would change', 'change it where that manager takes it from, or use force as an administrator'),
  SPEC_CHANGED_ELSEWHERE: entry('SpecChangedElsewhere', 'ABORTED', 'never', 'the object no longer says what the plan wrote', 'the message names who wrote it; make a new plan if that was a mistake'),
  NOT_IMPLEMENTED: entry('NotImplemented', 'UNIMPLEMENTED', 'never', 'this version does not have that function', 'see the change log for the version that brings it'),
  DEADLINE_EXCEEDED: entry('DeadlineExceeded', 'DEADLINE_EXCEEDED', 'backoff', 'the call was not done in time', 'repeat it; look at the load of the other side'),
  INTERNAL: entry('InternalError', 'INTERNAL', 'backoff', 'a fault of n-kudo itself', 'report it with the log lines around it'),
  UNAVAILABLE: entry('Unavailable', 'UNAVAILABLE', 'backoff', 'the other side can not be reached or is not ready', 'nothing: it is tried again'),
  DATABASE_UNAVAILABLE: entry('DatabaseUnavailable', 'UNAVAILABLE', 'backoff', 'Postgres can not be reached, is full or is read-only', 'look at the database; hosts keep their microVMs meanwhile'),
  LEADERSHIP_LOST: entry('LeadershipLost', 'ABORTED', 'never', 'another replica leads now and this write was refused', 'nothing: the other replica goes on'),
  ILLEGAL_TRANSITION: entry('IllegalTransition', 'FAILED_PRECONDITION', 'never', 'a plan, operation or execution can not go from its status to the asked one', 'read it again: it has ended or was superseded'),
  STALE_GENERATION: entry('StaleGeneration', 'ABORTED', 'backoff', 'a newer generation of the object was planned already', 'read the object again'),
  HOST_FULL: entry('HostFull', 'ABORTED', 'backoff', 'the host has no room left for this microVM', 'nothing: another host is tried'),
  // Identity
  UNAUTHENTICATED: entry('Unauthenticated', 'UNAUTHENTICATED', 'never', 'the caller presented no valid identity', 'present a client certificate (agents) or a bearer token (tenants)'),
  RATE_LIMITED: entry('RateLimited', 'RESOURCE_EXHAUSTED', 'after', 'the caller or its tenant made more calls than it may', 'repeat the call after the time that the answer names; others are served meanwhile'),
  PERMISSION_DENIED: entry('PermissionDenied', 'PERMISSION_DENIED', 'never', 'the identity is valid but may not do this', 'ask an administrator of the namespace for the right'),
  TOKEN_MALFORMED: entry('TokenMalformed', 'INVALID_ARGUMENT', 'never', 'the text is not an enrollment token', 'copy the whole token from the Secret that the EnrollmentToken names'),
  TOKEN_UNKNOWN: entry('TokenUnknown', 'UNAUTHENTICATED', 'never', 'no such enrollment token, or it was altered', 'make a new EnrollmentToken'),
  TOKEN_EXPIRED: entry('TokenExpired', 'UNAUTHENTICATED', 'never', 'the enrollment token is past its time to live', 'make a new EnrollmentToken'),
  TOKEN_USED: entry('TokenUsed', 'FAILED_PRECONDITION', 'never', 'the enrollment token was used by another host', 'make one EnrollmentToken for each host'),
  TOKEN_HOST_MISMATCH: entry('TokenHostMismatch', 'PERMISSION_DENIED', 'never', 'the enrollment token is bound to another host name', 'enroll with the name in the token, or make a new token'),
  HOST_NAME_TAKEN: entry('HostNameTaken', 'ALREADY_EXISTS', 'never', 'another enrolled machine has this host name in the tenant', 'choose another name with --name, or delete the old Host first'),
  CA_PIN_MISMATCH: entry('CAPinMismatch', 'UNAUTHENTICATED', 'never', 'the control plane showed a certificate authority other than the one pinned in the token', 'check the endpoint; if the CA was replaced, make a new EnrollmentToken'),
  CSR_INVALID: entry('CSRInvalid', 'INVALID_ARGUMENT', 'never', 'the certificate signing request is malformed, its signature is wrong or its key type is not accepted', 'send a PKCS#10 request with an ECDSA P-256 key'),
  CERTIFICATE_EXPIRED: entry('CertificateExpired', 'UNAUTHENTICATED', 'never', 'the certificate of the host is past its validity', 'the agent recovers by proving the same key; else enroll again'),
  RECOVERY_PROOF_INVALID: entry('RecoveryProofInvalid', 'UNAUTHENTICATED', 'after', 'the proof of the key of an older certificate does not hold: its nonce is unknown, late or of another connection, or the signature or the certificate is wrong', 'nothing: the agent asks for a new nonce; if it lasts, enroll the host again'),
  RECOVERY_WINDOW_PASSED: entry('RecoveryWindowPassed', 'FAILED_PRECONDITION', 'never', 'the certificate of the host expired longer ago than the control plane recovers', 'enroll the host again with a new token: nkudo-edge enroll --replace; its microVMs go on meanwhile'),
  RECOVERY_LIMITED: entry('RecoveryLimited', 'RESOURCE_EXHAUSTED', 'after', 'too many recoveries were asked for in a short time', 'nothing: it is tried again later; if one host asks again and again, look at its log'),
  HOST_REVOKED: entry('HostRevoked', 'PERMISSION_DENIED', 'never', 'the host was revoked', 'enroll again with a new token if that was a mistake'),
  HOST_QUARANTINED: entry('HostQuarantined', 'FAILED_PRECONDITION', 'after', 'two machines, or two agents on one machine, use the identity of this host', 'the Host object says who they are and what to type; see docs/enrollment.md'),
  // Placement and specification
  SITE_NOT_FOUND: entry('SiteNotFound', 'NOT_FOUND', 'after', 'spec.siteRef names no Site of this namespace', 'create the Site or correct the name'),
  CLASS_NOT_FOUND: entry('ClassNotFound', 'NOT_FOUND', 'after', 'spec.className names no MicroVMClass', 'remove className or create the class'),
  HOST_NOT_FOUND: entry('HostNotFound', 'NOT_FOUND', 'after', 'spec.placement.hostName names no Host of the site', 'correct the name, or enroll that host'),
  QUOTA_EXCEEDED: entry('QuotaExceeded', 'RESOURCE_EXHAUSTED', 'after', 'the quota of the Site has no room for the microVM', 'delete or shrink other microVMs of the site, or raise spec.quota of the Site'),
  NO_HOST_FITS: entry('NoHostFits', 'FAILED_PRECONDITION', 'after', 'no host of the site can take the microVM now', 'the message counts the hosts by the reason that excluded them'),
  // The mesh
  MESH_UNAUTHORIZED: entry('MeshUnauthorized', 'PERMISSION_DENIED', 'after', 'the mesh account refuses the API token, or the token may not do this', 'put a valid token of a service user with the admin role into the Secret that spec.mesh.secretRef names'),
  MESH_RATE_LIMITED: entry('MeshRateLimited', 'RESOURCE_EXHAUSTED', 'after', 'the mesh account answers fewer requests than were made', 'nothing: it is tried again later; raise the limit of a self-hosted server if this lasts'),
  MESH_UNAVAILABLE: entry('MeshUnavailable', 'UNAVAILABLE', 'backoff', 'the management API of the mesh can not be reached or answers with server errors', 'look at the management server; microVMs and control traffic do not need it'),
  MESH_REFUSED: entry('MeshRefused', 'FAILED_PRECONDITION', 'backoff', 'the mesh account does not take a request as it is', 'the message is the answer of the account; correct spec.mesh or the account'),
  // On the host
  STALE_OPERATION: entry('StaleOperation', 'FAILED_PRECONDITION', 'never', 'the operation has an older epoch or revision than the last accepted one', 'nothing: a newer operation holds'),
  KERNEL_NOT_FOUND: entry('KernelNotFound', 'NOT_FOUND', 'after', 'the kernel or firmware file does not exist on the host', 'put the file at that path on the host or correct spec.boot'),
  KERNEL_NOT_BOOTABLE: entry('KernelNotBootable', 'FAILED_PRECONDITION', 'after', 'the VMM can not load the kernel or firmware file', 'use an uncompressed ELF kernel with a PVH entry, or a bzImage'),
  INITRAMFS_NOT_FOUND: entry('InitramfsNotFound', 'NOT_FOUND', 'after', 'the initramfs file does not exist on the host', 'put the file at that path on the host or correct spec.boot'),
  DISK_NOT_FOUND: entry('DiskNotFound', 'NOT_FOUND', 'after', 'a disk file does not exist on the host', 'put the file at that path on the host or correct spec.disks'),
  IMAGE_NOT_FOUND: entry('ImageNotFound', 'NOT_FOUND', 'after', 'the server does not give out an image under that URL', 'correct disks[].http.url, or put the image there'),
  IMAGE_UNAVAILABLE: entry('ImageUnavailable', 'UNAVAILABLE', 'backoff', 'the server of an image can not be reached, breaks off or answers with errors', 'nothing: it is tried again and goes on where it was; look at the server, the link and the proxy of the agent'),
  IMAGE_DIGEST_MISMATCH: entry('ImageDigestMismatch', 'FAILED_PRECONDITION', 'after', 'the content of an image is not what its digest says', 'correct disks[].digest, or put the right image behind the URL; the wrong content was thrown away'),
  IMAGE_REFUSED: entry('ImageRefused', 'FAILED_PRECONDITION', 'after', 'an image can not be used as a disk: it is larger than the disk, names other files of the host, or holds what a disk can not be made from', 'the message says what; flatten a qcow2 image (qemu-img convert), choose a larger size, or make the image anew'),
  IMAGE_ACCESS_DENIED: entry('ImageAccessDenied', 'PERMISSION_DENIED', 'after', 'the server of an image wants credentials, or refuses those that it got', 'name a Secret with the right credentials: disks[].oci.pullSecretRef, or disks[].http.secretRef'),
  IMAGE_TOOL_MISSING: entry('ImageToolMissing', 'FAILED_PRECONDITION', 'after', 'the host lacks a program or a right that is needed to make a disk of a container image', 'install e2fsprogs and run the agent as root; nkudo-edge check names what lacks'),
  REGISTRY_NOT_ALLOWED: entry('RegistryNotAllowed', 'PERMISSION_DENIED', 'after', 'the Site does not allow images from that server', 'use an allowed server, or add it to images.allowedRegistries of the Site'),
  DISK_FULL: entry('DiskFull', 'RESOURCE_EXHAUSTED', 'after', 'the host has no space left for an image or a disk', 'free space on the file system of the state directory; unused images were removed already'),
  CONSOLE_UNAVAILABLE: entry('ConsoleUnavailable', 'FAILED_PRECONDITION', 'after', 'the guest has no console that takes input now', 'write console.serial: Interactive, start it, or read its logs instead'),
  CONSOLE_IN_USE: entry('ConsoleInUse', 'FAILED_PRECONDITION', 'after', 'somebody else types at the console, or too many read it', 'wait, read without typing, or take the console over'),
  DISK_IN_USE: entry('DiskInUse', 'FAILED_PRECONDITION', 'backoff', 'another VMM holds the lock of a disk file', 'give each microVM its own file, or mark the disk readOnly'),
  FILE_NOT_OPEN: entry('FileNotOpen', 'PERMISSION_DENIED', 'after', 'a VMM may not open a file that the microVM names', 'open the file to everybody or to the group that vmmGroup names: chgrp and chmod g+rX on it and on the directories above, g+w for a disk that is written'),
  PATH_NOT_ALLOWED: entry('PathNotAllowed', 'PERMISSION_DENIED', 'never', 'a file lies outside the directories that this host allows', 'move the file below an allowed directory, or add the directory to the agent configuration'),
  NOT_ENOUGH_MEMORY: entry('NotEnoughMemory', 'RESOURCE_EXHAUSTED', 'after', 'the host has less memory than the microVM asks for', 'ask for less memory.size or use a larger host'),
  HUGEPAGES_UNAVAILABLE: entry('HugepagesUnavailable', 'RESOURCE_EXHAUSTED', 'after', 'the host has not set aside as many free huge pages as the memory of the microVM needs', 'set them aside on the host (vm.nr_hugepages, or hugepages= on its kernel command line), or remove memory.hugepages'),
  GUEST_IGNORES_CHANGE: entry('GuestIgnoresChange', 'FAILED_PRECONDITION', 'after', 'the guest was asked to take or let go of a processor, memory or a device, and has not', 'look at the guest: it needs ACPI and PCI hotplug, and virtio-mem for memory, and must not use what it is to lose; a restart takes the change over as well'),
  SPEC_REFUSED: entry('SpecRefused', 'INVALID_ARGUMENT', 'never', 'the VMM refused the configuration', 'the message is the answer of the VMM; correct the spec'),
  HYPERVISOR_MISSING: entry('HypervisorMissing', 'FAILED_PRECONDITION', 'after', 'no usable Cloud Hypervisor on the host', 'install cloud-hypervisor and check /dev/kvm'),
  HYPERVISOR_FAILED: entry('HypervisorFailed', 'INTERNAL', 'backoff', 'the VMM answered with an error or ended', 'read the log of the VMM in the directory of the microVM'),
  HYPERVISOR_TIMEOUT: entry('HypervisorTimeout', 'DEADLINE_EXCEEDED', 'backoff', 'the VMM did not answer in time', 'nothing: it is tried again; look at the load of the host'),
  NETWORK_UNAVAILABLE: entry('NetworkUnavailable', 'FAILED_PRECONDITION', 'after', 'the host lacks a program, a right or a bridge that guest networks need', 'install iproute2 and nftables, run the agent as root, and make the bridge that the message names'),
  NETWORK_UNSUPPORTED: entry('NetworkUnsupported', 'UNIMPLEMENTED', 'never', 'this version can not make a network of that kind', 'use nat, bridge or mesh with IPv4 addresses'),
  NETWORK_FAILED: entry('NetworkFailed', 'INTERNAL', 'backoff', 'the kernel or a network program of the host refused a change', 'the message is its answer; look at the other firewalls and network services of the host'),
  PORT_IN_USE: entry('PortInUse', 'FAILED_PRECONDITION', 'after', 'a port of the host is taken by a program or by another microVM', 'choose another hostPort, or stop the program that listens on it'),
  ADDRESS_IN_USE: entry('AddressInUse', 'FAILED_PRECONDITION', 'after', 'another interface on the host has the address of the guest', 'choose another address, or remove the other interface'),
  ADDRESSES_EXHAUSTED: entry('AddressesExhausted', 'RESOURCE_EXHAUSTED', 'after', 'the range of guest addresses of the host has none left', 'delete microVMs of the host, or give it a larger range: natSubnet of the Host or of the Site; a mesh subnet has 253'),
  PORTS_EXHAUSTED: entry('PortsExhausted', 'RESOURCE_EXHAUSTED', 'after', 'the host has no free port left of those that n-kudo chooses from', 'name a hostPort, or delete microVMs of the host'),
  ADDRESS_OUTSIDE_SUBNET: entry('AddressOutsideSubnet', 'FAILED_PRECONDITION', 'after', 'the address that the spec asks for is not in the subnet that the host has for such guests', 'leave address out, or choose one of the subnet that the message names'),
  MESH_SUBNET_MISSING: entry('MeshSubnetMissing', 'FAILED_PRECONDITION', 'after', 'the host has no subnet of the mesh for its guests', 'give the Site a spec.mesh, and look at its condition MeshReady'),
  SECRET_UNAVAILABLE: entry('SecretUnavailable', 'FAILED_PRECONDITION', 'backoff', 'the host was not given the value of a Secret that the microVM needs, or could not keep it', 'nothing: it is sent again; if it lasts, the condition Accepted says what is wrong with the Secret'),
  WAITING_FOR_LEASE: entry('WaitingForLease', 'FAILED_PRECONDITION', 'after', 'a microVM that may be replaced elsewhere runs only under a live lease of its host, and there is none', 'nothing: it starts once the control plane has extended the lease; look at the connection of the host'),
  HELD_AT_SITE: entry('HeldAtSite', 'FAILED_PRECONDITION', 'after', 'somebody at the site holds the microVM down', 'ask there; it is released there (nkudo-edge vm release), or overruled by the annotation nkudo.dev/override-hold with the number that the condition SiteOverride tells'),
  STOPPED_AT_SITE: entry('StoppedAtSite', 'FAILED_PRECONDITION', 'after', 'somebody at the site stopped the microVM', 'ask there; it is started there (nkudo-edge vm start), or by a new value of runPolicy or restartNonce'),
  AGENT_NOT_RUNNING: entry('AgentNotRunning', 'UNAVAILABLE', 'after', 'no agent runs with the state directory, and only a running one takes orders', 'start it, such as by systemctl start nkudo-edge, and look why it did not run: journalctl -u nkudo-edge'),
  GUARD_FAILED: entry('GuardFailed', 'INTERNAL', 'backoff', 'the guard that ends microVMs whose lease ran out can not be started', 'look for sh, flock and sleep on the host, and at the log of the agent'),
  JOURNAL_FAILED: entry('JournalFailed', 'UNAVAILABLE', 'backoff', 'the journal of the agent can not be written', 'free space on the file system of the state directory'),
  STATE_DIR_LOCKED: entry('StateDirLocked', 'FAILED_PRECONDITION', 'never', 'another agent uses the state directory', 'stop the other agent or choose another --state-dir'),
  // Releases of the agent
  RELEASE_INVALID: entry('ReleaseInvalid', 'INVALID_ARGUMENT', 'never', 'the manifest of a release, or its signature file, can not be read', 'use the files of the release as they are'),
  RELEASE_UNSIGNED: entry('ReleaseUnsigned', 'PERMISSION_DENIED', 'never', 'no key that this host trusts signed the release, or what was signed is something else', 'get the release from where its maker puts it; a key of your own belongs into the directory that releaseKeysDir names'),
  RELEASE_DIGEST_MISMATCH: entry('ReleaseDigestMismatch', 'FAILED_PRECONDITION', 'after', 'a file is not the one that the signed manifest of its release names', 'get the file again; the wrong one was thrown away'),
  RELEASE_EXPIRED: entry('ReleaseExpired', 'FAILED_PRECONDITION', 'never', 'the manifest of a release is past its date', 'use a newer release, or correct the clock of the host'),
  RELEASE_OLDER: entry('ReleaseOlder', 'FAILED_PRECONDITION', 'never', 'a release is older than the version that runs, and neither ran last on this host nor may replace it by its manifest', 'go back one version with nkudo-edge update --rollback, or have a manifest signed that names the newer version in mayReplace'),
  RELEASE_UNSUITABLE: entry('ReleaseUnsuitable', 'FAILED_PRECONDITION', 'never', 'a release has no file for this kind of machine', 'use a release that has one'),
  RELEASE_UNAVAILABLE: entry('ReleaseUnavailable', 'UNAVAILABLE', 'backoff', 'the files of a release can not be fetched', 'nothing: it is tried again; look at the server, the link and the proxy of the agent'),
  UPDATE_UNSUPPORTED: entry('UpdateUnsupported', 'FAILED_PRECONDITION', 'never', 'this agent can not change its version: no launcher started it, or another change is under way', 'install the agent with its package or nkudo-edge install, and start it through its unit'),
  UPDATE_FAILED: entry('UpdateFailed', 'FAILED_PRECONDITION', 'never', 'a new version of the agent did not get ready, and the one before it runs again', 'see the log of the new version; order it again once the cause is gone'),
  ORPHANED_VM: entry('OrphanedVM', 'FAILED_PRECONDITION', 'never', 'a microVM runs on the host that no journal or directory explains', 'stop it by hand, or adopt it'),
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof errorCatalogue;

export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(errorCatalogue, text);
}

export interface AppErrorOptions {
  /** Values that help a person or a log reader; never a secret. */
  readonly details?: Readonly<Record<string, string | number | boolean>>;
  readonly cause?: unknown;
  /** With retry `after`: milliseconds until a retry can help. */
  readonly retryAfterMs?: number;
  /** What a person can do, where the place that throws knows better than the catalogue. */
  readonly remedy?: string;
}

/**
 * The one class of operational failures. Match by `code`, never by message or `instanceof`.
 * The message is lower-case, without a full stop, and holds no secret.
 */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly retry: RetryRule;
  readonly reason: string;
  readonly details: Readonly<Record<string, string | number | boolean>>;
  readonly retryAfterMs: number | undefined;
  readonly remedy: string;

  constructor(code: ErrorCode, message?: string, options: AppErrorOptions = {}) {
    super(message ?? errorCatalogue[code].meaning, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'AppError';
    this.code = code;
    this.retry = errorCatalogue[code].retry;
    this.reason = errorCatalogue[code].reason;
    this.details = options.details ?? {};
    this.retryAfterMs = options.retryAfterMs;
    this.remedy = options.remedy ?? errorCatalogue[code].remedy;
  }
}

/** True for an {@link AppError}, also one from another copy of this module. */
export function isAppError(error: unknown): error is AppError {
  return error instanceof Error && error.name === 'AppError' && 'code' in error && isErrorCode(String(error.code));
}
