/**
 * Reads what `netbird status --json` prints. Lenient: what is missing is empty, what is unknown is ignored, and a state
 * is passed on as it is. Facts measured on NetBird v0.77; versions before print text instead of JSON while logged out.
 */
import type { MeshStatus } from '../../domain/mesh.ts';

/** Longest text that is taken over, characters. */
const textMax = 512;
/** Peers beyond this are not counted. */
const peersMax = 100_000;

/** Null when it is neither JSON with an object nor the text of an older version. */
export function parseNetbirdStatus(text: string): MeshStatus | null {
  const trimmed = text.trim();
  if (!trimmed.startsWith('{')) {
    const rawState = /^Daemon status:\s*([A-Za-z]{1,64})\s*$/m.exec(trimmed)?.[1];
    return rawState === undefined ? null : statusOf({ daemonStatus: rawState });
  }
  try {
    return statusOf(JSON.parse(trimmed));
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

function statusOf(value: unknown): MeshStatus {
  const management = field(value, 'management');
  const peers = countPeers(field(field(value, 'peers'), 'details'));
  return {
    rawState: textOf(field(value, 'daemonStatus')),
    managementError: textOf(field(management, 'error')),
    isManagementConnected: field(management, 'connected') === true,
    isSignalConnected: field(field(value, 'signal'), 'connected') === true,
    peerId: textOf(field(value, 'peerId')),
    publicKey: textOf(field(value, 'publicKey')),
    address: addressOf(textOf(field(value, 'netbirdIp'))),
    fqdn: textOf(field(value, 'fqdn')),
    ...peers,
  };
}

function countPeers(details: unknown): Pick<MeshStatus, 'peersRelayed' | 'peersDirect'> {
  const connected = Array.isArray(details) ? details.slice(0, peersMax).filter((peer) => field(peer, 'status') === 'Connected') : [];
  const of = (kind: string): number => connected.filter((peer) => field(peer, 'connectionType') === kind).length;
  return { peersRelayed: of('Relayed'), peersDirect: of('P2P') };
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, name) ? Reflect.get(value, name) : undefined;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, textMax) : '';
}

/** `100.64.0.1/16` without its prefix length; other words, such as `N/A`, are no address. */
function addressOf(text: string): string {
  const address = text.split('/')[0] ?? '';
  return /^[0-9a-fA-F.:]{2,45}$/.test(address) && /[.:]/.test(address) ? address : '';
}
