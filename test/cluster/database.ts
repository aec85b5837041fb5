/** Questions to the embedded Postgres, through a port that kubectl forwards for one question: pods come and go meanwhile. */
import pg from 'pg';
import { ensureKubernetes } from '#hack/build-kubernetes.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import type { ClusterWorld } from './world.ts';

export async function ask(world: ClusterWorld, namespace: string, sql: string, values: readonly unknown[] = []): Promise<readonly Record<string, unknown>[]> {
  const secret = await world.client.get(`/api/v1/namespaces/${namespace}/secrets/nkudo-database`);
  const password = Buffer.from((secret['data'] as { adminPassword: string }).adminPassword, 'base64').toString('utf8'); // The chart's Secret.
  const { kubectl } = await ensureKubernetes();
  const forward = await fileScope().start({ name: 'port-forward', command: kubectl, args: ['--namespace', namespace, 'port-forward', 'service/nkudo-postgres', ':5432', '--address', '127.0.0.1'], environment: { KUBECONFIG: world.access.kubeconfig } });
  try {
    const line = await forward.waitForLine(/Forwarding from 127\.0\.0\.1:\d+/);
    const client = new pg.Client({ host: '127.0.0.1', port: Number(/127\.0\.0\.1:(\d+)/.exec(line)?.[1]), user: 'postgres', password, database: 'nkudo' });
    await client.connect();
    try {
      const { rows }: { rows: Record<string, unknown>[] } = await client.query(sql, [...values]);
      return rows;
    } finally {
      await client.end();
    }
  } finally {
    await forward.stop();
  }
}
