/** What the agent is told from outside, parsed once and frozen. Flags win; nothing secret is among them. */
import { getServers } from 'node:dns';
import { isIPv4 } from 'node:net';
import { totalmem } from 'node:os';
import { isAbsolute, resolve } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { stableHash } from '#api/model/stable-hash.ts';

/** A tenant chooses the paths in a spec, so what else lies on the host must be out of reach unless somebody there says otherwise. */
const defaultAllowedPaths: readonly string[] = ['/var/lib/nkudo/images'];

/** Set by the bundler of a release. */
export const agentVersion = '0.1.0';

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof logLevels)[number];

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
  readonly images: ImagesConfig;
  readonly faultSocket: string | undefined;
}

export interface ImagesConfig {
  /** Kept free on the file system of the state directory, bytes. */
  readonly reserveBytes: number;
  /** Images that nobody uses are removed above this sum, bytes. */
  readonly cacheMaxBytes: number;
  /** HTTP_PROXY and its like, in either case. */
  readonly proxies: Readonly<Record<string, string>>;
}

export interface NetworkConfig {
  /** Where the network programs of the host are looked for. */
  readonly path: string | undefined;
  /** Names this agent in the aliases of its taps. */
  readonly owner: string;
  /** Files of the DHCP servers; gone with a boot of the host, as their guests' devices are. */
  readonly runtimeDirectory: string;
  readonly vmmUserId: number;
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
const runtimeDirectoryDefault = '/run/nkudo-edge';
/** What NetBird calls its interface unless told otherwise. */
const meshInterfaceDefault = 'wt0';
const meshPollDefaultMs = 30_000;
const meshCommandDeadlineDefaultMs = 60_000;

/** @throws INVALID_REQUEST that names the flag */
export function parseRunConfig(
  flags: { readonly stateDir: string; readonly hypervisor: string; readonly netbird: string; readonly logLevel: string; readonly allowPath: readonly string[] },
  environment: Readonly<Record<string, string | undefined>>,
): RunConfig {
  const logLevel = logLevels.find((level) => level === flags.logLevel);
  if (logLevel === undefined) throw new AppError('INVALID_REQUEST', `--log-level must be one of ${logLevels.join(', ')}`);
  const relative = flags.allowPath.find((path) => !isAbsolute(path));
  if (relative !== undefined) throw new AppError('INVALID_REQUEST', '--allow-path must be an absolute directory');
  return Object.freeze({
    stateDirectory: resolve(flags.stateDir),
    hypervisorPath: flags.hypervisor,
    logLevel,
    allowedPaths: flags.allowPath.length === 0 ? defaultAllowedPaths : flags.allowPath,
    hostMemoryBytes: totalmem(),
    bootsAtOnce: bootsAtOnceDefault,
    vmmEnvironment: pickEnvironment(environment, (name) => name === 'PATH' || name.startsWith('RUST_') || name.startsWith('MOCK_CH_')),
    mesh: Object.freeze({
      command: flags.netbird,
      environment: pickEnvironment(environment, (name) => meshVariables.has(name) || name.startsWith('MOCK_NETBIRD_')),
      pollMs: durationMs('NKUDO_MESH_POLL_MS', environment, meshPollDefaultMs),
      commandDeadlineMs: durationMs('NKUDO_MESH_COMMAND_TIMEOUT_MS', environment, meshCommandDeadlineDefaultMs),
    }),
    network: Object.freeze({
      path: environment['PATH'],
      owner: stableHash(resolve(flags.stateDir), 0).toString(36),
      runtimeDirectory: environment['NKUDO_RUNTIME_DIR'] ?? runtimeDirectoryDefault,
      vmmUserId: process.getuid?.() ?? 0,
      meshInterface: deviceName('NKUDO_MESH_INTERFACE', environment, meshInterfaceDefault),
      nameServers: readNameServers(),
      mayEnableForwarding: environment['NKUDO_IP_FORWARD'] !== 'keep',
    }),
    images: Object.freeze({
      reserveBytes: byteCount('NKUDO_IMAGES_RESERVE_BYTES', environment, imagesReserveDefaultBytes),
      cacheMaxBytes: byteCount('NKUDO_IMAGES_CACHE_MAX_BYTES', environment, imagesCacheMaxDefaultBytes),
      proxies: pickEnvironment(environment, (name) => proxyVariables.has(name.toUpperCase())),
    }),
    faultSocket: environment['NKUDO_FAULT_SOCKET'],
  });
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

/** @throws INVALID_REQUEST that names the variable */
function deviceName(name: string, environment: Readonly<Record<string, string | undefined>>, otherwise: string): string {
  const value = environment[name] ?? '';
  if (value === '') return otherwise;
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/.test(value)) throw new AppError('INVALID_REQUEST', `${name} must be the name of a network device, such as ${otherwise}`);
  return value;
}

const proxyVariables: ReadonlySet<string> = new Set(['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY']);
const imagesReserveDefaultBytes = 256 * 2 ** 20;
const imagesCacheMaxDefaultBytes = 64 * 2 ** 30;

/** @throws INVALID_REQUEST that names the variable */
function byteCount(name: string, environment: Readonly<Record<string, string | undefined>>, otherwise: number): number {
  const text = environment[name] ?? '';
  if (text === '') return otherwise;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new AppError('INVALID_REQUEST', `${name} must be a whole number of bytes, 0 or more`);
  return value;
}

/** @throws INVALID_REQUEST that names the variable */
function durationMs(name: string, environment: Readonly<Record<string, string | undefined>>, otherwise: number): number {
  const text = environment[name];
  if (text === undefined || text === '') return otherwise;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < durationMinMs || value > durationMaxMs) {
    throw new AppError('INVALID_REQUEST', `${name} must be a whole number of milliseconds from ${durationMinMs} to ${durationMaxMs}`);
  }
  return value;
}

const durationMinMs = 50;
const durationMaxMs = 3_600_000;
