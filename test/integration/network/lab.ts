/**
 * A small world of network namespaces: a host with an uplink to a world and to a mesh, a LAN bridge, and
 * guests behind real taps, which a program opens as a VMM would. Nothing of it touches the machine's own
 * network. Owns namespaces and programs and ends all of them; what is on the host is the adapter's.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createHostNetwork, type HostNetwork } from '#edge-agent/adapters/network/host-network.ts';

const execute = promisify(execFile);
const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;

/** Of the host, on its uplink; the world knows no other way to it. */
export const hostAddress = '198.51.100.1';
export const worldAddress = '198.51.100.2';
export const meshPeerAddress = '100.64.0.2';
export const lanPeerAddress = '192.0.2.2';
/** What the mesh software would announce: the subnet of the host's mesh guests. */
export const meshSubnet = '10.88.0.0/24';

export interface Program {
  /** Lines that it printed, without `ready`. */
  readonly lines: readonly string[];
  /** Resolves with the first line, printed already or later, that fits. */
  line(fits: (line: string) => boolean): Promise<string>;
  write(text: string): void;
  stop(): Promise<void>;
}

export interface Lab {
  readonly host: HostNetwork;
  readonly runtimeDirectory: string;
  readonly namespaces: { readonly host: string; readonly world: string; readonly mesh: string; readonly lan: string };
  /** Runs a program in a namespace to its end. */
  run(namespace: string, program: string, ...args: readonly string[]): Promise<string>;
  /** Starts a mode of frames.c in a namespace; resolves when it is ready. */
  start(namespace: string, ...args: readonly string[]): Promise<Program>;
  /** A machine on a tap of the host, its card being eth0 with this hardware address, up and without an address. */
  plugGuest(tap: string, mac: string): Promise<{ readonly namespace: string; unplug(): Promise<void> }>;
  /** Answer of a server, or null when there is none. */
  ask(namespace: string, protocol: 'tcp' | 'udp', address: string, port: number): Promise<string | null>;
  /** All that the adapter could leave on the host: devices, addresses, rules, forwarding, files, servers. */
  snapshot(): Promise<string>;
  close(): Promise<void>;
}

/** Why these tests can't run here, or null. */
export async function findObstacle(): Promise<string | null> {
  if (process.getuid?.() !== 0) return 'it needs root for namespaces, taps and rules';
  if (!existsSync('/dev/net/tun')) return 'there is no /dev/net/tun';
  for (const [program, ...args] of [['ip', '-V'], ['nft', '--version'], ['gcc', '--version'], ['unshare', '-n', 'true']]) {
    try {
      await execute(program ?? '', args, { env: { PATH: path } });
    } catch {
      return `${[program, ...args].join(' ')} does not work here (apt-get install iproute2 nftables gcc)`;
    }
  }
  return null;
}

let labs = 0;

/** Ends the programs in a namespace and the namespace. */
async function removeNamespace(namespace: string): Promise<void> {
  const left = (await execute('ip', ['netns', 'pids', namespace])).stdout.split('\n').filter((pid) => pid !== '');
  for (const pid of left) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // It ended with another one.
    }
  }
  await execute('ip', ['netns', 'delete', namespace]);
}

/** A run that was killed could not take its namespaces down; their names say whose they were. */
async function removeAbandoned(): Promise<void> {
  const names = (await execute('ip', ['netns', 'list'])).stdout.split('\n').map((line) => line.split(' ')[0] ?? '');
  for (const name of names) {
    const owner = /^nkt(\d+)-\d+-/.exec(name)?.[1];
    if (owner !== undefined && !existsSync(`/proc/${owner}`)) await removeNamespace(name).catch(() => {}); // Another test file may do the same.
  }
}

