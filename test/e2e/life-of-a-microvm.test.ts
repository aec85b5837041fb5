import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { repositoryRoot } from '#hack/build-cache.ts';
import type { KubernetesObject } from '#hack/stack/kubernetes-client.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { createWorld, statusOf, type TestHost, type World } from './world.ts';

let world: World;
let host: TestHost;

beforeAll(async () => {
  world = await createWorld();
  await world.startController();
  await world.createSite();
  host = await world.addHost('edge-1');
});

/** The full example as a user would edit it: with the paths of this machine. */
function fullExample(): string {
  const directory = fileScope().makeDirectory('images');
  const data = join(directory, 'data.raw');
  writeFileSync(data, Buffer.alloc(1024 * 1024));
  return readFileSync(join(repositoryRoot, 'examples/microvm-full.yaml'), 'utf8')
    .replaceAll('/var/lib/nkudo/images/guest.elf', world.guest)
    .replaceAll('/var/lib/nkudo/images/data.raw', data);
}

describe('the life of a microVM', () => {
  it('says of its host whether the hypervisor is a real one', async () => {
    const { hypervisor } = statusOf(await world.get('hosts', 'edge-1')) as { hypervisor: { kind: string } };
    expect(hypervisor.kind).toBe(process.env['NKUDO_TEST_HYPERVISOR'] === undefined ? 'simulated' : 'cloud-hypervisor');
  });

  it('[S1] goes from kubectl apply of the full example to Running, reads well, and leaves nothing after kubectl delete', async () => {
    const kubectl = (args: readonly string[], input?: string) =>
      world.kubernetes.kubectl(args, { namespace: world.namespace, ...(input === undefined ? {} : { input }) });
    await kubectl(['apply', '-f', '-'], fullExample());
    await kubectl(['wait', '--for=condition=Running', 'mvm/hello-full', '--timeout=60s']);

    const [vmm, ...others] = host.vmms();
    expect(others).toEqual([]);
    expect(vmm).toBeDefined();
    expect(readFileSync(`/proc/${vmm?.pid}/cmdline`, 'utf8')).toContain('api-socket');

    const table = (await kubectl(['get', 'mvm', 'hello-full'])).stdout.trimEnd().split('\n');
    expect(table).toHaveLength(2);
    expect(table[0]?.split(/\s+/)).toEqual(['NAME', 'STATUS', 'READY', 'SITE', 'HOST', 'IP', 'RESTARTS', 'SEEN', 'AGE']);
    expect(table[1]).toMatch(/^hello-full\s+Running\s+True\s+shop-1\s+edge-1\s+0\s+\d+s$/);

    const uid = String((await world.get('microvms', 'hello-full')).metadata.uid);
    const liveRows = (): Promise<readonly Record<string, unknown>[]> =>
      world.database.query('SELECT epoch FROM nkudo.bindings WHERE microvm_id = $1 AND released_at IS NULL', [uid]);
    expect(await liveRows()).toHaveLength(1);

    const vmDirectory = String(vmm?.directory);
    expect(existsSync(vmDirectory)).toBe(true);
    await kubectl(['delete', 'mvm', 'hello-full', '--timeout=60s']);

    expect(host.vmms()).toEqual([]);
    expect(existsSync(vmDirectory)).toBe(false);
    expect(await liveRows()).toEqual([]);
    expect(await world.kubernetes.client.find(world.path('microvms', 'hello-full'))).toBeNull();
    const [counts] = await world.database.query(
      `SELECT (SELECT count(*) FROM nkudo.operations WHERE microvm_id = $1 AND status IN ('Pending', 'Dispatched', 'Running'))::int AS open,
              (SELECT count(*) FROM nkudo.operations WHERE microvm_id = $1 AND kind = 'Delete' AND status = 'Succeeded')::int AS deleted`,
      [uid],
    );
    expect(counts).toEqual({ open: 0, deleted: 1 });
    // The reaper ends with its VMM; nothing of the run folder of this microVM is left.
    await until(() => readdirSync('/proc').every((pid) => !commandLine(pid).includes(uid)), 'no process to name the microVM');
  });

  it('[S1] shows the guest\'s console in the database, each byte once', async () => {
    await world.applyMicroVM('talker', { boot: { kernel: { path: world.guest, cmdline: 'tick' } } });
    const running = await world.waitForCondition('microvms', 'talker', { type: 'Running', status: 'True' });
    const uid = String(running.metadata.uid);
    const console = async (): Promise<string> => {
      const rows = await world.database.query('SELECT data FROM nkudo.logs WHERE microvm_id = $1 ORDER BY id', [uid]);
      return rows.map((row) => (row['data'] as Buffer).toString('utf8')).join('');
    };
    await until(async () => (await console()).includes('NKUDO-TICK 2'), 'two ticks of the guest in the database');
    const text = await console();
    expect(text.match(/NKUDO-GUEST-READY/g)).toHaveLength(1);
    expect(text.match(/NKUDO-TICK 1\b/g)).toHaveLength(1);
    await world.deleteObject('microvms', 'talker');
    await world.waitUntilGone('microvms', 'talker');
  });

  it('shows what the running guest has, also after it grew, and nothing of one that is down', async () => {
    await world.applyMicroVM('sized', { cpu: { count: 1, max: 4 }, memory: { size: '128Mi', max: '512Mi' } });
    const sizeOf = (object: KubernetesObject): unknown => (statusOf(object) as { size?: unknown }).size;
    const running = await world.waitForCondition('microvms', 'sized', { type: 'Running', status: 'True' });
    expect(sizeOf(running)).toEqual({ cpus: 1, memory: '128Mi' });
    await world.patchMicroVM('sized', { cpu: { count: 3, max: 4 }, memory: { size: '256Mi', max: '512Mi' } });
    await world.waitUntil('microvms', 'sized', 'the guest to have more', (object) => JSON.stringify(sizeOf(object)) === JSON.stringify({ cpus: 3, memory: '256Mi' }));
    const wide = (await world.kubernetes.kubectl(['get', 'mvm', 'sized', '-o', 'wide'], { namespace: world.namespace })).stdout;
    expect(wide).toMatch(/CPUS +MEMORY[^]* 3 +256Mi /);
    const [row] = await world.database.query('SELECT cpu_count, memory_bytes FROM nkudo.observations WHERE microvm_id = $1', [String(running.metadata.uid)]);
    expect([row?.['cpu_count'], Number(row?.['memory_bytes'])]).toEqual([3, 256 * 2 ** 20]);
    await world.patchMicroVM('sized', { runPolicy: 'Halted' });
    await world.waitUntil('microvms', 'sized', 'to have nothing any more', (object) => sizeOf(object) === undefined);
    await world.deleteObject('microvms', 'sized');
    await world.waitUntilGone('microvms', 'sized');
  });

  it('takes at most three writes to the MicroVM and two events from apply to Running', async () => {
    const mark = world.kubernetes.audit.mark();
    await world.applyMicroVM('counted');
    await world.waitForCondition('microvms', 'counted', { type: 'Running', status: 'True' });
    // The test and the controller are the same user; the agent string tells them apart.
    const writes = world.kubernetes.audit.writesSince(mark).filter((event) => event.userAgent === 'nkudo-controller' && event.requestURI.includes('/microvms/counted'));
    expect(writes.length, JSON.stringify(writes.map((event) => `${event.verb} ${event.requestURI}`))).toBeLessThanOrEqual(3);
    expect(writes.length).toBeGreaterThan(0);
    const about = async (): Promise<readonly string[]> => {
      const events = await world.kubernetes.client.list(`/apis/events.k8s.io/v1/namespaces/${world.namespace}/events`);
      return events.filter((event) => (event['regarding'] as { name?: string }).name === 'counted').map((event) => String(event['reason'])).toSorted();
    };
    // The last event follows the status that it is about.
    await until(async () => (await about()).includes('Started'), 'the event of the start');
    expect(await about()).toEqual(['Scheduled', 'Started']);
    await world.deleteObject('microvms', 'counted');
    await world.waitUntilGone('microvms', 'counted');
  });
});

function commandLine(pid: string): string {
  try {
    return /^\d+$/.test(pid) ? readFileSync(`/proc/${pid}/cmdline`, 'utf8') : '';
  } catch {
    // It ended meanwhile.
    return '';
  }
}
