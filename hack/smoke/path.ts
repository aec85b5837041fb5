/**
 * The critical path of an installation, as a tenant and a person at a site walk it: a site, a host that enrolls and beats, a
 * microVM that is applied, runs, logs, stops and goes, and the audit log of it. Everything is made in a namespace of its own
 * and given back. The host is this machine; the control plane is whatever the kubeconfig names.
 */
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { KubernetesClient, KubernetesObject } from '../stack/kubernetes-client.ts';
import { startProcess, tail, type RunningProcess } from '../stack/process.ts';
import type { Step } from './steps.ts';
import { getText, type TenantsApi } from './tenants-api.ts';

export interface SmokeSetup {
  readonly client: KubernetesClient;
  readonly namespace: string;
  /** Of the control plane: its certificate authority lies there. */
  readonly systemNamespace: string;
  /** The agent: a program and its first arguments. */
  readonly agent: readonly [string, ...string[]];
  readonly hypervisor: string;
  /** Kernel that prints lines that begin with `NKUDO-TICK`. */
  readonly kernel: string;
  readonly runDirectory: string;
  readonly logDirectory: string;
  /** `host:port` of the tenants' API, once it is known. */
  readonly apiAddress: () => Promise<string>;
}

/** What later steps need of earlier ones. */
export interface SmokeContext extends SmokeSetup {
  api?: TenantsApi;
  agentProcess?: RunningProcess;
  microvmUid?: string;
}

const site = 'smoke';
const host = 'smoke-host';
const microvm = 'smoke';
const group = '/apis/nkudo.dev/v1alpha1';
const pollMs = 200;

type Condition = { readonly type: string; readonly status: string; readonly reason?: string; readonly message?: string };

function conditionsOf(object: KubernetesObject | null): readonly Condition[] {
  const status = (object?.['status'] ?? {}) as { conditions?: readonly Condition[] }; // The CRD's schema.
  return status.conditions ?? [];
}

/** Why an object is not where it should be, in the product's own words. */
function explain(object: KubernetesObject | null): string {
  if (object === null) return 'there is no such object';
  const all = conditionsOf(object);
  if (all.length === 0) return 'nobody has written a status: is the controller running, and does it lead?';
  return all.map(({ type, status, reason, message }) => `${type}=${status} ${reason ?? ''}${message === undefined || message === '' ? '' : ` (${message})`}`).join('; ');
}

const pathOf = ({ namespace }: SmokeSetup, plural: string, name: string): string => `${group}/namespaces/${namespace}/${plural}/${name}`;