export async function openLab(): Promise<Lab> {
  await removeAbandoned();
  labs += 1;
  const name = (part: string): string => `nkt${process.pid}-${labs}-${part}`;
  const directory = await mkdtemp(join(tmpdir(), 'nkudo-network-'));
  await chmod(directory, 0o755);
  const frames = join(directory, 'frames');
  await execute('gcc', ['-O1', '-o', frames, join(import.meta.dirname, 'frames.c')]);
  const runtimeDirectory = join(directory, 'run');
  const namespaces = { host: name('host'), world: name('world'), mesh: name('mesh'), lan: name('lan') };
  const made: string[] = [];
  const programs = new Set<ChildProcess>();
  let guests = 0;

  const inside = (namespace: string, program: string, args: readonly string[]): [string, string[]] => ['ip', ['netns', 'exec', namespace, program, ...args]];

  async function run(namespace: string, program: string, ...args: readonly string[]): Promise<string> {
    const [command, words] = inside(namespace, program, args);
    return (await execute(command, words, { env: { PATH: path, LC_ALL: 'C' }, maxBuffer: 2 ** 24 })).stdout;
  }

  async function addNamespace(namespace: string): Promise<void> {
    await execute('ip', ['netns', 'add', namespace]);
    made.push(namespace);
    await run(namespace, 'ip', 'link', 'set', 'lo', 'up');
  }

  async function connect(device: string, peer: { readonly namespace: string; readonly address: string }, own: readonly string[]): Promise<void> {
    await run(namespaces.host, 'ip', 'link', 'add', device, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', peer.namespace);
    await run(peer.namespace, 'ip', 'address', 'add', peer.address, 'dev', 'eth0');
    await run(peer.namespace, 'ip', 'link', 'set', 'eth0', 'up');
    await run(namespaces.host, 'ip', 'link', 'set', device, 'up', ...own);
  }

  async function start(namespace: string, ...args: readonly string[]): Promise<Program> {
    const [command, words] = inside(namespace, frames, args);
    const child = spawn(command, words, { env: { PATH: path }, stdio: ['pipe', 'pipe', 'inherit'] });
    programs.add(child);
    const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
    void ended.then(() => programs.delete(child));
    const lines: string[] = [];
    const waiting = new Set<(line: string) => void>();
    createInterface({ input: child.stdout }).on('line', (line) => {
      lines.push(line);
      for (const tell of waiting) tell(line);
    });
    child.stdin.on('error', () => {});
    const line = (fits: (text: string) => boolean): Promise<string> => {
      const known = lines.find(fits);
      if (known !== undefined) return Promise.resolve(known);
      return new Promise((resolve, reject) => {
        const tell = (text: string): void => {
          if (!fits(text)) return;
          waiting.delete(tell);
          resolve(text);
        };
        waiting.add(tell);
        void ended.then(() => reject(new Error(`${args.join(' ')} ended`)));
      });
    };
    await line((text) => text === 'ready');
    lines.length = 0;
    return {
      lines,
      line,
      write: (text) => void child.stdin.write(text),
      async stop() {
        child.kill('SIGKILL');
        await ended;
      },
    };
  }

  async function build(): Promise<void> {
    await addNamespace(namespaces.host);
    await addNamespace(namespaces.world);
    await addNamespace(namespaces.mesh);
    await addNamespace(namespaces.lan);
    await connect('uplink', { namespace: namespaces.world, address: `${worldAddress}/24` }, []);
    await run(namespaces.host, 'ip', 'address', 'add', `${hostAddress}/24`, 'dev', 'uplink');
    await connect('wt0', { namespace: namespaces.mesh, address: `${meshPeerAddress}/16` }, []);
    await run(namespaces.host, 'ip', 'address', 'add', '100.64.0.1/16', 'dev', 'wt0');
    await run(namespaces.mesh, 'ip', 'route', 'add', meshSubnet, 'via', '100.64.0.1');
    await run(namespaces.host, 'ip', 'link', 'add', 'lan0', 'address', '02:00:00:00:01:00', 'type', 'bridge', 'forward_delay', '0');
    await run(namespaces.host, 'ip', 'link', 'set', 'lan0', 'up');
    await connect('lanport', { namespace: namespaces.lan, address: `${lanPeerAddress}/24` }, ['master', 'lan0']);
    // The world tries every way: it also knows the guests' subnets behind the host.
    await run(namespaces.world, 'ip', 'route', 'add', '10.0.0.0/8', 'via', hostAddress);
  }

  async function close(): Promise<void> {
    for (const child of programs) child.kill('SIGKILL');
    for (const namespace of made) await removeNamespace(namespace);
    await rm(directory, { recursive: true, force: true });
  }

  const real = createHostNetwork(path);
  try {
    await build();
  } catch (error) {
    await close();
    throw error;
  }

  return {
    host: {
      run: (program, args, options) => real.run('ip', ['netns', 'exec', namespaces.host, program, ...args], options),
      deviceNames: async () => (await run(namespaces.host, 'ls', '/sys/class/net')).split('\n'),
      readSwitch: async (file) => (await run(namespaces.host, 'cat', file)).trim(),
      writeSwitch: async (file, value) => void (await run(namespaces.host, 'sh', '-c', 'echo "$1" >"$2"', 'sh', value, file)),
    },
    runtimeDirectory,
    namespaces,
    run,
    start,
    async plugGuest(tap, mac) {
      guests += 1;
      const namespace = name(`guest${guests}`);
      await addNamespace(namespace);
      const card = await start(namespaces.host, 'pump', tap, `/run/netns/${namespace}`, 'eth0');
      await run(namespace, 'sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1');
      await run(namespace, 'ip', 'link', 'set', 'eth0', 'address', mac, 'up');
      return { namespace, unplug: () => card.stop() };
    },
    async ask(namespace, protocol, address, port) {
      try {
        return (await run(namespace, frames, 'ask', protocol, address, String(port))).trim();
      } catch {
        return null; // It says by its status that there was no answer.
      }
    },
    async snapshot() {
      const { host } = namespaces;
      const links = await run(host, 'ip', '-oneline', 'address', 'show');
      const devices = await run(host, 'ip', '-brief', 'link', 'show');
      const rules = await run(host, 'nft', '-s', 'list', 'ruleset');
      const forwarding = await run(host, 'cat', '/proc/sys/net/ipv4/ip_forward');
      const servers = (await run(host, 'ip', 'netns', 'pids', host)).split('\n').length;
      const files = existsSync(runtimeDirectory) ? (await run(host, 'find', runtimeDirectory, '-type', 'f')).split('\n').sort().join('\n') : '';
      // The kernel gives a device its own link-local address a while after it is up.
      // Numbers of devices, hardware addresses of taps and how far the kernel is with a link differ from one making to the next.
      const stable = (text: string): string =>
        text
          .replace(/^\d+: | tentative|@\w+|NO-CARRIER,|,LOWER_UP/gm, '')
          .replace(/^(\S+\s+)(UP|DOWN|UNKNOWN)\b/gm, '$1')
          .replace(/^(nkt\S+\s+)[0-9a-f:]{17}/gm, '$1')
          .replace(/fwd to \d+$/gm, 'fwd')
          .replace(/^.* inet6 fe80::.* scope link .*$/gm, '')
          .split('\n')
          .map((line) => line.replace(/\s+/g, ' ').trim())
          .filter((line) => line !== '')
          .sort()
          .join('\n');
      return [stable(links), stable(devices), rules, forwarding, `${servers}`, files].join('\n---\n');
    },
    close,
  };
}
