/**
 * Decides what the agent does about the mesh from one look, and says what the control plane is told. Pure.
 *
 * Words. **Look** what the mesh software said at one moment. **Membership** the note, durable before the first effect,
 * that the agent joined: only what the agent joined does it ever leave.
 *
 *   logged out ──key──▶ (join) ──▶ connecting ──▶ connected
 *       ▲                              │ idle ◀──────┘ switched off by hand: (connect), without a key
 *       └── session expired, peer deleted, left ─────┘
 */
import type { MeshOrder, MeshReport, MeshState } from '#api/model/mesh.ts';

/** What the software tells of itself; texts that it left out are empty. */
export interface MeshStatus {
  /** Its own word for its state; empty when it gave none. */
  readonly rawState: string;
  readonly managementError: string;
  readonly isManagementConnected: boolean;
  readonly isSignalConnected: boolean;
  readonly peerId: string;
  readonly publicKey: string;
  readonly address: string;
  readonly fqdn: string;
  readonly peersRelayed: number;
  readonly peersDirect: number;
}

/** `missing`: no command. `stopped`: the service does not answer. `failed`: an answer that can't be used, or none in time. */
export type MeshAnswer =
  | { readonly kind: 'missing' | 'stopped' | 'failed'; readonly problem: string }
  | { readonly kind: 'seen'; readonly status: MeshStatus };

export type MeshLook = MeshAnswer & {
  /** Highest memory of the service since it started, bytes; 0: not known. */
  readonly daemonMemoryBytes: number;
};

/** Through which order, and as which host, the agent joined. */
export interface MeshMembership {
  readonly managementUrl: string;
  readonly hostId: string;
}

/** `join` needs a key, `connect` does not. `forget`: what was joined is gone, so the note of it goes as well. */
export type MeshAction = 'none' | 'join' | 'connect' | 'leave' | 'forget';

export interface MeshView {
  readonly order: MeshOrder | null;
  readonly membership: MeshMembership | null;
  readonly hostId: string;
  readonly look: MeshLook;
  /** Problem of the last attempt to join, connect or leave; empty when it worked, or there was none. */
  readonly lastProblem: string;
  /** How long every look has found it connecting, milliseconds; 0: it is not. */
  readonly connectingForMs: number;
}

/** A service that was connecting for so long is asked to connect anew, milliseconds. */
export const stuckAfterMs = 300_000;

export interface MeshDecision {
  readonly action: MeshAction;
  readonly state: MeshState;
  readonly problem: string;
}

/** True when there is nothing to look for. Without any order nothing is left either: silence is no order. */
export function isMeshIdle(order: MeshOrder | null, membership: MeshMembership | null): boolean {
  return order === null || (!order.join && membership === null);
}

export function decideMesh(view: MeshView): MeshDecision {
  const { order, membership, look, lastProblem } = view;
  if (order === null || isMeshIdle(order, membership)) return { action: 'none', state: 'NotConfigured', problem: '' };
  switch (look.kind) {
    case 'missing':
      return { action: 'none', state: 'Missing', problem: look.problem };
    case 'stopped':
      return { action: 'none', state: 'Stopped', problem: look.problem };
    case 'failed':
      return { action: 'none', state: 'Failed', problem: look.problem };
    case 'seen': {
      if (order.join && isOfOrder(view, order)) return decideMember(look.status, view);
      if (order.join && membership === null) return decideStranger(look.status, lastProblem);
      // It joined something that is no longer wanted: nothing, another server, or as another host.
      if (isLoggedOut(look.status)) return { action: 'forget', state: order.join ? 'NeedsLogin' : 'NotConfigured', problem: '' };
      return { action: 'leave', state: lastProblem === '' ? 'Connecting' : 'Failed', problem: lastProblem };
    }
  }
}

function isOfOrder({ membership, hostId }: MeshView, order: MeshOrder): boolean {
  return membership?.managementUrl === order.managementUrl && membership.hostId === hostId;
}

function isLoggedOut({ rawState }: MeshStatus): boolean {
  return rawState === 'NeedsLogin' || rawState === 'LoginFailed' || rawState === 'SessionExpired';
}

