import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import type { CloudInit, DesiredMicroVM, NetworkSpec } from '#api/model/microvm.ts';
import { testDesired, testMicroVMId } from '#test/builders/edge-microvm.ts';
import { deriveSeedFiles } from './cloud-init.ts';

const plain: CloudInit = { hostName: 'till-1', sshAuthorizedKeys: [] };
const nat: NetworkSpec = { name: 'lan', kind: 'nat', mac: '52:54:00:00:00:01', address: '10.87.3.5/24', gateway: '10.87.3.1', ports: [] };
const mesh: NetworkSpec = { ...nat, name: 'mesh', kind: 'mesh', mac: '52:54:00:00:00:02', address: '10.88.0.9/24', gateway: '10.88.0.1' };
const bridge: NetworkSpec = { name: 'floor', kind: 'bridge', mac: '52:54:00:00:00:03', bridgeName: 'br0', ports: [] };

function seed(change: Partial<CloudInit> = {}, desired: Partial<DesiredMicroVM> = {}, secretUserData: string | null = null) {
  const cloudInit = { ...plain, ...change };
  const files = deriveSeedFiles({ microvmId: testMicroVMId, desired: testDesired({ cloudInit, ...desired }), cloudInit, secretUserData: secretUserData === null ? null : Buffer.from(secretUserData), nameServers: ['192.0.2.53'] });
  const text = (name: string): string | undefined => {
    const found = files.find((file) => file.name === name);
    return found === undefined ? undefined : Buffer.from(found.content).toString();
  };
  const meta = parse(text('meta-data') ?? '') as Record<string, unknown>; // Its fields are compared below.
  return { meta, userData: text('user-data'), network: text('network-config'), names: files.map(({ name }) => name) };
}

const fromSecret = { userDataSecret: { name: 'guest', key: 'user-data' } };
const version = (resourceVersion: string): Partial<DesiredMicroVM> => ({ secrets: [{ name: 'guest', key: 'user-data', resourceVersion }] });

describe('the files of a seed', () => {
  it('name the guest, and are taken for a seed also without user data and networks', () => {
    const { meta, userData, names } = seed();
    expect(meta['local-hostname']).toBe('till-1');
    expect(meta).not.toHaveProperty('public-keys');
    expect(parse(userData ?? '')).toEqual({});
    expect(userData).toMatch(/^#cloud-config\n/);
    expect(names).toEqual(['meta-data', 'user-data']);
  });

  it('give the user data as it is, from the spec or from the Secret', () => {
    expect(seed({ userData: '#!/bin/sh\necho "ä"\n' }).userData).toBe('#!/bin/sh\necho "ä"\n');
    expect(seed(fromSecret, version('1'), '#cloud-config\npassword: x\n').userData).toBe('#cloud-config\npassword: x\n');
  });

  it('put public keys beside the user data, which stays as it is', () => {
    const { meta, userData } = seed({ sshAuthorizedKeys: ['ssh-ed25519 AAAA a', 'ssh-rsa BBBB "b"'], userData: 'x' });
    expect(meta['public-keys']).toEqual(['ssh-ed25519 AAAA a', 'ssh-rsa BBBB "b"']);
    expect(userData).toBe('x');
  });

  it('give the network configuration of the spec as it is', () => {
    expect(seed({ networkData: 'version: 1\nconfig: []\n' }, { networks: [nat] }).network).toBe('version: 1\nconfig: []\n');
  });

  it('make it from the addresses that were given, by hardware address, with one preferred way out', () => {
    expect(parse(seed({}, { networks: [mesh, nat, bridge] }).network ?? '')).toEqual({
      version: 2,
      ethernets: {
        eth0: { match: { macaddress: mesh.mac }, 'set-name': 'eth0', dhcp4: false, addresses: ['10.88.0.9/24'], routes: [{ to: '0.0.0.0/0', via: '10.88.0.1', metric: 200 }], nameservers: { addresses: ['192.0.2.53'] } },
        eth1: { match: { macaddress: nat.mac }, 'set-name': 'eth1', dhcp4: false, addresses: ['10.87.3.5/24'], routes: [{ to: '0.0.0.0/0', via: '10.87.3.1', metric: 101 }], nameservers: { addresses: ['192.0.2.53'] } },
        eth2: { match: { macaddress: bridge.mac }, 'set-name': 'eth2', dhcp4: true },
      },
    });
  });
});

describe('the instance-id', () => {
  const idOf = (...args: Parameters<typeof seed>): unknown => seed(...args).meta['instance-id'];

  it('stays while nothing changes that cloud-init does once, and begins with the UID', () => {
    expect(idOf()).toBe(idOf());
    expect(String(idOf()).startsWith(testMicroVMId)).toBe(true);
    expect(idOf({}, { cpuCount: 4 })).toBe(idOf());
  });

  it.each<[string, Parameters<typeof seed>]>([
    ['the host name', [{ hostName: 'till-2' }]],
    ['the user data', [{ userData: 'y' }]],
    ['a public key', [{ sshAuthorizedKeys: ['ssh-ed25519 AAAA'] }]],
    ['the network configuration', [{ networkData: 'version: 2' }]],
    ['an address', [{}, { networks: [nat] }]],
    ['the Secret', [fromSecret, version('1'), 'x']],
  ])('changes with %s', (_what, args) => {
    expect(idOf(...args)).not.toBe(idOf());
  });

  it('changes with the version of the Secret, and does not depend on its value', () => {
    expect(idOf(fromSecret, version('2'), 'x')).not.toBe(idOf(fromSecret, version('1'), 'x'));
    expect(idOf(fromSecret, version('1'), 'y')).toBe(idOf(fromSecret, version('1'), 'x'));
  });
});
