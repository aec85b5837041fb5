/**
 * Who claims the identity of a host, and when two claims can't both be true. Pure. Certificates are told apart by their
 * counter, machines by machine-id and boot, agents on one machine by the run of the agent. A claim of an operator's
 * choice is let in again, and what the others hold is withdrawn as soon as it has used a new certificate.
 */
import { createHash } from 'node:crypto';
import type { HostClaim, HostQuarantine, QuarantineReason } from '#controller/ports/host-store.ts';

/** Most claims that are kept for one host; the newest stay. */
const claimsMax = 8;
const claimIdLength = 8;

/** What is known of the session that the host had last. */
export interface LastSession {
  readonly machineId: string | null;
  readonly bootId: string | null;
  readonly agentInstance: string | null;
  readonly replacedBootId: string | null;
  readonly replacedAgentInstance: string | null;
  /** It is open, as far as its beats say. */
  readonly isAlive: boolean;
  /** Highest counter of a certificate that opened a session. */
  readonly counterUsed: number;
}

/** Who opens a session now. */
export interface Claimant {
  readonly machineId: string;
  readonly bootId: string;
  readonly agentInstance: string;
  readonly address: string;
  readonly counter: number;
}

/**
 * Why the claimant and the last session can't be one machine; null when they can. A lost answer is no reason: the
 * certificate that nobody got was never used. Neither is a reboot, nor an agent that was started anew.
 * @param isAccepted an operator chose this claimant: its older certificate is not held against it
 */
export function findClone(last: LastSession, claimant: Claimant, isAccepted: boolean): QuarantineReason | null {
  if (claimant.bootId !== '' && claimant.bootId === last.replacedBootId) return 'BootReturned';
  if (claimant.agentInstance !== '' && claimant.agentInstance === last.replacedAgentInstance) return 'AgentReturned';
  if (isAccepted) return null;
  if (claimant.counter < last.counterUsed) return 'CertificateReplayed';
  const isOther = last.machineId !== null && last.machineId !== '' && claimant.machineId !== '' && last.machineId !== claimant.machineId;
  return isOther && last.isAlive ? 'OtherMachine' : null;
}

/** Another agent of the same boot is connected, as far as is known: an agent that ended has closed its session. */
export function isContestedBy(last: LastSession, claimant: Claimant): boolean {
  const isOther = last.agentInstance !== null && last.agentInstance !== '' && claimant.agentInstance !== '' && last.agentInstance !== claimant.agentInstance;
  return last.isAlive && last.bootId === claimant.bootId && isOther;
}

/** A quarantine with the two who claim to be the host. `salt` is new for each, so that a choice is never taken for a later one. */
export function beginQuarantine(reason: QuarantineReason, last: LastSession, claimant: Claimant, salt: string): HostQuarantine {
  const former = { machineId: last.machineId ?? '', bootId: last.bootId ?? '', agentInstance: last.agentInstance ?? '', address: '', counter: last.counterUsed };
  const claims = [former, claimant].filter((claim) => claim.machineId !== '' || claim.bootId !== '');
  return { reason, salt, acceptedId: null, claims: uniqueClaims(claims.map((claim) => identifyClaim(claim, salt))) };
}

/** With a claimant that was not seen before; null when there is nothing new. */
export function noteClaimant(quarantine: HostQuarantine, claimant: Claimant): HostQuarantine | null {
  const claim = identifyClaim(claimant, quarantine.salt);
  if (quarantine.claims.some(({ id }) => id === claim.id)) return null;
  const accepted = quarantine.claims.filter(({ id }) => id === quarantine.acceptedId);
  const others = [...quarantine.claims.filter(({ id }) => id !== quarantine.acceptedId), claim];
  return { ...quarantine, claims: [...accepted, ...others.slice(-(claimsMax - accepted.length))] };
}

/** The claimant is the one that an operator chose: the same boot, or a later boot of a machine whose machine-id nobody else has. */
export function isAcceptedClaimant(quarantine: HostQuarantine | null, claimant: Pick<Claimant, 'machineId' | 'bootId'>): boolean {
  const accepted = quarantine?.claims.find(({ id }) => id === quarantine.acceptedId);
  if (quarantine === null || accepted === undefined || accepted.machineId !== claimant.machineId) return false;
  if (accepted.bootId === claimant.bootId) return true;
  const isShared = quarantine.claims.some((claim) => claim.machineId === accepted.machineId && claim.bootId !== accepted.bootId);
  return claimant.machineId !== '' && !isShared;
}

/** Machine and boot make a claim; the run of the agent tells two agents of one boot apart for the reader only. */
function identifyClaim(claim: Claimant, salt: string): HostClaim {
  const id = createHash('sha256').update(JSON.stringify([salt, claim.machineId, claim.bootId])).digest('hex').slice(0, claimIdLength);
  return { id, machineId: claim.machineId, bootId: claim.bootId, address: claim.address, counter: claim.counter };
}

/** The later of two says more: it has an address. */
function uniqueClaims(claims: readonly HostClaim[]): readonly HostClaim[] {
  return [...new Map(claims.map((claim) => [claim.id, claim])).values()];
}