/** The agent joined, or began to. */
function decideMember(status: MeshStatus, { lastProblem, connectingForMs }: MeshView): MeshDecision {
  if (isLoggedOut(status)) return needsKey(lastProblem);
  switch (status.rawState) {
    case 'Idle':
      return reconnect(lastProblem);
    case 'Connecting':
      if (lastProblem !== '' || connectingForMs >= stuckAfterMs) return reconnect(lastProblem);
      return { action: 'none', state: 'Connecting', problem: connectionProblem(status) };
    case 'Connected':
    // A version that does not tell its state tells its connections.
    case '':
      return status.isManagementConnected && status.isSignalConnected
        ? { action: 'none', state: 'Connected', problem: '' }
        : { action: 'none', state: 'Connecting', problem: connectionProblem(status) };
    default:
      return unknownState(status);
  }
}

/** The agent did not join: somebody else may have. */
function decideStranger(status: MeshStatus, lastProblem: string): MeshDecision {
  if (isLoggedOut(status) || status.rawState === 'Idle') return needsKey(lastProblem);
  switch (status.rawState) {
    case '':
    case 'Connecting':
    case 'Connected':
      return { action: 'none', state: 'Failed', problem: strangerProblem };
    default:
      return unknownState(status);
  }
}

const strangerProblem = 'netbird on this host is a member of a mesh that the agent did not join; run `netbird deregister` on the host to hand it over';

/** The agent may have died before it used its key: when connecting alone fails, a key is needed after all. */
function reconnect(lastProblem: string): MeshDecision {
  return lastProblem === '' ? { action: 'connect', state: 'Connecting', problem: '' } : needsKey(lastProblem);
}

function needsKey(lastProblem: string): MeshDecision {
  return { action: 'join', state: lastProblem === '' ? 'NeedsLogin' : 'Failed', problem: lastProblem };
}

function unknownState({ rawState }: MeshStatus): MeshDecision {
  return { action: 'none', state: 'Unknown', problem: `netbird reports the state ${JSON.stringify(rawState)}, which this agent does not know` };
}

function connectionProblem(status: MeshStatus): string {
  if (!status.isManagementConnected) return `no connection to the management server${status.managementError === '' ? '' : `: ${status.managementError}`}`;
  return status.isSignalConnected ? '' : 'no connection to the signal server';
}

/** Memory of the service below which nothing is said of it, bytes: a healthy one stays well below. */
export const daemonMemoryQuietBytes = 256 * 2 ** 20;

/** Rounded up, so that a report changes a few times at most while a service grows without end. */
export function roundDaemonMemory(bytes: number): number {
  return bytes < daemonMemoryQuietBytes ? 0 : 2 ** Math.ceil(Math.log2(bytes));
}

/** What the control plane is told. `wantsKey` is added by whoever asks. */
export function describeMesh(decision: MeshDecision, view: Pick<MeshView, 'order' | 'look'>): MeshReport {
  const status = view.look.kind === 'seen' && decision.state !== 'NotConfigured' ? view.look.status : emptyStatus;
  const daemonMemoryBytes = roundDaemonMemory(view.look.daemonMemoryBytes);
  const memoryProblem = daemonMemoryBytes === 0 ? '' : `the netbird service used up to ${daemonMemoryBytes / 2 ** 20} MiB of memory`;
  return {
    state: decision.state,
    rawState: status.rawState,
    peerId: status.peerId,
    publicKey: status.publicKey,
    address: status.address,
    fqdn: status.fqdn,
    isManagementConnected: status.isManagementConnected,
    isSignalConnected: status.isSignalConnected,
    peersRelayed: status.peersRelayed,
    peersDirect: status.peersDirect,
    problem: [decision.problem, memoryProblem].filter((text) => text !== '').join('; '),
    wantsKey: false,
    orderRevision: view.order?.revision ?? 0,
    daemonMemoryBytes,
  };
}

const emptyStatus: MeshStatus = {
  rawState: '',
  managementError: '',
  isManagementConnected: false,
  isSignalConnected: false,
  peerId: '',
  publicKey: '',
  address: '',
  fqdn: '',
  peersRelayed: 0,
  peersDirect: 0,
};
