/** `nkudo-controller doctor` and the errors of `migrate`, as the program prints them. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadConnection } from '#controller/adapters/kubernetes/connection.ts';
import { createKubernetesClient } from '#controller/adapters/kubernetes/kubernetes-client.ts';
import { createSecrets } from '#controller/adapters/kubernetes/secrets.ts';
import type { Finding } from '#controller/doctor/findings.ts';
import { loadOrCreateAuthority } from '#controller/pki/authority-store.ts';
import { createTime } from '#controller/runtime/time.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';
import { useDatabase, type TestDatabase } from '#test/harness/postgres.ts';

let kubernetes: TestKubernetes;
let database: TestDatabase;
let namespace: string;
let runs = 0;

async function run(args: readonly string[], environment: Readonly<Record<string, string>>): Promise<{ readonly code: number | null; readonly output: string }> {
  const programs = await fileScope().shared('programs');
  const process = await fileScope().start({ name: `controller-${(runs += 1)}`, command: programs.node, args: [programs.controller, ...args], environment });
  const { code } = await process.exited;
  return { code, output: process.lines().join('\n') };
}

const settings = (): Record<string, string> => ({
  KUBECONFIG: kubernetes.access.kubeconfig, NKUDO_DATABASE_URL: database.appUrl, NKUDO_DATABASE_SYSTEM_URL: database.systemUrl, NKUDO_NAMESPACE: namespace,
});

async function examine(environment: Readonly<Record<string, string>>): Promise<{ readonly code: number | null; readonly findings: ReadonlyMap<string, Finding> }> {
  const { code, output } = await run(['doctor', '--output', 'json'], environment);
  const { findings } = JSON.parse(output) as { findings: Finding[] }; // What the command promises.
  return { code, findings: new Map(findings.map((finding) => [finding.check, finding])) };
}

beforeAll(async () => {
  [kubernetes, database] = await Promise.all([useKubernetes(), useDatabase()]);
  namespace = await kubernetes.createNamespace('doctor');
  const time = createTime({ nowMs: () => Date.now(), monotonicMs: () => performance.now(), random: () => Math.random() });
  const client = createKubernetesClient({ connection: loadConnection(kubernetes.access.kubeconfig), fieldManager: 'test', userAgent: 'nkudo-test', time });
  fileScope().defer(() => client.close());
  await loadOrCreateAuthority(createSecrets(client, namespace), 'nkudo-ca', Date.now());
});

describe('doctor', () => {
  it('finds nothing wrong with a sound installation but what a failover may lose, and says so', async () => {
    const { code, findings } = await examine(settings());
    // A clock is read through an answer, which a busy machine delays.
    const verdicts = [...findings.values()].filter(({ check, verdict }) => verdict !== 'ok' && !check.startsWith('clock of'));
    expect(verdicts).toEqual([expect.objectContaining({ check: 'synchronous replication', verdict: 'warning', remedy: expect.stringContaining('loses the last commits') })]);
    expect(code).toBe(0);
    expect([...findings.keys()]).toEqual(expect.arrayContaining([
      'role nkudo_app', 'role nkudo_system', 'Postgres version', 'Postgres primary', 'durability', 'schema', 'log partitions', 'incarnation', 'clock of Postgres', 'Kubernetes version', 'clock of the API server',
      'CRD microvms.nkudo.dev', 'CRD microvmsets.nkudo.dev', 'CRD microvmclasses.nkudo.dev', 'rights in Kubernetes', 'root certificate of the hosts’ authority', 'intermediate certificate of the hosts’ authority',
    ]));
  });

  it('names what is wrong, what to do, and ends with 4: roles, rights, schema, authority', async () => {
    const empty = await useDatabase({ migrated: false });
    const poor = kubernetes.kubeconfigFor({ user: 'nobody-in-particular' });
    const { code, findings } = await examine({ ...settings(), KUBECONFIG: poor, NKUDO_DATABASE_URL: empty.adminUrl, NKUDO_DATABASE_SYSTEM_URL: empty.systemUrl.replace('system-password', 'wrong') });
    expect(code).toBe(4);
    expect(findings.get('role postgres')).toMatchObject({ verdict: 'failure', detail: expect.stringContaining('superuser') });
    expect(findings.get('role nkudo_system')).toMatchObject({ verdict: 'failure', detail: expect.stringContaining('refuses user nkudo_system') });
    expect(findings.get('schema')).toMatchObject({ verdict: 'failure', remedy: 'run nkudo-controller migrate' });
    expect(findings.get('rights in Kubernetes')).toMatchObject({ verdict: 'failure', detail: expect.stringContaining('patch microvms/status') });
    expect(JSON.stringify([...findings.values()])).not.toContain('wrong');
  });

  it('prints a table for people', async () => {
    const { output } = await run(['doctor'], { ...settings(), KUBECONFIG: join(fileScope().directory, 'nowhere') });
    expect(output).toContain('Kubernetes API');
    expect(output).toMatch(/\d+ checks: 1 failed, \d warnings/);
  });
});

describe('migrate', () => {
  it('says in a sentence why it can not connect, without a stack or a password', async () => {
    const free = 'postgresql://postgres:secret@127.0.0.1:1/nkudo';
    const { code, output } = await run(['migrate'], { NKUDO_DATABASE_ADMIN_URL: free, NKUDO_DATABASE_APP_PASSWORD: 'a', NKUDO_DATABASE_SYSTEM_PASSWORD: 'b' });
    expect(code).toBe(1);
    expect(output).toBe('nkudo-controller: nothing listens at 127.0.0.1:1: start Postgres there, or correct NKUDO_DATABASE_ADMIN_URL');
    const missing = await run(['migrate'], { NKUDO_DATABASE_ADMIN_URL: database.adminUrl.replace(/\/test_\w+$/, '/elsewhere'), NKUDO_DATABASE_APP_PASSWORD: 'a', NKUDO_DATABASE_SYSTEM_PASSWORD: 'b' });
    expect(missing.output).toContain('there is no database elsewhere at 127.0.0.1');
  });
});
