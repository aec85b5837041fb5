/**
 * The faults that tests inject into the simulator do what its README says. The real program has none,
 * so this part runs on the simulator only.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { buildSimulator } from '#hack/build-simulator.ts';
import { openConnection, requestBytes } from './raw-http.ts';
import { describeOnTargets } from './targets.ts';
import { startVmm, stopVmmsAfterEach, type VmmUnderTest } from './vmm-under-test.ts';

stopVmmsAfterEach();

async function inject(vmm: VmmUnderTest, faults: readonly object[]): Promise<void> {
  await writeFile(vmm.file('mock-ch-faults.json'), JSON.stringify(faults));
}

describeOnTargets('injected faults', (target) => {
  if (target.name === 'real') {
    test.skip('the real program has no faults to inject', () => undefined);
    return;
  }

  test('fails the n-th call with a status and a chain, and only that one', async () => {
    const vmm = await startVmm(target);
    await inject(vmm, [{ at: 'vm.create', nth: 2, do: 'fail', status: 503, body: ['full'] }]);
    expect((await vmm.put('vm.create', vmm.config())).status).toBe(204);
    await vmm.put('vm.delete');
    const second = await vmm.put('vm.create', vmm.config());
    expect([second.status, second.body]).toEqual([503, '["full"]']);
    expect((await vmm.put('vm.create', vmm.config())).status).toBe(204);
  });

  test('dies before a call without its effect, and after a call with it', async () => {
    const before = await startVmm(target);
    await inject(before, [{ at: 'vm.boot', do: 'die' }]);
    await before.put('vm.create', before.config());
    await expect(before.put('vm.boot')).rejects.toThrow('connection ended');
    expect(await before.ended).toEqual({ code: null, signal: 'SIGKILL' });
    expect(await before.events()).toEqual(['vmm:starting']);

    const after = await startVmm(target);
    await inject(after, [{ at: 'vm.boot', when: 'after', do: 'die' }]);
    await after.put('vm.create', after.config());
    await expect(after.put('vm.boot')).rejects.toThrow('connection ended');
    expect((await after.events()).at(-1)).toBe('vm:booted');
  });

  test('hangs on a call and on all that follow', async () => {
    const vmm = await startVmm(target);
    await inject(vmm, [{ at: 'vm.info', once: true, do: 'hang' }]);
    const hung = await openConnection(vmm.socket);
    hung.send(requestBytes('GET', '/api/v1/vm.info'));
    // Connections are served side by side: the next call is sent when the first one is known to hang.
    await vi.waitUntil(() => existsSync(vmm.file('.mock-ch-fault-0')), { timeout: 30_000 });
    const next = await openConnection(vmm.socket);
    next.send(requestBytes('GET', '/api/v1/vmm.ping'));
    let hasAnswered = false;
    void Promise.race([hung.read(), next.read()]).then(
      () => (hasAnswered = true),
      () => undefined,
    );
    // The HTTP layer still answers what needs no VMM, which shows that the process got that far.
    const third = await openConnection(vmm.socket);
    third.send(requestBytes('GET', '/api/v1/nope'));
    expect((await third.read()).status).toBe(404);
    expect(hasAnswered).toBe(false);
  });

  test('takes faults from the environment at its start, once for a directory', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'nkudo-ch-'));
    const faults = JSON.stringify([{ at: 'start', once: true, do: 'exit', code: 9 }]);
    const binary = await buildSimulator();
    const run = async () => {
      const child = spawn(binary, ['--api-socket', join(directory, 'api.sock'), '--kernel', '/nonexistent'], { env: { MOCK_CH_FAULTS: faults }, stdio: 'ignore' });
      return new Promise((resolve) => child.once('exit', resolve));
    };
    expect(await run()).toBe(9);
    expect(existsSync(join(directory, 'api.sock'))).toBe(false);
    expect(await run()).toBe(1);
    await rm(directory, { recursive: true });
  });
});
