import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import { AppError } from '#api/model/error-codes.ts';
import { createGuestNetworks } from './guest-networks.ts';
import { createHostNetwork, type HostNetwork } from './host-network.ts';

const id = microVMId('00000000-0000-4000-8000-000000000001');
const options = { signal: AbortSignal.timeout(60_000) };
const network = { name: 'lan', kind: 'nat', mac: '52:54:00:00:00:01', address: '10.0.0.5/24', gateway: '10.0.0.1', ports: [] } as const;

describe('programs of the host', () => {
  const host = createHostNetwork(process.env['PATH']);

  test('get their arguments as they are and their input, and answer with what they print', async () => {
    expect(await host.run('printf', ['%s|', '$(id)', 'a b', ';'], options)).toBe('$(id)|a b|;|');
    expect(await host.run('cat', [], { ...options, input: 'in' })).toBe('in');
  });

  test('fail with a code of the catalogue', async () => {
    await expect(host.run('no-such-program', [], options)).rejects.toMatchObject({ code: 'NETWORK_UNAVAILABLE', details: { program: 'no-such-program' } });
    await expect(host.run('ls', ['/no/such'], options)).rejects.toMatchObject({ code: 'NETWORK_FAILED', message: expect.stringContaining('/no/such') });
    await expect(host.readSwitch('/proc/sys/no')).rejects.toMatchObject({ code: 'NETWORK_UNAVAILABLE' });
    const reason = new Error('no more');
    await expect(host.run('sleep', ['60'], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe('a host without the programs or the right', () => {
  const failing = (code: 'NETWORK_UNAVAILABLE' | 'NETWORK_FAILED', devices: readonly string[] = []): HostNetwork => {
    const fail = (): Promise<never> => Promise.reject(new AppError(code));
    return { run: (program, args) => (program === 'ip' && args.includes('show') && code === 'NETWORK_FAILED' ? Promise.resolve('[]') : fail()), deviceNames: () => Promise.resolve(devices), readSwitch: fail, writeSwitch: fail };
  };
  const create = (host: HostNetwork, runtimeDirectory: string) =>
    createGuestNetworks({ host, owner: 'test', runtimeDirectory, vmmUserIdOf: () => 0, meshInterface: 'wt0', nameServers: [], mayEnableForwarding: true });

  test.each(['NETWORK_UNAVAILABLE', 'NETWORK_FAILED'] as const)('runs microVMs without networks as before, and says %s for the others', async (code) => {
    const directory = mkdtempSync(join(tmpdir(), 'nkudo-net-'));
    try {
      const networks = create(failing(code), directory);
      expect(await networks.ensure(id, [], options.signal)).toEqual([]);
      await networks.remove(id, options.signal);
      expect(await networks.sweep(new Set(), options.signal)).toEqual([]);
      await expect(networks.ensure(id, [network], options.signal)).rejects.toMatchObject({ code });
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