/** Waits for an object on the watch API. @throws Error that says how it is instead */
async function waitFor(context: SmokeSetup, plural: string, name: string, what: string, matches: (object: KubernetesObject) => boolean, signal: AbortSignal): Promise<KubernetesObject> {
  const path = pathOf(context, plural, name);
  const watch = context.client.watch(path);
  try {
    const found = watch.waitFor(({ type, object }) => type !== 'DELETED' && matches(object), { what, timeoutMs: 24 * 3_600_000 });
    found.catch(() => {}); // The race below tells.
    return (await Promise.race([found, aborted(signal)])).object;
  } catch (error) {
    const object = await context.client.find(path).catch(() => null);
    throw new Error(`${plural}/${name} is not ${what}: ${explain(object)}${signal.aborted ? '' : ` (${error instanceof Error ? error.message : String(error)})`}`, { cause: error });
  } finally {
    watch.stop();
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const fail = (): void => reject(signal.reason instanceof Error ? signal.reason : new Error('given up'));
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
}

const isTrue = (type: string) => (object: KubernetesObject): boolean => conditionsOf(object).some((condition) => condition.type === type && condition.status === 'True');

async function waitUntilGone(context: SmokeSetup, plural: string, name: string, signal: AbortSignal): Promise<void> {
  const path = pathOf(context, plural, name);
  for (;;) {
    const object = await context.client.find(path);
    if (object === null) return;
    if (signal.aborted) throw new Error(`${plural}/${name} is not gone: finalizers ${(object.metadata.finalizers ?? []).join(', ')}; ${explain(object)}`);
    await delay(pollMs);
  }
}

function apply(context: SmokeSetup, plural: string, kind: string, name: string, spec: object): Promise<KubernetesObject> {
  return context.client.apply(pathOf(context, plural, name), { apiVersion: 'nkudo.dev/v1alpha1', kind, metadata: { name, namespace: context.namespace }, spec });
}

const stateDirectory = ({ runDirectory }: SmokeSetup): string => join(runDirectory, 'host');
const imageDirectory = ({ runDirectory }: SmokeSetup): string => join(runDirectory, 'images');

function startAgentProgram(context: SmokeSetup, name: string, args: readonly string[]): Promise<RunningProcess> {
  const [command, ...before] = context.agent;
  return startProcess({ name, command, args: [...before, ...args, '--state-dir', stateDirectory(context)], runDirectory: context.runDirectory, logFile: join(context.logDirectory, `${name}.log`) });
}

/** Processes that work below the host's state directory: VMMs and their helpers. */
function processesOf(context: SmokeSetup): readonly string[] {
  return readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      return readlinkSync(`/proc/${name}/cwd`).startsWith(`${stateDirectory(context)}/`);
    } catch {
      return false; // Ended meanwhile, or somebody else's.
    }
  });
}

/** A program of the tenant with the roles of its people, for the tenants' API. */
async function openApi(context: SmokeContext, signal: AbortSignal): Promise<TenantsApi> {
  const { client, namespace } = context;
  const account = `/api/v1/namespaces/${namespace}/serviceaccounts/smoke`;
  await client.apply(account, { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'smoke', namespace } });
  for (const role of ['nkudo-viewer', 'nkudo-admin']) {
    await client.apply(`/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}/rolebindings/${role}`, {
      apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'RoleBinding', metadata: { name: role, namespace },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: role }, subjects: [{ kind: 'ServiceAccount', name: 'smoke', namespace }],
    });
  }
  const answer = await client.request('POST', `${account}/token`, { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: { audiences: ['nkudo'], expirationSeconds: 3600 } });
  const token = (answer.body as { status?: { token?: string } }).status?.token; // A TokenRequest, or a Status.
  if (token === undefined) throw new Error(`the cluster gave no token for a program of the tenant: ${answer.status}`);
  const authority = await client.get(`/api/v1/namespaces/${context.systemNamespace}/secrets/nkudo-ca`);
  const authorityPem = Buffer.from((authority['data'] as Readonly<Record<string, string>>)['root.crt'] ?? '', 'base64').toString('utf8'); // Shape of every Secret.
  return { address: await Promise.race([context.apiAddress(), aborted(signal)]), authorityPem, token };
}

const required = <Value>(value: Value | undefined, what: string): Value => {
  if (value === undefined) throw new Error(`${what} is not known`);
  return value;
};

