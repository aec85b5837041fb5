/**
 * Exchanges tokens and older certificates for certificates. The rules of tokens are the store's; this
 * checks form and pins, signs inside the store's transaction, and answers.
 *
 * Invariant: a refused enrollment leaves no row behind.
 */
import { createHash, randomBytes } from 'node:crypto';
import { decodeHostFacts } from '#api/codec/edge-codec.ts';
import { parseEnrollmentToken, tokenSecretBytes } from '#api/codec/enrollment-token.ts';
import { invalid } from '#api/codec/validate.ts';
import { EnrollmentServiceService, type EnrollmentServiceServer, type EnrollRequest, type EnrollResponse, type RenewCertificateRequest, type RenewCertificateResponse } from '#api/gen/nkudo/edge/v1/edge.pb.ts';
import { AppError } from '#api/model/error-codes.ts';
import { hostId } from '#api/model/ids.ts';
import type { Callers, RegisteredService } from '#controller/grpc/access.ts';
import { unary, type CallContext, type CallDeps } from '#controller/grpc/calls.ts';
import type { GatewayDeps } from './deps.ts';
import type { HostCaller } from './peer-identity.ts';
import { createRecoveryDesk } from './recovery.ts';

const hostNamePattern = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

function parseHostName(name: string): string | null {
  if (name === '') return null;
  if (!hostNamePattern.test(name)) throw invalid('host_name', 'must be a DNS-1123 label: lower-case letters, digits and hyphens, at most 63');
  return name;
}

type EnrollmentDeps = Pick<GatewayDeps, 'pki' | 'enrollments' | 'clock' | 'ids' | 'hints' | 'faults' | 'settings' | 'log'>;

async function enroll(deps: EnrollmentDeps, request: EnrollRequest, context: CallContext): Promise<EnrollResponse> {
  const token = parseEnrollmentToken(request.token);
  const pins = deps.pki.pins();
  // The agent refuses such a token itself; an agent that does not must not get further either.
  if (!token.pins.some((pin) => pins.includes(pin))) throw new AppError('CA_PIN_MISMATCH', 'the token pins another certificate authority');
  const hostName = parseHostName(request.hostName);
  const facts = decodeHostFacts('facts', request.facts);
  const csr = await deps.pki.checkRequest(request.csrDer);
  const nowMs = deps.clock.nowMs();
  const newHostId = hostId(deps.ids.uuid());
  await deps.faults.reach('db.enroll:before');
  const enrolled = await deps.enrollments.enroll({
    secretHash: createHash('sha256').update(tokenSecretBytes(token.secret)).digest(),
    publicKeyHash: csr.publicKeyHash,
    hostName,
    facts,
    nowMs,
    newHostId,
    actor: { kind: 'host', name: newHostId, from: context.peer },
    issue: deps.pki.issuerFor(csr, nowMs),
  });
  await deps.faults.reach('db.enroll:after');
  deps.hints.publish({ kind: 'host', tenantId: enrolled.tenantId, hostId: enrolled.hostId });
  return {
    tenantId: enrolled.tenantId,
    siteId: enrolled.siteId,
    hostId: enrolled.hostId,
    hostName: enrolled.hostName,
    certificateChainPem: enrolled.certificate.chainPem,
    trustBundlePem: deps.pki.trustBundlePem(),
    endpoints: [...deps.settings.endpoints()],
    siteName: enrolled.siteName,
    namespace: enrolled.namespace,
  };
}

async function renew(deps: EnrollmentDeps, request: RenewCertificateRequest, context: CallContext & { readonly caller: HostCaller }): Promise<RenewCertificateResponse> {
  const { identity } = context.caller;
  if (identity.isQuarantined) throw new AppError('HOST_QUARANTINED');
  const csr = await deps.pki.checkRequest(request.csrDer);
  const nowMs = deps.clock.nowMs();
  const certificate = await deps.enrollments.renew({
    identity,
    publicKeyHash: csr.publicKeyHash,
    nowMs,
    actor: { kind: 'host', name: identity.hostId, from: context.peer },
    issue: deps.pki.issuerFor(csr, nowMs),
  });
  return { certificateChainPem: certificate.chainPem, trustBundlePem: deps.pki.trustBundlePem() };
}

export function createEnrollmentService(deps: EnrollmentDeps, callers: Callers<HostCaller>, calls: CallDeps): RegisteredService {
  const recovery = createRecoveryDesk({ ...deps, randomBytes });
  const implementation: EnrollmentServiceServer = {
    enroll: unary(calls, (request, context) => enroll(deps, request, context)),
    renewCertificate: unary(calls, async (request, context) => renew(deps, request, { ...context, caller: callers.of(context.auth) })),
    getRecoveryNonce: unary(calls, async (_, context) => recovery.issueNonce(context)),
    recoverCertificate: unary(calls, (request, context) => recovery.recover(request, context)),
  };
  return { definition: EnrollmentServiceService, implementation };
}
