/**
 * Every setting of the agent, once: its key in the file, its environment variable, its flag, what values it takes and
 * what it is without any. All else (reading, refusing, showing, the tests of wrong values) is made from this table.
 * Nothing secret may become a setting: keys and tokens come from files of their own.
 */

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof logLevels)[number];

export type SettingValue = string | number | readonly string[];

export type SettingKind =
  | { readonly is: 'program' }
  | { readonly is: 'directory' }
  | { readonly is: 'directories' }
  /** `host` or `host:port`; may be none. */
  | { readonly is: 'servers' }
  | { readonly is: 'choice'; readonly choices: readonly string[] }
  | { readonly is: 'device' }
  /** Whole milliseconds, both bounds included. */
  | { readonly is: 'milliseconds'; readonly min: number; readonly max: number }
  /** Whole bytes, 0 or more. */
  | { readonly is: 'bytes' }
  /** `first-last`, or `agent`. */
  | { readonly is: 'users' }
  /** Name or number of a group, or `none`. */
  | { readonly is: 'group' };

export interface Setting {
  /** In the file. */
  readonly key: string;
  readonly variable: string;
  /** An older name of the variable that goes on working; `variable` wins. */
  readonly olderVariable?: string;
  /** Absent: only in file and environment. */
  readonly flag?: string;
  readonly kind: SettingKind;
  readonly byDefault: SettingValue;
  readonly meaning: string;
}

const durationMinMs = 50;
const durationMaxMs = 3_600_000;
const duration = { is: 'milliseconds', min: durationMinMs, max: durationMaxMs } as const;

export const settings = [
  { key: 'stateDir', variable: 'NKUDO_EDGE_STATE_DIR', flag: '--state-dir', kind: { is: 'directory' }, byDefault: '/var/lib/nkudo-edge', meaning: 'where the agent keeps its identity, its journal and the microVMs' },
  { key: 'hypervisor', variable: 'NKUDO_EDGE_HYPERVISOR', flag: '--hypervisor', kind: { is: 'program' }, byDefault: 'cloud-hypervisor', meaning: 'path or name of the cloud-hypervisor executable' },
  { key: 'netbird', variable: 'NKUDO_EDGE_NETBIRD', flag: '--netbird', kind: { is: 'program' }, byDefault: 'netbird', meaning: 'path or name of the netbird command, for sites with a mesh' },
  { key: 'logLevel', variable: 'NKUDO_EDGE_LOG_LEVEL', flag: '--log-level', kind: { is: 'choice', choices: logLevels }, byDefault: 'info', meaning: 'least level that is logged' },
  // A tenant chooses the paths in a spec, so what else lies on the host is out of reach unless somebody there says otherwise.
  { key: 'allowPaths', variable: 'NKUDO_EDGE_ALLOW_PATHS', flag: '--allow-path', kind: { is: 'directories' }, byDefault: ['/var/lib/nkudo/images'], meaning: 'directories below which kernels and disks may lie' },
  { key: 'runtimeDir', variable: 'NKUDO_EDGE_RUNTIME_DIR', olderVariable: 'NKUDO_RUNTIME_DIR', kind: { is: 'directory' }, byDefault: '/run/nkudo-edge', meaning: 'files that are gone with a boot of the host' },
  { key: 'meshInterface', variable: 'NKUDO_EDGE_MESH_INTERFACE', olderVariable: 'NKUDO_MESH_INTERFACE', kind: { is: 'device' }, byDefault: 'wt0', meaning: 'network device of the mesh' },
  { key: 'meshPollMs', variable: 'NKUDO_EDGE_MESH_POLL_MS', olderVariable: 'NKUDO_MESH_POLL_MS', kind: duration, byDefault: 30_000, meaning: 'time between two looks at the mesh' },
  { key: 'meshCommandTimeoutMs', variable: 'NKUDO_EDGE_MESH_COMMAND_TIMEOUT_MS', olderVariable: 'NKUDO_MESH_COMMAND_TIMEOUT_MS', kind: duration, byDefault: 60_000, meaning: 'bound on one netbird command' },
  { key: 'imagesReserveBytes', variable: 'NKUDO_EDGE_IMAGES_RESERVE_BYTES', kind: { is: 'bytes' }, byDefault: 256 * 2 ** 20, meaning: 'bytes that images leave free on the file system of the state directory' },
  { key: 'imagesCacheMaxBytes', variable: 'NKUDO_EDGE_IMAGES_CACHE_MAX_BYTES', kind: { is: 'bytes' }, byDefault: 64 * 2 ** 30, meaning: 'bytes of images that are kept while no microVM uses them' },
  { key: 'imagesUnpackedMaxBytes', variable: 'NKUDO_EDGE_IMAGES_UNPACKED_MAX_BYTES', kind: { is: 'bytes' }, byDefault: 64 * 2 ** 30, meaning: 'bytes that one image of a registry may become when it is unpacked' },
  { key: 'imagesPlainHttpRegistries', variable: 'NKUDO_EDGE_IMAGES_PLAIN_HTTP_REGISTRIES', kind: { is: 'servers' }, byDefault: [], meaning: 'registries, as host or host:port, that are spoken to without TLS' },
  { key: 'ipForward', variable: 'NKUDO_EDGE_IP_FORWARD', olderVariable: 'NKUDO_IP_FORWARD', kind: { is: 'choice', choices: ['enable', 'keep'] }, byDefault: 'enable', meaning: 'whether the agent may let the host forward packets of guests' },
  // In the part of the numbers that systemd leaves to nobody: neither people, services, containers nor sub-users have one there.
  { key: 'vmmUsers', variable: 'NKUDO_EDGE_VMM_USERS', kind: { is: 'users' }, byDefault: '1900000000-1900065535', meaning: 'numbers of the users that VMMs run as, one for each microVM; agent: all run as the agent' },
  { key: 'vmmGroup', variable: 'NKUDO_EDGE_VMM_GROUP', kind: { is: 'group' }, byDefault: 'none', meaning: 'group that all VMMs have, for kernels and disks below allowPaths that not everybody may read' },
  { key: 'releaseKeysDir', variable: 'NKUDO_EDGE_RELEASE_KEYS_DIR', kind: { is: 'directory' }, byDefault: '/etc/nkudo-edge/release-keys.d', meaning: 'directory with more public keys (*.pub) whose signatures on releases of the agent are accepted' },
  { key: 'updateDeadlineMs', variable: 'NKUDO_EDGE_UPDATE_DEADLINE_MS', kind: duration, byDefault: 180_000, meaning: 'time in which a new version of the agent must be ready, before the one that ran before is started again' },
] as const satisfies readonly Setting[];

export type SettingKey = (typeof settings)[number]['key'];

export const configVariable = 'NKUDO_EDGE_CONFIG';
export const configFileByDefault = '/etc/nkudo-edge/config.yaml';
/** Of the same family of names, and no settings: the control plane's, and what launcher and agent tell each other. */
export const variablesOfOthers: readonly string[] = ['NKUDO_EDGE_LISTEN', 'NKUDO_EDGE_LIB', 'NKUDO_EDGE_AGENT_DIR', 'NKUDO_EDGE_START_ID'];