export const smokeSteps: readonly Step<SmokeContext>[] = [
  {
    name: 'reach',
    shows: 'the cluster answers and serves the definitions of n-kudo',
    run: async ({ client, namespace }, signal) => {
      const served = await Promise.race([client.request('GET', group), aborted(signal)]);
      if (served.status !== 200) throw new Error(`the cluster does not serve ${group} (${served.status}): install the chart first`);
      await client.apply(`/api/v1/namespaces/${namespace}`, { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } });
      return `namespace ${namespace}`;
    },
  },
  {
    name: 'site',
    shows: 'the controller reconciles: a new site is accepted',
    run: async (context, signal) => {
      await apply(context, 'sites', 'Site', site, {});
      await waitFor(context, 'sites', site, 'accepted', isTrue('Accepted'), signal);
      return `site ${site} accepted`;
    },
  },
  {
    name: 'enroll',
    shows: 'a host exchanges a one-time token for its own identity',
    run: async (context, signal) => {
      await apply(context, 'enrollmenttokens', 'EnrollmentToken', 'smoke', { siteRef: { name: site }, ttl: '15m' });
      const ready = await waitFor(context, 'enrollmenttokens', 'smoke', 'ready', isTrue('Ready'), signal);
      const { secretName } = ready['status'] as { secretName: string }; // The CRD's schema.
      const secret = await context.client.get(`/api/v1/namespaces/${context.namespace}/secrets/${secretName}`);
      const tokenFile = join(context.runDirectory, 'token');
      mkdirSync(stateDirectory(context), { mode: 0o700, recursive: true });
      writeFileSync(tokenFile, Buffer.from((secret['data'] as { token: string }).token, 'base64'), { mode: 0o600 });
      const enroll = await startAgentProgram(context, 'enroll', ['enroll', '--token-file', tokenFile, '--name', host]);
      const end = await Promise.race([enroll.exited, aborted(signal)]).catch(async (error: unknown) => {
        await enroll.stop(0);
        throw new Error(`nkudo-edge enroll did not end: ${tail(enroll.lines()).trim()}`, { cause: error });
      });
      rmSync(tokenFile, { force: true });
      if (end.code !== 0) throw new Error(`nkudo-edge enroll ended with ${end.code ?? end.signal}: ${tail(enroll.lines()).trim()}`);
      return `host ${host} enrolled`;
    },
  },
  {
    name: 'heartbeat',
    shows: 'the host keeps a connection and is seen as Ready',
    run: async (context, signal) => {
      mkdirSync(imageDirectory(context), { recursive: true });
      copyFileSync(context.kernel, join(imageDirectory(context), 'kernel'));
      chmodSync(join(imageDirectory(context), 'kernel'), 0o644);
      context.agentProcess = await startAgentProgram(context, 'agent', ['run', '--hypervisor', context.hypervisor, '--allow-path', imageDirectory(context)]);
      const { agentProcess } = context;
      const ended = agentProcess.exited.then(({ code, signal: by }) => {
        throw new Error(`nkudo-edge run ended with ${code ?? by}: ${tail(agentProcess.lines()).trim()}`);
      });
      ended.catch(() => {}); // It ends at the end of the path, too.
      const ready = await Promise.race([waitFor(context, 'hosts', host, 'ready', isTrue('Ready'), signal), ended]);
      const { facts } = ready['status'] as { facts?: { kernel?: string; memory?: string } }; // The CRD's schema.
      return `host ${host} Ready, kernel ${facts?.kernel ?? 'unknown'}`;
    },
  },
  {
    name: 'apply',
    shows: 'a microVM that is applied finds its host',
    run: async (context, signal) => {
      await apply(context, 'microvms', 'MicroVM', microvm, {
        siteRef: { name: site },
        cpu: { count: 1 },
        memory: { size: '64Mi' },
        boot: { kernel: { path: join(imageDirectory(context), 'kernel'), cmdline: 'tick' } },
        terminationGracePeriod: '5s',
      });
      const scheduled = await waitFor(context, 'microvms', microvm, 'scheduled', isTrue('Scheduled'), signal);
      context.microvmUid = scheduled.metadata.uid ?? '';
      return `microVM ${microvm} bound to ${host}`;
    },
  },
  {
    name: 'run',
    shows: 'the host starts it, and says so',
    run: async (context, signal) => {
      await waitFor(context, 'microvms', microvm, 'running', isTrue('Running'), signal);
      const processes = processesOf(context);
      if (processes.length === 0) throw new Error('the status says Running, and there is no VMM process on this machine');
      return `running, VMM pid ${processes.join(', ')}`;
    },
  },
  {
    name: 'logs',
    shows: 'what the guest prints can be read through the tenants’ API',
    run: async (context, signal) => {
      context.api = await openApi(context, signal);
      const path = `/v1/namespaces/${context.namespace}/microvms/by-uid/${required(context.microvmUid, 'the microVM')}/logs?tailBytes=4096`;
      for (let said = ''; ; ) {
        // Roles and lines take a moment each to arrive.
        const text = await getText(context.api, path, signal).catch((error: unknown) => {
          if (!(error instanceof Error) || !/answered 403/.test(error.message)) throw error;
          said = error.message;
          return '';
        });
        const line = /NKUDO-TICK.*/.exec(text)?.[0];
        if (line !== undefined) return `the guest says ${line.trim()}`;
        if (signal.aborted) throw new Error(said === '' ? 'no line of the guest arrived' : said);
        await delay(pollMs);
      }
    },
  },
  {
    name: 'stop',
    shows: 'it stops when it is told to, and its disk space stays',
    run: async (context, signal) => {
      const answer = await context.client.request('PATCH', pathOf(context, 'microvms', microvm), { spec: { runPolicy: 'Halted' } }, 'application/merge-patch+json');
      if (answer.status !== 200) throw new Error(`the change of runPolicy was refused: ${answer.status}`);
      const isStopped = (object: KubernetesObject): boolean => conditionsOf(object).some(({ type, status }) => type === 'Running' && status === 'False');
      await waitFor(context, 'microvms', microvm, 'stopped', isStopped, signal);
      while (processesOf(context).length > 0) {
        if (signal.aborted) throw new Error(`the status says stopped, and VMM processes live: ${processesOf(context).join(', ')}`);
        await delay(pollMs);
      }
      return 'stopped, no VMM process is left';
    },
  },
  {
    name: 'delete',
    shows: 'a deletion ends after the host has removed everything',
    run: async (context, signal) => {
      await context.client.request('DELETE', pathOf(context, 'microvms', microvm));
      await waitUntilGone(context, 'microvms', microvm, signal);
      const left = join(stateDirectory(context), 'vms', required(context.microvmUid, 'the microVM'));
      if (existsSync(left)) throw new Error(`the object is gone, and the host still has ${left}`);
      return 'object, processes and files are gone';
    },
  },
  {
    name: 'audit',
    shows: 'the audit log tells who did all that',
    run: async (context, signal) => {
      const api = required(context.api, 'the tenants’ API');
      const text = await getText(api, `/v1/namespaces/${context.namespace}/audit-events?pageSize=200`, signal);
      const { events = [] } = JSON.parse(text) as { events?: readonly { action: string; subjectId?: string }[] }; // fleet.proto.
      const own = events.filter(({ subjectId }) => subjectId === context.microvmUid);
      if (own.length < 2) throw new Error(`the audit log holds ${own.length} rows on the microVM of ${events.length} in all; its creation and its end are expected at least`);
      return `${own.length} rows on the microVM, ${events.length} in all`;
    },
  },
  {
    name: 'give back',
    shows: 'a host and a site can be taken out again, and nothing stays behind',
    isCleanup: true,
    run: async (context, signal) => {
      const { client, namespace } = context;
      const remove = async (plural: string, name: string): Promise<void> => {
        const path = pathOf(context, plural, name);
        if ((await client.find(path)) === null) return;
        // The policy on deletions reads figures that follow a moment later.
        while ((await client.request('DELETE', path)).status === 403 && !signal.aborted) await delay(pollMs);
        await waitUntilGone(context, plural, name, signal);
      };
      try {
        await Promise.race([
          (async () => {
            await remove('microvms', microvm);
            await remove('hosts', host);
            await remove('enrollmenttokens', 'smoke');
            await remove('sites', site);
          })(),
          aborted(signal),
        ]);
      } finally {
        await context.agentProcess?.stop();
        await Promise.race([client.request('DELETE', `/api/v1/namespaces/${namespace}`), aborted(signal)]).catch(() => {}); // It may be the cluster that is broken.
      }
      return `host, site and namespace ${namespace} removed`;
    },
  },
];
