/**
 * Bounds of the schema itself: sizes, enumerations, lists, required fields. Each row is one field
 * with values that the API server takes and values that it refuses for exactly that field.
 */
import type { Spec } from './api-server.ts';
import { hostSpec, keySpec, microvmSpec, rolloutSpec, siteSpec, tokenSpec } from './rule-cases.ts';
import type { Kind, Variant } from './crd-source.ts';

export interface BoundCase {
  readonly kind: Kind;
  readonly variant: Variant;
  /** Field that the refusal names; a prefix of it is enough. */
  readonly field: string;
  readonly accepted: readonly Spec[];
  readonly refused: readonly Spec[];
}

const many = <Item>(count: number, make: (index: number) => Item): Item[] => Array.from({ length: count }, (_, index) => make(index));
const disks = (count: number): Spec => microvmSpec({ disks: many(count, (index) => ({ name: `d${index}`, path: `/srv/d${index}` })) });
const networks = (count: number): Spec => microvmSpec({ networks: many(count, (index) => ({ name: `n${index}`, nat: {} })) });
const ports = (count: number): Spec =>
  microvmSpec({ networks: [{ name: 'lan', nat: {}, ports: many(count, (index) => ({ name: `p${index}`, guestPort: 1 + index })) }] });
const cpu = (count: unknown): Spec => microvmSpec({ cpu: { count } });
const matchLabels = (labels: unknown): Spec => microvmSpec({ placement: { hostSelector: { matchLabels: labels } } });
const kernel = (fields: Spec): Spec => microvmSpec({ boot: { kernel: { path: '/srv/vmlinux', ...fields } } });
const without = (spec: Spec, field: string): Spec => Object.fromEntries(Object.entries(spec).filter(([name]) => name !== field));
const meshSpec = (fields: Spec): Spec => siteSpec({ mesh: { provider: 'NetBird', secretRef: { name: 'netbird' }, ...fields } });
const maintenanceWindow = (fields: Spec): Spec => siteSpec({ maintenanceWindows: [{ name: 'night', start: '02:00', duration: '2h', ...fields }] });

const shipped = (kind: Kind, field: string, accepted: readonly Spec[], refused: readonly Spec[]): BoundCase => ({
  kind,
  variant: 'shipped',
  field,
  accepted,
  refused,
});
const unlocked = (kind: Kind, field: string, accepted: readonly Spec[], refused: readonly Spec[]): BoundCase => ({
  ...shipped(kind, field, accepted, refused),
  variant: 'unlocked',
});

