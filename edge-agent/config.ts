/**
 * What `run` works with, frozen: the settings (config/settings.ts), and what it takes from its environment besides them.
 * Nothing secret is among it.
 */
import { getServers } from 'node:dns';
import { readFileSync } from 'node:fs';
import { isIPv4 } from 'node:net';
import { totalmem } from 'node:os';
import { resolve } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { stableHash } from '#api/model/stable-hash.ts';
import type { EffectiveConfig } from './config/resolve.ts';
import { noGroup, parseUserRange, type UserRange } from './domain/user-range.ts';
import { logLevels, type LogLevel, type SettingKey } from './config/settings.ts';

/** Set by the bundler of a release. */
declare const NKUDO_EDGE_VERSION: string | undefined;
declare const NKUDO_EDGE_RELEASE_KEYS: string | undefined;

export const agentVersion = typeof NKUDO_EDGE_VERSION === 'string' ? NKUDO_EDGE_VERSION : '0.1.0';
/** Public keys, PEM, one after another; those of the host come to them. */
export const bakedReleaseKeysPem = typeof NKUDO_EDGE_RELEASE_KEYS === 'string' ? NKUDO_EDGE_RELEASE_KEYS : '';

export interface RunConfig {
  readonly stateDirectory: string;
  readonly hypervisorPath: string;
  readonly logLevel: LogLevel;
  /** Directories below which kernels and disks may lie; never the agent's own state or the kernel's pseudo file systems. */
  readonly allowedPaths: readonly string[];
  readonly hostMemoryBytes: number;
  /** VMMs started or booted at once. */
  readonly bootsAtOnce: number;
  /** Environment of each VMM: the shell's needs and the VMM's own diagnostics, nothing else of ours. */
  readonly vmmEnvironment: Readonly<Record<string, string>>;
  readonly mesh: MeshConfig;
  readonly network: NetworkConfig;
  readonly isolation: IsolationConfig;
  readonly images: ImagesConfig;
  readonly updates: UpdatesConfig;
  readonly faultSocket: string | undefined;
}

/** What the launcher makes of the end of an agent; any other code before it was ready counts against its version. */
export const launcherExitCodes = { startAgain: 75, notOfThisVersion: 78 } as const;

/** What the agent needs to change its own version. */
export interface UpdatesConfig {
  readonly launcher: LauncherEnvironment;
  readonly keysDirectory: string;
  /** In which a new version must be ready. */
  readonly deadlineSeconds: number;
}

/** What the launcher says to the program that it starts. */
export interface LauncherEnvironment {
  /** Of the slots; undefined: no launcher started this process. */
  readonly directory: string | undefined;
  /** Where the packaged version lies. */
  readonly packageDirectory: string;
  /** Names this start; undefined for commands. */
  readonly startId: string | undefined;
}

export function readLauncherEnvironment(environment: Readonly<Record<string, string | undefined>>): LauncherEnvironment {
  return { directory: environment['NKUDO_EDGE_AGENT_DIR'], packageDirectory: environment['NKUDO_EDGE_LIB'] ?? '/usr/lib/nkudo-edge', startId: environment['NKUDO_EDGE_START_ID'] };
}

export interface ImagesConfig {
  /** Kept free on the file system of the state directory, bytes. */
  readonly reserveBytes: number;
  /** Images that nobody uses are removed above this sum, bytes. */
  readonly cacheMaxBytes: number;
  /** The most that one OCI image may become, bytes. */
  readonly unpackedMaxBytes: number;
  /** Registries without TLS, as `host` or `host:port`. */
  readonly plainHttpRegistries: readonly string[];
  /** Where the programs that make file systems are looked for. */
  readonly path: string | undefined;
  /** HTTP_PROXY and its like, in either case. */
  readonly proxies: Readonly<Record<string, string>>;
}

export interface IsolationConfig {
  /** Names this agent in the names of control groups. */
  readonly owner: string;
  /** Null: VMMs run as the agent, by the operator's will. */
  readonly userRange: UserRange | null;
  readonly groupIds: readonly number[];
  readonly path: string | undefined;
}

export interface NetworkConfig {
  /** Where the network programs of the host are looked for. */
  readonly path: string | undefined;
  /** Names this agent in the aliases of its taps. */
  readonly owner: string;
  /** Files of the DHCP servers; gone with a boot of the host, as their guests' devices are. */
  readonly runtimeDirectory: string;
  readonly meshInterface: string;
  /** DNS servers that guests are told of. */
  readonly nameServers: readonly string[];
  readonly mayEnableForwarding: boolean;
}

