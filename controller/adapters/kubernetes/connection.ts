/**
 * Finds the API server as client-node does: `KUBECONFIG`, then the pod's service account. Only its
 * configuration module is loaded: the generated API classes cost 26 MB and a second, and nothing here uses them.
 */
import type { RequestOptions } from 'node:https';
import { KubeConfig } from '@kubernetes/client-node/dist/config.js';
import type { Connection } from './kubernetes-client.ts';

/** `kubeconfigFile`: null reads what client-node reads by default. */
export function loadConnection(kubeconfigFile: string | null): Connection {
  const config = new KubeConfig();
  if (kubeconfigFile === null) config.loadFromDefault();
  else config.loadFromFile(kubeconfigFile);
  const cluster = config.getCurrentCluster();
  if (cluster === null) throw new Error('the kubeconfig names no cluster');
  return {
    server: cluster.server,
    credentials: async () => {
      const options: RequestOptions = {};
      await config.applyToHTTPSOptions(options);
      return options;
    },
  };
}
