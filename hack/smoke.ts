/**
 * Sign-off of an installation: walks the whole critical path against the cluster of a kubeconfig, with this machine as the
 * host, and writes a report. Exit code 0: everything works. 1: a step failed. 2: it was called wrongly.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheRoot, errorCode } from './build-cache.ts';
import { buildGuest } from './build-guest.ts';
import { ensureKubernetes } from './build-kubernetes.ts';
import { buildPrograms } from './build-programs.ts';
import { chooseHypervisor, findOnPath } from './demo/hypervisor.ts';
import { isPassed, renderJson, renderMarkdown } from './smoke/report.ts';
import { runSmoke } from './smoke/run-smoke.ts';
import { createKubernetesClient, type KubernetesClient } from './stack/kubernetes-client.ts';
import { startProcess } from './stack/process.ts';
import { createRunDirectory } from './stack/run-directory.ts';

const usage = `npm run smoke -- [options]

  --kubeconfig FILE        cluster to look at (default: $KUBECONFIG or ~/.kube/config)
  --system-namespace NAME  where the control plane is installed (default: nkudo-system)
  --api HOST:PORT          the tenants' API over HTTPS (default: its Service, by kubectl port-forward)
  --agent PATH             nkudo-edge to use (default: built from this tree)
  --simulator              use the simulated hypervisor also where the real one would work
  --step-timeout SECONDS   longest time of one step, 1 to 120 (default: 25, so that a run ends within five minutes)
  --report FILE            where the report goes, with .json beside it (default: smoke-report.md)
`;

interface Options {
  readonly kubeconfig: string;
  readonly systemNamespace: string;
  readonly api: string | null;
  readonly agent: string | null;
  readonly isSimulatorForced: boolean;
  readonly stepTimeoutMs: number;
  readonly report: string;
}

/** Null: help is wanted. @throws Error with a sentence */
function parseOptions(args: readonly string[]): Options | null {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    args: [...args],
    options: { kubeconfig: text, 'system-namespace': text, api: text, agent: text, simulator: { type: 'boolean' }, 'step-timeout': text, report: text, help: { type: 'boolean' } },
  });
  if (values.help === true) return null;
  const seconds = Number(values['step-timeout'] ?? '25');
  if (!Number.isInteger(seconds) || seconds < 1 || seconds > 120) throw new Error('--step-timeout must be a whole number of seconds from 1 to 120');
  const kubeconfig = values.kubeconfig ?? process.env['KUBECONFIG'] ?? join(homedir(), '.kube', 'config');
  if (!existsSync(kubeconfig)) throw new Error(`there is no kubeconfig at ${kubeconfig}: write --kubeconfig FILE`);
  if (values.agent !== undefined && !existsSync(values.agent)) throw new Error(`there is no agent at ${values.agent}`);
  return {
    kubeconfig,
    systemNamespace: values['system-namespace'] ?? 'nkudo-system',
    api: values.api ?? null,
    agent: values.agent === undefined ? null : resolve(values.agent),
    isSimulatorForced: values.simulator === true,
    stepTimeoutMs: seconds * 1000,
    report: resolve(values.report ?? 'smoke-report.md'),
  };
}

const print = (line: string): void => void process.stdout.write(`${line}\n`);

/** Name of the tenants' API's Service. @throws Error when there is none */
async function findApiService(client: KubernetesClient, namespace: string): Promise<string> {
  const [service] = await client.list(`/api/v1/namespaces/${namespace}/services?labelSelector=${encodeURIComponent('app.kubernetes.io/name=nkudo,app.kubernetes.io/component=api')}`);
  if (service === undefined) throw new Error(`namespace ${namespace} has no Service of the tenants' API: write --system-namespace, or --api HOST:PORT`);
  return service.metadata.name;
}

async function signOff(options: Options): Promise<boolean> {
  const report = (line: string): void => print(`  ${line}`);
  const logDirectory = join(cacheRoot(), 'smoke-logs', `${new Date().toISOString().replaceAll(':', '-')}-${process.pid}`);
  mkdirSync(logDirectory, { recursive: true });
  const run = createRunDirectory('nkudo-p-');
  try {
    const kubectl = findOnPath('kubectl') ?? (await ensureKubernetes(report)).kubectl;
    const hypervisor = await chooseHypervisor({ isSimulatorForced: options.isSimulatorForced, report });
    const [guests, programs] = await Promise.all([buildGuest(), options.agent === null ? buildPrograms() : null]);
    const agent: readonly [string, ...string[]] = programs === null ? [options.agent ?? ''] : [programs.node, programs.edge];
    // Through a proxy, so that every kind of credential works.
    const proxySocket = join(run.path, 'proxy.sock');
    const environment = { KUBECONFIG: options.kubeconfig };
    const start = (name: string, args: readonly string[]): ReturnType<typeof startProcess> =>
      startProcess({ name, command: kubectl, args, environment, inheritEnvironment: true, runDirectory: run.path, logFile: join(logDirectory, `${name}.log`) });
    await (await start('kubectl-proxy', ['proxy', `--unix-socket=${proxySocket}`])).waitForLine(/Starting to serve/);
    const client = createKubernetesClient({ proxySocket });
    const apiAddress = async (): Promise<string> => {
      if (options.api !== null) return options.api;
      const service = await findApiService(client, options.systemNamespace);
      const forward = await start('port-forward', ['--namespace', options.systemNamespace, 'port-forward', `service/${service}`, ':https', '--address', '127.0.0.1']);
      const line = await forward.waitForLine(/Forwarding from 127\.0\.0\.1:\d+/);
      return `127.0.0.1:${/127\.0\.0\.1:(\d+)/.exec(line)?.[1] ?? ''}`;
    };
    print(`n-kudo: sign-off of the installation of ${options.kubeconfig}; the host is this machine, ${hypervisor.description}\n`);
    const result = await runSmoke({
      setup: { client, systemNamespace: options.systemNamespace, agent, hypervisor: hypervisor.path, kernel: guests.guest64, apiAddress },
      stepTimeoutMs: options.stepTimeoutMs,
      logDirectory,
      installation: options.kubeconfig,
      hypervisor: hypervisor.description,
      onResult: ({ name, outcome, durationMs, detail }) => print(`  ${outcome === 'passed' ? 'ok    ' : outcome === 'failed' ? 'FAILED' : '-     '} ${name.padEnd(10)} ${`${(durationMs / 1000).toFixed(1)} s`.padStart(7)}  ${detail.split('\n')[0] ?? ''}`),
    });
    client.close();
    writeFileSync(options.report, renderMarkdown(result));
    writeFileSync(options.report.replace(/(\.md)?$/, '.json'), renderJson(result));
    print(`\nreport: ${options.report}`);
    return isPassed(result);
  } finally {
    await run.close();
  }
}

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === null) process.stdout.write(usage);
  else process.exitCode = (await signOff(options)) ? 0 : 1;
} catch (error) {
  process.stderr.write(`smoke: ${error instanceof Error ? error.message : String(error)}\n`);
  if ((errorCode(error) ?? '').startsWith('ERR_PARSE_ARGS_')) process.stderr.write(`\n${usage}`);
  process.exitCode = 2;
}