export interface MeshConfig {
  /** Path or name of the netbird command. */
  readonly command: string;
  /** Environment of the command: what it needs to find itself and its service. A key has no place in it. */
  readonly environment: Readonly<Record<string, string>>;
  /** Time between two looks, milliseconds. */
  readonly pollMs: number;
  /** Bound on one command, milliseconds. */
  readonly commandDeadlineMs: number;
}

/** Below the state directory. */
export const guardDirectory = 'guard';

const bootsAtOnceDefault = 4;

export function deriveRunConfig(effective: EffectiveConfig, environment: Readonly<Record<string, string | undefined>>): RunConfig {
  const text = (key: SettingKey): string => String(effective[key].value);
  const number = (key: SettingKey): number => Number(effective[key].value);
  const list = (key: SettingKey): readonly string[] => {
    const { value } = effective[key];
    return Array.isArray(value) ? value.map(String) : [];
  };
  return Object.freeze({
    stateDirectory: resolve(text('stateDir')),
    hypervisorPath: text('hypervisor'),
    logLevel: logLevels.find((level) => level === effective.logLevel.value) ?? 'info',
    allowedPaths: list('allowPaths'),
    hostMemoryBytes: totalmem(),
    bootsAtOnce: bootsAtOnceDefault,
    vmmEnvironment: pickEnvironment(environment, (name) => name === 'PATH' || name.startsWith('RUST_') || name.startsWith('MOCK_CH_')),
    mesh: Object.freeze({
      command: text('netbird'),
      environment: pickEnvironment(environment, (name) => meshVariables.has(name) || name.startsWith('MOCK_NETBIRD_')),
      pollMs: number('meshPollMs'),
      commandDeadlineMs: number('meshCommandTimeoutMs'),
    }),
    network: Object.freeze({
      path: environment['PATH'],
      owner: stableHash(resolve(text('stateDir')), 0).toString(36),
      runtimeDirectory: text('runtimeDir'),
      meshInterface: text('meshInterface'),
      nameServers: readNameServers(),
      mayEnableForwarding: effective.ipForward.value !== 'keep',
    }),
    isolation: Object.freeze({
      owner: stableHash(resolve(text('stateDir')), 0).toString(36),
      userRange: parseUserRange(text('vmmUsers')),
      groupIds: text('vmmGroup') === noGroup ? [] : [readGroupId(text('vmmGroup'))],
      path: environment['PATH'],
    }),
    images: Object.freeze({
      reserveBytes: number('imagesReserveBytes'),
      cacheMaxBytes: number('imagesCacheMaxBytes'),
      unpackedMaxBytes: number('imagesUnpackedMaxBytes'),
      plainHttpRegistries: list('imagesPlainHttpRegistries'),
      path: environment['PATH'],
      proxies: pickEnvironment(environment, (name) => proxyVariables.has(name.toUpperCase())),
    }),
    updates: Object.freeze({
      launcher: readLauncherEnvironment(environment),
      keysDirectory: text('releaseKeysDir'),
      deadlineSeconds: Math.ceil(number('updateDeadlineMs') / 1_000),
    }),
    faultSocket: environment['NKUDO_FAULT_SOCKET'],
  });
}

/** @throws INVALID_REQUEST for a name that this host does not have */
function readGroupId(group: string): number {
  if (/^\d+$/.test(group)) return Number(group);
  const line = readFileSync('/etc/group', 'utf8').split('\n').find((each) => each.startsWith(`${group}:`));
  const id = Number(line?.split(':')[2]);
  if (line === undefined || !Number.isInteger(id)) throw new AppError('INVALID_REQUEST', `vmmGroup: this host has no group ${group}`, { remedy: `make it (groupadd --system ${group}), or give its number` });
  return id;
}

/** Those that the host asks, but for ones on the host itself, which guests can't reach. */
function readNameServers(): readonly string[] {
  return getServers().filter((server) => isIPv4(server) && !server.startsWith('127.'));
}

/** `NB_SETUP_KEY` and the like are left out on purpose: netbird takes any flag from its environment. */
const meshVariables: ReadonlySet<string> = new Set(['PATH', 'HOME', 'USER', 'XDG_CONFIG_HOME', 'NB_DAEMON_ADDR']);

function pickEnvironment(environment: Readonly<Record<string, string | undefined>>, isWanted: (name: string) => boolean): Record<string, string> {
  const picked = Object.entries(environment).filter(([name]) => isWanted(name));
  // Entries without a value can't come from a real environment; the type allows them.
  return Object.fromEntries(picked.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])));
}

const proxyVariables: ReadonlySet<string> = new Set(['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY']);
