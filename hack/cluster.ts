/** `npm run cluster -- up|down`: a real cluster on this machine, with the images that the chart asks for. */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheRoot, errorCode } from './build-cache.ts';
import { ensureGoTool } from './build-go-tools.ts';
import { ensureKubernetes, ensureKubernetesNode } from './build-kubernetes.ts';
import { findCluster, importImages, startCluster, stopCluster } from './cluster/cluster.ts';
import { buildControllerArchive, buildPostgresImage } from './cluster/images.ts';

const usage = `npm run cluster -- up [--directory DIR]     start a cluster and give it the images of the chart
npm run cluster -- down [--directory DIR]   end it; nothing is left
npm run cluster -- images [--directory DIR] build the controller's image anew and give it to the cluster
npm run cluster -- tools                    build what a cluster is made of, which up does too

By kind where Docker and kind are, else one node below Debian's containerd: then as root, with
  apt-get install --no-install-recommends containerd runc containernetworking-plugins iptables conntrack iproute2
DIR is ${join(cacheRoot(), 'cluster').replace(homedir(), '~')} by default.
`;

const print = (line: string): void => void process.stdout.write(`${line}\n`);
const seconds = (sinceMs: number): string => `${((performance.now() - sinceMs) / 1000).toFixed(0)} s`;

async function up(directory: string): Promise<void> {
  if (findCluster(directory) !== null) throw new Error(`there is a cluster in ${directory} already: npm run cluster -- down`);
  const startedAt = performance.now();
  const access = await startCluster(directory, print);
  print(`cluster: node Ready after ${seconds(startedAt)}`);
  await giveImages(directory);
  const [{ kubectl }, helm] = [await ensureKubernetes(print), await ensureGoTool('helm')];
  print(`
export KUBECONFIG=${access.kubeconfig}
export PATH=${join(kubectl, '..')}:${join(helm, '..')}:$PATH
helm install nkudo charts/nkudo --namespace nkudo-system --create-namespace --wait
`);
}

async function giveImages(directory: string): Promise<void> {
  const access = findCluster(directory);
  if (access === null) throw new Error(`there is no cluster in ${directory}: npm run cluster -- up`);
  const startedAt = performance.now();
  const images = [await buildControllerArchive(), await buildPostgresImage(print)];
  importImages(access, images);
  print(`cluster: ${images.map(({ name }) => name).join(' and ')} imported after ${seconds(startedAt)}`);
}

async function buildTools(): Promise<void> {
  await ensureKubernetes();
  await ensureKubernetesNode();
  for (const tool of ['coredns', 'helm'] as const) await ensureGoTool(tool);
}

async function down(directory: string): Promise<void> {
  const access = findCluster(directory);
  if (access === null) throw new Error(`there is no cluster in ${directory}`);
  await stopCluster(access);
  print('cluster: ended');
}

try {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { directory: { type: 'string' }, help: { type: 'boolean' } } });
  const directory = resolve(values.directory ?? join(cacheRoot(), 'cluster'));
  const [command] = positionals;
  if (command === 'up') await up(directory);
  else if (command === 'down') await down(directory);
  else if (command === 'tools') await buildTools();
  else if (command === 'images') await giveImages(directory);
  else {
    process.stdout.write(usage);
    process.exitCode = values.help === true ? 0 : 2;
  }
} catch (error) {
  process.stderr.write(`cluster: ${error instanceof Error ? error.message : String(error)}\n`);
  if ((errorCode(error) ?? '').startsWith('ERR_PARSE_ARGS_')) process.stderr.write(`\n${usage}`);
  process.exitCode = 1;
}
