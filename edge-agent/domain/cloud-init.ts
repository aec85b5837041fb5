/**
 * What cloud-init in the guest is told: the files of a NoCloud seed, from the desired state and nothing else, so that
 * equal desired states give equal bytes. Values of Secrets are only passed on.
 *
 * Source: cloud-init documentation, "NoCloud" and "Networking config version 2".
 */
import type { MicroVMId } from '#api/model/ids.ts';
import { isSameSecret, type CloudInit, type DesiredMicroVM, type NetworkSpec } from '#api/model/microvm.ts';
import { canonicalJson } from '#api/model/canonical-json.ts';
import { stableHash } from '#api/model/stable-hash.ts';

export interface SeedFile {
  readonly name: 'meta-data' | 'user-data' | 'network-config';
  readonly content: Uint8Array;
}

export interface SeedInput {
  readonly microvmId: MicroVMId;
  readonly desired: DesiredMicroVM;
  readonly cloudInit: CloudInit;
  /** The value that `cloudInit.userDataSecret` names; ignored without it. */
  readonly secretUserData: Uint8Array | null;
  /** DNS servers that guests are told of; may be empty. */
  readonly nameServers: readonly string[];
}

/** cloud-init takes a seed for one only when it has user data. */
const noUserData = '#cloud-config\n{}\n';
/** Lower is preferred: the way out of a guest with several networks is the one behind the host. */
const routeMetrics = { nat: 100, mesh: 200, bridge: 300, macvtap: 400 } as const;

export function deriveSeedFiles(input: SeedInput): readonly SeedFile[] {
  const { cloudInit, desired, nameServers, secretUserData } = input;
  const network = cloudInit.networkData ?? deriveNetworkConfig(desired.networks ?? [], nameServers);
  const meta = {
    'instance-id': instanceId(input, network),
    'local-hostname': cloudInit.hostName,
    ...(cloudInit.sshAuthorizedKeys.length === 0 ? {} : { 'public-keys': cloudInit.sshAuthorizedKeys }),
  };
  const userData = cloudInit.userDataSecret === undefined ? Buffer.from(cloudInit.userData ?? noUserData) : (secretUserData ?? Buffer.alloc(0));
  return [
    // JSON is YAML.
    { name: 'meta-data', content: Buffer.from(`${JSON.stringify(meta, null, 2)}\n`) },
    { name: 'user-data', content: userData },
    ...(network === null ? [] : [{ name: 'network-config' as const, content: Buffer.from(network) }]),
  ];
}

/**
 * cloud-init takes another instance-id for another machine, and only then does over what it does once in the life of
 * one: users, keys, commands, the network. Of a Secret its version counts, never its value, which any user in the guest
 * could then try to guess.
 */
function instanceId({ microvmId, desired, cloudInit }: SeedInput, network: string | null): string {
  const version = cloudInit.userDataSecret === undefined ? null : versionOf(desired, cloudInit);
  const text = canonicalJson([cloudInit, version, network]);
  const digest = [0, 1].map((seed) => stableHash(text, seed).toString(16).padStart(8, '0')).join('');
  return `${microvmId}-${digest}`;
}

function versionOf({ secrets = [] }: DesiredMicroVM, { userDataSecret }: CloudInit): string | null {
  if (userDataSecret === undefined) return null;
  return secrets.find((reference) => isSameSecret(reference, userDataSecret))?.resourceVersion ?? null;
}

/** Null without networks: then there is nothing to configure. Cards are found by their hardware address. */
function deriveNetworkConfig(networks: readonly NetworkSpec[], nameServers: readonly string[]): string | null {
  if (networks.length === 0) return null;
  const ethernets = Object.fromEntries(networks.map((network, index) => [`eth${index}`, deriveEthernet(network, index, nameServers)]));
  return `${JSON.stringify({ version: 2, ethernets }, null, 2)}\n`;
}

function deriveEthernet({ mac, kind, address, gateway }: NetworkSpec, index: number, nameServers: readonly string[]): object {
  const card = { match: { macaddress: mac }, 'set-name': `eth${index}` };
  if (address === undefined) return { ...card, dhcp4: true };
  const isWayOut = gateway !== undefined;
  return {
    ...card,
    dhcp4: false,
    addresses: [address],
    ...(isWayOut ? { routes: [{ to: '0.0.0.0/0', via: gateway, metric: routeMetrics[kind] + index }] } : {}),
    ...(isWayOut && nameServers.length > 0 ? { nameservers: { addresses: nameServers } } : {}),
  };
}

/** Names the seed of one start. */
export function seedKey({ run, desired }: { readonly run: { readonly incarnation: number }; readonly desired: DesiredMicroVM | null }): string {
  return `${run.incarnation} ${JSON.stringify([desired?.cloudInit ?? null, desired?.secrets ?? null, desired?.networks ?? null])}`;
}

/** What of the Secrets a guest is started with: another version needs another start. */
export function seedInputs(desired: DesiredMicroVM): { readonly cloudInit: CloudInit; readonly version: string | null } | null {
  const { cloudInit } = desired;
  return cloudInit === undefined ? null : { cloudInit, version: versionOf(desired, cloudInit) };
}
