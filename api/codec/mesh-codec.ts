/**
 * Between the mesh messages of nkudo.edge.v1 and the model. An order is checked strictly, since it becomes the
 * arguments of a command; a report leniently: a state that is not known here becomes `Unknown`, never an error.
 * The setup key is kept apart from the order, so that nothing that stores or prints orders ever holds it.
 */
import { MeshReport_State, type MeshOrder as MeshOrderMessage, type MeshReport as MeshReportMessage } from '../gen/nkudo/edge/v1/edge.pb.ts';
import { isManagementUrl, isMeshHostName, meshReportLimits, type MeshOrder, type MeshReport, type MeshState } from '../model/mesh.ts';
import { enumMap, integer, invalid, text } from './validate.ts';

/** NetBird's keys are UUIDs; the bound leaves room for others. */
const setupKeyMax = 256;
const peersMax = 1_000_000;

const stateMap = enumMap<MeshState>({
  NotConfigured: MeshReport_State.NOT_CONFIGURED,
  Missing: MeshReport_State.MISSING,
  Stopped: MeshReport_State.STOPPED,
  NeedsLogin: MeshReport_State.NEEDS_LOGIN,
  Connecting: MeshReport_State.CONNECTING,
  Connected: MeshReport_State.CONNECTED,
  Failed: MeshReport_State.FAILED,
  Unknown: MeshReport_State.UNKNOWN,
});
const knownStates: ReadonlySet<number> = new Set(Object.values(MeshReport_State).filter((value) => value > 0));

/** @param setupKey secret; empty when there is none */
export function encodeMeshOrder(order: MeshOrder, setupKey: string): MeshOrderMessage {
  return { join: order.join, managementUrl: order.managementUrl, setupKey, hostName: order.hostName, revision: order.revision };
}

export interface ReceivedMeshOrder {
  readonly order: MeshOrder;
  /** The setup key; null when none came. A function, so that no logger or encoder prints the secret by accident. */
  readonly revealKey: (() => string) | null;
}

/** @throws INVALID_REQUEST; the message never holds the key */
export function decodeMeshOrder(message: MeshOrderMessage): ReceivedMeshOrder {
  const { join, managementUrl, setupKey, hostName } = message;
  const revision = integer('mesh.revision', message.revision, 1);
  if (!join) return { order: { join, managementUrl: '', hostName: '', revision }, revealKey: null };
  if (!isManagementUrl(managementUrl)) throw invalid('mesh.management_url', 'must be https, or http on loopback, without a path');
  if (!isMeshHostName(hostName)) throw invalid('mesh.host_name', 'must be a DNS label');
  if (!/^[\x21-\x7e]*$/.test(text('mesh.setup_key', setupKey, { max: setupKeyMax, allowEmpty: true }))) throw invalid('mesh.setup_key', 'must be printable');
  return { order: { join, managementUrl, hostName, revision }, revealKey: setupKey === '' ? null : () => setupKey };
}

/** Texts that are too long are cut. */
export function encodeMeshReport(report: MeshReport): MeshReportMessage {
  const { rawState, peerId, publicKey, address, fqdn, problem } = meshReportLimits;
  return {
    state: stateMap.encode(report.state) as MeshReport_State, // The table holds the numbers of this enum.
    rawState: report.rawState.slice(0, rawState),
    peerId: report.peerId.slice(0, peerId),
    publicKey: report.publicKey.slice(0, publicKey),
    address: report.address.slice(0, address),
    fqdn: report.fqdn.slice(0, fqdn),
    managementConnected: report.isManagementConnected,
    signalConnected: report.isSignalConnected,
    peersRelayed: report.peersRelayed,
    peersDirect: report.peersDirect,
    problem: report.problem.slice(0, problem),
    wantsKey: report.wantsKey,
    orderRevision: report.orderRevision,
    daemonMemoryBytes: report.daemonMemoryBytes,
  };
}

/** @throws INVALID_REQUEST */
export function decodeMeshReport(message: MeshReportMessage): MeshReport {
  const short = (name: string, value: string, max: number): string => text(`mesh.${name}`, value, { max, allowEmpty: true });
  const address = short('address', message.address, meshReportLimits.address);
  if (!/^[0-9a-fA-F.:]*$/.test(address)) throw invalid('mesh.address', 'must be an address without prefix length');
  return {
    state: knownStates.has(message.state) ? stateMap.decode('mesh.state', message.state) : 'Unknown',
    rawState: short('raw_state', message.rawState, meshReportLimits.rawState),
    peerId: short('peer_id', message.peerId, meshReportLimits.peerId),
    publicKey: short('public_key', message.publicKey, meshReportLimits.publicKey),
    address,
    fqdn: short('fqdn', message.fqdn, meshReportLimits.fqdn),
    isManagementConnected: message.managementConnected,
    isSignalConnected: message.signalConnected,
    peersRelayed: integer('mesh.peers_relayed', message.peersRelayed, 0, peersMax),
    peersDirect: integer('mesh.peers_direct', message.peersDirect, 0, peersMax),
    problem: short('problem', message.problem, meshReportLimits.problem),
    wantsKey: message.wantsKey,
    orderRevision: integer('mesh.order_revision', message.orderRevision, 0),
    daemonMemoryBytes: integer('mesh.daemon_memory_bytes', message.daemonMemoryBytes, 0),
  };
}
