import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import type { MicroVM, MicroVMSpec } from '#crds/gen/microvm.ts';
import { deriveDesired } from './derive-desired.ts';
import { secretKeysOf } from './secret-keys.ts';

const metadata = { name: 'web', namespace: 'shop', uid: 'u', resourceVersion: '1', generation: 1, creationTimestamp: '2026-01-01T00:00:00Z' };
const spec: MicroVMSpec = { siteRef: { name: 's' }, cpu: { count: 2 }, memory: { size: '64Mi' }, boot: { kernel: { path: '/k' } } };

describe('deriving the desired state', () => {
  it('fills in the defaults of the CRD', () => {
    expect(deriveDesired({ metadata, spec })).toEqual({
      ok: true,
      desired: {
        name: 'web', namespace: 'shop', runPolicy: 'Always', paused: false, restartNonce: 0,
        restart: { initialBackoffMs: 1_000, maxBackoffMs: 300_000, maxRetries: 5, windowMs: 600_000 },
        cpuCount: 2, memoryBytes: 67_108_864, boot: { kind: 'kernel', path: '/k', cmdline: '' }, disks: [], serialLog: true, terminationGracePeriodMs: 30_000,
      },
      networks: [],
    });
  });

  it('takes over every field of the full example', () => {
    const example = parse(readFileSync('examples/microvm-full.yaml', 'utf8')) as MicroVM; // A manifest of this repository.
    const derived = deriveDesired({ ...example, metadata: { ...metadata, ...example.metadata } });
    expect(derived).toMatchObject({
      ok: true,
      desired: {
        boot: { kind: 'kernel', path: '/var/lib/nkudo/images/guest.elf', cmdline: 'tick' },
        disks: [{ name: 'data', path: '/var/lib/nkudo/images/data.raw', readOnly: true }],
        restart: { maxBackoffMs: 60_000 }, terminationGracePeriodMs: 10_000,
      },
    });
  });

  it('asks for networks as the spec does, with a hardware address of each, and leaves open what the spec leaves open', () => {
    const networks: MicroVMSpec['networks'] = [
      { name: 'lan', nat: {}, ports: [{ name: 'web', guestPort: 80 }, { name: 'dns', protocol: 'UDP', hostPort: 53, guestPort: 5353 }] },
      { name: 'site', mesh: {}, mac: '52:54:00:00:00:01', address: '10.96.0.9/24' },
      { name: 'plant', bridge: { name: 'br0', vlan: 7 } },
      { name: 'wire', macvtap: { parent: 'eth1', mode: 'VEPA' } },
    ];
    expect(deriveDesired({ metadata: { ...metadata, uid: '0190c9a3-0000-7000-8000-000000000001' }, spec: { ...spec, networks } })).toMatchObject({
      ok: true,
      networks: [
        { name: 'lan', kind: 'nat', mac: expect.stringMatching(/^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/), ports: [{ name: 'web', protocol: 'tcp', guestPort: 80 }, { name: 'dns', protocol: 'udp', hostPort: 53, guestPort: 5353 }] },
        { name: 'site', kind: 'mesh', mac: '52:54:00:00:00:01', address: '10.96.0.9/24', ports: [] },
        { name: 'plant', kind: 'bridge', bridgeName: 'br0', vlan: 7, ports: [] },
        { name: 'wire', kind: 'macvtap', parent: 'eth1', macvtapMode: 'vepa', ports: [] },
      ],
    });
  });

  it('takes an OCI image by the digest behind it or beside it, and the Secret with its credentials', () => {
    const sha256 = 'a'.repeat(64);
    const disks: MicroVMSpec['disks'] = [
      { name: 'one', oci: { image: `alpine:3@sha256:${sha256}` }, persistence: 'Ephemeral' },
      { name: 'two', oci: { image: 'registry.example:5000/team/app:1', pullSecretRef: { name: 'login' } }, digest: `sha256:${sha256}`, persistence: 'Persistent', size: '1Gi' },
    ];
    expect(deriveDesired({ metadata, spec: { ...spec, disks } }, null, { allowedRegistries: ['docker.io'] })).toMatchObject({
      ok: true,
      desired: {
        images: { allowedRegistries: ['docker.io'] },
        disks: [
          { name: 'one', path: '', managed: { persistence: 'Ephemeral', isRetained: false, oci: { registry: 'docker.io', repository: 'library/alpine', sha256 } } },
          { name: 'two', sizeBytes: 2 ** 30, managed: { oci: { registry: 'registry.example:5000', repository: 'team/app', sha256 }, secretName: 'login' } },
        ],
      },
    });
    expect(secretKeysOf({ ...spec, disks })).toEqual([{ name: 'login', key: '.dockerconfigjson' }]);
  });

  it('refuses more Secrets than a host takes', () => {
    const disks = Array.from({ length: 17 }, (_, index) => ({ name: `d${index}`, http: { url: 'https://images.example/a', secretRef: { name: `s${index}` } }, digest: `sha256:${'a'.repeat(64)}`, persistence: 'Ephemeral' as const }));
    expect(deriveDesired({ metadata, spec: { ...spec, disks } })).toMatchObject({ ok: false, problem: { code: 'SPEC_REFUSED', message: expect.stringContaining('34 values of Secrets') } });
  });

  it('refuses a class, whatever else is there', () => {
    expect(deriveDesired({ metadata, spec: { ...spec, className: 'gold' } })).toMatchObject({ ok: false, problem: { code: 'CLASS_NOT_FOUND', message: expect.stringContaining('gold') } });
  });

  it.each([
    [{ memory: { size: 'lots' } }, 'memory.size'],
    [{ memory: { size: '9Ei' } }, 'memory.size'],
    [{ terminationGracePeriod: 'soon' }, 'terminationGracePeriod'],
    [{ boot: {} }, 'boot'],
    [{ disks: [{ name: 'd' }] }, 'disks[d]'],
    [{ networks: [{ name: 'n', macvtap: { parent: 'eth0' }, nat: {} }] }, 'networks[n] is to have exactly one'],
    [{ networks: [{ name: 'n' }] }, 'networks[n]'],
  ] as const)('names the field of %j that an older object may hold', (change, field) => {
    const derived = deriveDesired({ metadata, spec: { ...spec, ...change } as MicroVMSpec }); // As stored under older rules.
    expect(derived).toMatchObject({ ok: false, problem: { code: 'SPEC_REFUSED', message: expect.stringContaining(field) } });
  });
});