export const boundCases: readonly BoundCase[] = [
  shipped('MicroVM', 'spec.siteRef', [microvmSpec()], [without(microvmSpec(), 'siteRef'), microvmSpec({ siteRef: 'shop-1' })]),
  shipped(
    'MicroVM',
    'spec.siteRef.name',
    [microvmSpec({ siteRef: { name: 'a'.repeat(63) } })],
    ['', 'Shop', 'shop_1', '../shop', 'a'.repeat(64)].map((name) => microvmSpec({ siteRef: { name } })),
  ),
  shipped('MicroVM', 'spec.boot', [microvmSpec()], [without(microvmSpec(), 'boot')]),
  shipped('MicroVM', 'spec.cpu.count', [cpu(1), cpu(255)], [cpu(0), cpu(-1), cpu(256), cpu(1.5), cpu('2')]),
  shipped('MicroVM', 'spec.runPolicy', [microvmSpec({ runPolicy: 'Halted' })], [microvmSpec({ runPolicy: 'always' })]),
  shipped(
    'MicroVM',
    'spec.restartNonce',
    [microvmSpec({ restartNonce: 0 }), microvmSpec({ restartNonce: Number.MAX_SAFE_INTEGER })],
    [microvmSpec({ restartNonce: -1 }), microvmSpec({ restartNonce: Number.MAX_SAFE_INTEGER + 1 })],
  ),
  shipped(
    'MicroVM',
    'spec.restart.maxRetries',
    [microvmSpec({ restart: { maxRetries: 1000 } })],
    [microvmSpec({ restart: { maxRetries: 0 } }), microvmSpec({ restart: { maxRetries: 1001 } })],
  ),
  shipped('MicroVM', 'spec.disks', [disks(0), disks(16)], [disks(17)]),
  shipped(
    'MicroVM',
    'spec.disks',
    [],
    [
      microvmSpec({ disks: [{ name: 'a', path: '/srv/a' }, { name: 'a', path: '/srv/b' }] }),
      microvmSpec({ disks: [{ path: '/srv/a' }] }),
      microvmSpec({ disks: [{ name: 'a,path=/etc/shadow', path: '/srv/a' }] }),
    ],
  ),
  shipped('MicroVM', 'spec.boot.kernel.path', [], [kernel({ path: `/${'a'.repeat(1024)}` }), kernel({ path: '/' })]),
  shipped('MicroVM', 'spec.boot.kernel.cmdline', [], [kernel({ cmdline: 'a'.repeat(2049) })]),
  shipped('MicroVM', 'spec.memory', [], [microvmSpec({ memory: {} })]),
  shipped('MicroVM', 'spec.memory.size', [], [microvmSpec({ memory: { size: `${'1'.repeat(32)}Gi` } }), microvmSpec({ memory: { size: true } })]),
  shipped('MicroVM', 'spec.terminationGracePeriod', [], [microvmSpec({ terminationGracePeriod: 30 })]),
  shipped(
    'MicroVM',
    'spec.placement.hostSelector.matchLabels',
    [matchLabels({}), matchLabels(Object.fromEntries(many(16, (index) => [`k${index}`, 'v'])))],
    [matchLabels(Object.fromEntries(many(17, (index) => [`k${index}`, 'v']))), matchLabels({ zone: 'a b' }), matchLabels({ zone: 1 })],
  ),
  shipped('MicroVM', 'spec.evictionStrategy', [], [microvmSpec({ evictionStrategy: 'Live' })]),
  shipped('MicroVM', 'spec.networks', [networks(8)], [networks(9)]),
  shipped('MicroVM', 'spec.networks[0].ports', [ports(32)], [ports(33)]),
  shipped('MicroVM', 'spec.networks[0].bridge.name', [], [microvmSpec({ networks: [{ name: 'lan', bridge: { name: 'br0,mac=x' } }] })]),
  unlocked('MicroVM', 'spec.vsock.cid', [microvmSpec({ vsock: { cid: 3 } })], [microvmSpec({ vsock: { cid: 2 } }), microvmSpec({ vsock: { cid: 4294967295 } })]),
  unlocked('MicroVM', 'spec.disks[0].digest', [], [microvmSpec({ disks: [{ name: 'a', path: '/srv/a', digest: 'sha256:abc' }] })]),
  unlocked(
    'MicroVM',
    'spec.disks[0].http.url',
    [microvmSpec({ disks: [{ name: 'a', http: { url: 'https://images.example/a.raw?x=1' }, digest: `sha256:${'0'.repeat(64)}`, persistence: 'Ephemeral' }] })],
    ['file:///etc/shadow', 'https://a b', 'https://'].map((url) => microvmSpec({ disks: [{ name: 'a', http: { url } }] })),
  ),
  shipped('Host', 'spec.siteRef', [hostSpec()], [{}]),
  shipped('Host', 'spec.reserved.cpus', [hostSpec({ reserved: { cpus: 0 } })], [hostSpec({ reserved: { cpus: -1 } }), hostSpec({ reserved: { cpus: 4097 } })]),
  shipped(
    'Host',
    'spec.taints',
    [hostSpec({ taints: [{ key: 'a', effect: 'NoSchedule' }, { key: 'a', effect: 'NoExecute' }] })],
    [hostSpec({ taints: [{ key: 'a', effect: 'NoSchedule' }, { key: 'a', effect: 'NoSchedule' }] }), hostSpec({ taints: [{ key: 'a' }] })],
  ),
  shipped('Host', 'spec.overcommit.cpuPercent', [hostSpec({ overcommit: { cpuPercent: 100 } })], [hostSpec({ overcommit: { cpuPercent: 99 } })]),
  shipped('Host', 'spec.agent.version', [hostSpec({ agent: { version: '0.4.1' } })], [hostSpec({ agent: { version: 'latest' } })]),
  shipped('Host', 'spec.agent.manifestURL', [hostSpec({ agent: { version: '0.4.1', manifestURL: 'https://releases.example/0.4.1/manifest.json' } })], [hostSpec({ agent: { version: '0.4.1', manifestURL: 'ftp://releases.example/manifest.json' } })]),
  shipped('Host', 'spec.agent.ring', [hostSpec({ agent: { ring: 'canary' } })], [hostSpec({ agent: { ring: 'Canary' } })]),
  shipped('AgentRollout', 'spec.version', [rolloutSpec()], [rolloutSpec({ version: 'latest' }), without(rolloutSpec(), 'version')]),
  shipped('AgentRollout', 'spec.manifestURL', [rolloutSpec({ manifestURL: 'https://releases.example/{version}/manifest.json' })], [rolloutSpec({ manifestURL: 'ftp://releases.example/manifest.json' })]),
  shipped('AgentRollout', 'spec.rings', [rolloutSpec({ rings: many(16, (index) => ({ name: `r${index}` })) })], [rolloutSpec({ rings: [] }), rolloutSpec({ rings: many(17, (index) => ({ name: `r${index}` })) }), rolloutSpec({ rings: [{ name: 'a' }, { name: 'a' }] })]),
  shipped('AgentRollout', 'spec.rings[0].sites', [rolloutSpec({ rings: [{ name: 'a', sites: many(256, (index) => `s${index}`) }] })], [rolloutSpec({ rings: [{ name: 'a', sites: many(257, (index) => `s${index}`) }] }), rolloutSpec({ rings: [{ name: 'a', sites: ['s', 's'] }] })]),
  shipped('AgentRollout', 'spec.health.maxFailures', [rolloutSpec({ health: { maxFailures: 10_000 } })], [rolloutSpec({ health: { maxFailures: -1 } })]),
  shipped('AgentRollout', 'spec.onFailure', [rolloutSpec({ onFailure: 'RollBackAll' })], [rolloutSpec({ onFailure: 'GoOn' })]),
  shipped('AgentRollout', 'spec.windows', [rolloutSpec({ windows: many(16, (index) => ({ name: `w${index}`, start: '02:00', duration: '2h' })) })], [rolloutSpec({ windows: many(17, (index) => ({ name: `w${index}`, start: '02:00', duration: '2h' })) })]),
  shipped('Host', 'spec.drain.deadline', [hostSpec({ drain: { deadline: '2026-01-02T03:04:05Z' } })], [hostSpec({ drain: { deadline: 'tomorrow' } })]),
  shipped('Site', 'spec.timeZone', [siteSpec({ timeZone: 'America/Argentina/Ushuaia' })], [siteSpec({ timeZone: '../../etc/passwd' }), siteSpec({ timeZone: '' })]),
  shipped('Site', 'spec.maintenanceWindows[0].start', [maintenanceWindow({ start: '23:59' })], [maintenanceWindow({ start: '24:00' }), maintenanceWindow({ start: '2:00' })]),
  shipped('Site', 'spec.maintenanceWindows[0].days', [maintenanceWindow({ days: ['Mon', 'Sun'] })], [maintenanceWindow({ days: ['Mon', 'Mon'] }), maintenanceWindow({ days: ['Funday'] })]),
  shipped('Site', 'spec.quota.microvms', [siteSpec({ quota: { microvms: 0 } })], [siteSpec({ quota: { microvms: -1 } })]),
  shipped('Site', 'spec.mesh.provider', [], [siteSpec({ mesh: { provider: 'Tailscale' } })]),
  shipped('Site', 'spec.mesh.groups', [meshSpec({ groups: ['shops'] })], [meshSpec({ groups: many(17, (index) => `g${index}`) }), meshSpec({ groups: [''] })]),
  shipped('Site', 'spec.mesh.policies', [], [meshSpec({ policies: many(17, (index) => ({ name: `p${index}`, peers: ['a'] })) })]),
  shipped(
    'Site',
    'spec.mesh.policies[0].peers',
    [meshSpec({ policies: [{ name: 'p', peers: ['a'], direction: 'Both' }] })],
    [meshSpec({ policies: [{ name: 'p', peers: [] }] }), meshSpec({ policies: [{ name: 'p' }] })],
  ),
  shipped('Site', 'spec.mesh.policies[0].ports[0]', [], [meshSpec({ policies: [{ name: 'p', peers: ['a'], protocol: 'tcp', ports: [0] }] }), meshSpec({ policies: [{ name: 'p', peers: ['a'], protocol: 'tcp', ports: [65536] }] })]),
  shipped('EnrollmentToken', 'spec.siteRef', [tokenSpec()], [{}]),
  shipped('EnrollmentToken', 'spec.hostName', [tokenSpec({ hostName: 'edge-1' })], [tokenSpec({ hostName: 'edge_1' }), tokenSpec({ hostName: '' }), tokenSpec({ hostName: 'a/../b' })]),
  shipped('EnrollmentToken', 'spec.ttl', [], [tokenSpec({ ttl: 3600 })]),
  shipped('APIKey', 'spec.role', [keySpec({ role: 'admin' })], [{}, keySpec({ role: 'owner' })]),
  shipped('APIKey', 'spec.siteRef.name', [keySpec({ siteRef: { name: 'shop-1' } })], [keySpec({ siteRef: { name: '../shop' } }), keySpec({ siteRef: { name: '' } })]),
];
