/**
 * Shows that the harness itself keeps its promises: what every other integration test relies on.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, expect, it } from 'vitest';
import { repositoryRoot } from '#hack/build-cache.ts';
import { queryAsAdmin } from '#hack/stack/postgres.ts';
import { findProcessesOf } from '#hack/stack/run-directory.ts';
import { fileScope } from './file-scope.ts';
import { useFaultServer } from './fault-server.ts';
import { useKubernetes } from './kubernetes.ts';
import { useDatabase, useDedicatedPostgres } from './postgres.ts';
import { until } from './until.ts';

describe('the harness', () => {
  it('serves the project’s kinds from a real API server and counts writes in its audit log', async () => {
    const kubernetes = await useKubernetes();
    const namespace = await kubernetes.createNamespace();
    const mark = kubernetes.audit.mark();

    const resources = await kubernetes.kubectl(['api-resources', '--api-group=nkudo.dev', '-o', 'name']);
    await kubernetes.kubectl(['create', 'configmap', 'one'], { namespace });

    expect(resources.stdout.trim().split('\n').sort()).toEqual([
      'agentrollouts.nkudo.dev',
      'apikeys.nkudo.dev',
      'enrollmenttokens.nkudo.dev',
      'hosts.nkudo.dev',
      'microvmclasses.nkudo.dev',
      'microvms.nkudo.dev',
      'microvmsets.nkudo.dev',
      'sites.nkudo.dev',
    ]);
    const writes = kubernetes.audit.since(mark).filter((event) => event.objectRef?.namespace === namespace && event.verb === 'create');
    expect(writes.map((event) => [event.objectRef?.resource, event.responseStatus?.code])).toEqual([['configmaps', 201]]);
    expect(kubernetes.audit.writesSince(mark)).toEqual([]);
  });

  it('waits on the watch API for a change of one object', async () => {
    const kubernetes = await useKubernetes();
    const namespace = await kubernetes.createNamespace();
    const path = `/api/v1/namespaces/${namespace}/configmaps/two`;
    const watch = kubernetes.client.watch(path);

    const object = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'two' }, data: { key: 'value' } };
    const [event] = await Promise.all([watch.waitFor((seen) => seen.type === 'ADDED'), kubernetes.client.apply(path, object)]);

    expect(event.object['data']).toEqual({ key: 'value' });
  });

  it('refuses what RBAC does not allow to an impersonated user', async () => {
    const kubernetes = await useKubernetes();
    const namespace = await kubernetes.createNamespace();

    const result = await kubernetes.kubectl(['get', 'secrets'], { namespace, actAs: { user: 'nobody' }, mayFail: true });

    expect(result.code).toBe(1);
    expect(result.stderr).toContain('Forbidden');
  });

  it('counts one write transaction for one insert and none for reading', async () => {
    const postgres = await useDedicatedPostgres();
    const database = await useDatabase({ postgres, migrated: false });
    await database.query('CREATE TABLE things (id int)');

    const before = await database.counters();
    const atRest = await database.counters();
    await database.query('INSERT INTO things VALUES (1)');
    const after = await database.counters();

    expect(atRest.writeTransactions).toBe(before.writeTransactions);
    expect(atRest.walBytes).toBe(before.walBytes);
    expect(after.writeTransactions - atRest.writeTransactions).toBe(1);
    expect(after.walBytes).toBeGreaterThan(atRest.walBytes);
  });

  it('keeps committed rows when Postgres is killed and started again', async () => {
    const postgres = await useDedicatedPostgres();
    await queryAsAdmin(postgres, 'postgres', 'CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)');

    await postgres.crash();
    await expect(queryAsAdmin(postgres, 'postgres', 'SELECT 1')).rejects.toThrow();
    await postgres.start();

    expect(await queryAsAdmin(postgres, 'postgres', 'SELECT id FROM kept')).toEqual([{ id: 7 }]);
  });

  it('kills a program at the named point and lets others pass', async () => {
    const faults = await useFaultServer();
    const killed = faults.killAt({ process: 'edge', point: 'step.two:before' });

    const program = await fileScope().start({
      name: 'fault-client',
      command: process.execPath,
      args: ['--import', 'tsx', join(repositoryRoot, 'test/harness/testdata/fault-client.ts')],
      workingDirectory: repositoryRoot,
      environment: { NKUDO_FAULT_SOCKET: faults.socketPath },
    });

    expect((await killed).pid).toBe(program.pid);
    expect((await program.exited).signal).toBe('SIGKILL');
    expect(faults.hits().map((hit) => hit.point)).toEqual(['step.one:before', 'step.one:after', 'step.two:before']);
    expect(program.lines()).toEqual(['one']);
  });

  it('leaves no process and no folder when the owner of a run is killed', async () => {
    const owner = spawn(process.execPath, ['--import', 'tsx', 'test/harness/testdata/run-owner.ts'], {
      cwd: repositoryRoot,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const runDirectory = await new Promise<string>((resolve) => createInterface({ input: owner.stdout }).once('line', resolve));
    expect(findProcessesOf(runDirectory).length).toBeGreaterThanOrEqual(2);

    owner.kill('SIGKILL');

    await until(() => findProcessesOf(runDirectory).length === 0 && !existsSync(runDirectory), 'the run to be cleaned up');
  });
});
