/**
 * Answers DHCP on the bridges that this adapter makes, with the host's dnsmasq: one process for each
 * bridge, only for guests that are known, with the address of their specification. It gives no DNS
 * service of its own and outlives the agent, as the guests do.
 *
 * Files and process are compared with what is wanted at each change, so a crash in between is mended by
 * the next one. The files hold no secret and are readable, since dnsmasq reads them as another user.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import type { HostNetwork } from './host-network.ts';
import { networkOf, toAddress } from './guest-port.ts';
import type { LinkAddress } from './links.ts';

export interface DhcpHost {
  readonly mac: string;
  readonly address: string;
}

export interface DhcpServerOptions {
  readonly host: HostNetwork;
  /** Must not need more than search permission of others; made when absent. */
  readonly directory: string;
  /** DNS servers that guests are told of; may be empty. */
  readonly nameServers: readonly string[];
}

export interface DhcpServer {
  /** Idempotent. @throws NETWORK_UNAVAILABLE when the host has no dnsmasq */
  serve(bridge: string, subnets: readonly LinkAddress[], hosts: readonly DhcpHost[], signal: AbortSignal): Promise<void>;
  /** Idempotent. */
  stop(bridge: string, signal: AbortSignal): Promise<void>;
}

/** An address is the guest's for good; the time only bounds how long a guest keeps a changed gateway. */
const leaseTime = '1h';
/** dnsmasq ends within milliseconds of a SIGTERM. */
const endDeadlineMs = 3_000;
const pollMs = 10;

export function createDhcpServer({ host, directory, nameServers }: DhcpServerOptions): DhcpServer {
  const file = (bridge: string, kind: 'conf' | 'hosts' | 'pid'): string => join(directory, `dhcp-${bridge}.${kind}`);

  async function serve(bridge: string, subnets: readonly LinkAddress[], hosts: readonly DhcpHost[], signal: AbortSignal): Promise<void> {
    await mkdir(directory, { recursive: true, mode: 0o755 });
    const configuration = renderConfiguration({ bridge, subnets, nameServers, hostsFile: file(bridge, 'hosts'), pidFile: file(bridge, 'pid') });
    const wanted = hosts.map(({ mac, address }) => `${mac},${address}`).sort();
    const known = (await readOrEmpty(file(bridge, 'hosts'))).split('\n').filter((line) => line !== '');
    const pid = await findProcess(bridge);
    const isConfigured = (await readOrEmpty(file(bridge, 'conf'))) === configuration;
    const isListed = known.join() === wanted.join();
    if (pid !== null && isConfigured && isListed) return;
    // What dnsmasq remembers of a host that is gone would keep its address from the next one: then it starts anew.
    const canReload = pid !== null && isConfigured && known.every((line) => wanted.includes(line));
    if (pid !== null && !canReload) await end(bridge, pid, signal);
    await writeWhole(file(bridge, 'conf'), configuration);
    await writeWhole(file(bridge, 'hosts'), `${wanted.join('\n')}\n`);
    if (canReload) process.kill(pid, 'SIGHUP');
    else await host.run('dnsmasq', [`--conf-file=${file(bridge, 'conf')}`], { signal });
  }

  async function stop(bridge: string, signal: AbortSignal): Promise<void> {
    const pid = await findProcess(bridge);
    if (pid !== null) await end(bridge, pid, signal);
    for (const kind of ['conf', 'hosts', 'pid'] as const) await rm(file(bridge, kind), { force: true });
  }

  /** The pid file is believed only when that process was started with our configuration. */
  async function findProcess(bridge: string): Promise<number | null> {
    const pid = Number((await readOrEmpty(file(bridge, 'pid'))).trim());
    if (!Number.isInteger(pid) || pid <= 1) return null;
    return (await readOrEmpty(`/proc/${pid}/cmdline`)).split('\0').includes(`--conf-file=${file(bridge, 'conf')}`) ? pid : null;
  }

  async function end(bridge: string, pid: number, signal: AbortSignal): Promise<void> {
    const deadline = AbortSignal.timeout(endDeadlineMs);
    process.kill(pid, 'SIGTERM');
    while ((await findProcess(bridge)) === pid) {
      if (deadline.aborted) throw new AppError('NETWORK_FAILED', `dnsmasq of ${bridge}, process ${pid}, does not end`);
      await delay(pollMs, undefined, { signal });
    }
  }

  return { serve, stop };
}

interface Configuration {
  readonly bridge: string;
  readonly subnets: readonly LinkAddress[];
  readonly nameServers: readonly string[];
  readonly hostsFile: string;
  readonly pidFile: string;
}

function renderConfiguration({ bridge, subnets, nameServers, hostsFile, pidFile }: Configuration): string {
  const lines = [
    'port=0',
    'no-hosts',
    'no-resolv',
    'bind-interfaces',
    `interface=${bridge}`,
    'except-interface=lo',
    'user=nobody',
    `pid-file=${pidFile}`,
    'leasefile-ro',
    'quiet-dhcp',
    'no-ping',
    'dhcp-authoritative',
    'dhcp-lease-max=4096',
    'dhcp-ignore=tag:!known',
    `dhcp-hostsfile=${hostsFile}`,
    ...subnets.flatMap(({ address, prefixLength }, index) => {
      const mask = toAddress((0xffffffff << (32 - prefixLength)) >>> 0);
      return [`dhcp-range=set:subnet${index},${toAddress(networkOf(address, prefixLength))},static,${mask},${leaseTime}`, `dhcp-option=tag:subnet${index},option:router,${address}`];
    }),
    ...(nameServers.length === 0 ? [] : [`dhcp-option=option:dns-server,${nameServers.join(',')}`]),
  ];
  return `${lines.join('\n')}\n`;
}

async function readOrEmpty(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    return ''; // Absent, or a process that has just ended: nothing to compare with.
  }
}

async function writeWhole(path: string, text: string): Promise<void> {
  await writeFile(`${path}.tmp`, text, { mode: 0o644 });
  await rename(`${path}.tmp`, path);
}

/** Whether dnsmasq is missing, which guests with static addresses can do without. */
export function isMissingServer(error: unknown): boolean {
  return isAppError(error) && error.code === 'NETWORK_UNAVAILABLE' && error.details['program'] === 'dnsmasq';
}
