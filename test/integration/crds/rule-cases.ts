/**
 * One row for every validation rule of the CRDs: what it accepts and what it refuses.
 * A row names its rule by the beginning of the message. `also` lists the beginnings of messages that
 * a refused sample earns beside it, so that a rule can't fire unnoticed.
 */
import type { Spec } from './api-server.ts';
import type { Kind, Variant } from './crd-source.ts';

export interface Sample {
  readonly title: string;
  readonly spec: Spec;
  readonly name?: string;
  readonly before?: Spec;
  readonly statusBefore?: Spec;
  readonly also?: readonly string[];
}

export interface RuleCase {
  readonly kind: Kind;
  /** `unlocked` for rules that only reserved fields can reach. */
  readonly variant: Variant;
  readonly rule: string;
  readonly accepted: readonly Sample[];
  readonly refused: readonly Sample[];
}

// Base specs: each is accepted as it is.
export const siteSpec = (fields: Spec = {}): Spec => fields;
export const hostSpec = (fields: Spec = {}): Spec => ({ siteRef: { name: 'shop-1' }, ...fields });
export const tokenSpec = hostSpec;
export const keySpec = (fields: Spec = {}): Spec => ({ role: 'read', ...fields });
export const microvmSpec = (fields: Spec = {}): Spec => ({
  siteRef: { name: 'shop-1' },
  cpu: { count: 1 },
  memory: { size: '512Mi' },
  boot: { kernel: { path: '/var/lib/nkudo/images/guest.elf', cmdline: 'tick' } },
  ...fields,
});
export const classSpec = (fields: Spec = {}): Spec => ({ cpu: { count: 1 }, memory: { size: '512Mi' }, ...fields });
export const setSpec = (fields: Spec = {}): Spec => ({ replicas: 1, siteRef: { name: 'shop-1' }, template: { spec: {} }, ...fields });
export const rolloutSpec = (fields: Spec = {}): Spec => ({ version: '0.4.1', rings: [{ name: 'all', hostSelector: {} }], ...fields });
export const baseSpecs: Readonly<Record<Kind, Spec>> = {
  Site: siteSpec(),
  Host: hostSpec(),
  MicroVM: microvmSpec(),
  EnrollmentToken: tokenSpec(),
  APIKey: keySpec(),
  MicroVMClass: classSpec(),
  MicroVMSet: setSpec(),
  AgentRollout: rolloutSpec(),
};

const without = (spec: Spec, field: string): Spec =>
  Object.fromEntries(Object.entries(spec).filter(([name]) => name !== field));

type Place = (value: unknown) => Spec;

/** A field that this version refuses: the base is accepted, the field is not. */
function reserved(kind: Kind, label: string, spec: Spec, options: { accepted?: Spec; also?: readonly string[] } = {}): RuleCase {
  return {
    kind,
    variant: 'shipped',
    rule: `reserved: ${label} has no effect in this version; remove it`,
    accepted: [{ title: 'without it', spec: options.accepted ?? baseSpecs[kind] }],
    refused: [{ title: 'with it', spec, also: options.also ?? [] }],
  };
}

const titleLength = 60;

const samples = (place: Place, values: readonly unknown[]): Sample[] =>
  values.map((value) => ({ title: JSON.stringify(value).slice(0, titleLength), spec: place(value) }));

interface FieldOfRules {
  readonly kind: Kind;
  readonly variant: Variant;
  readonly label: string;
  readonly place: Place;
}

function durationRule(field: FieldOfRules, limits: { shortest: string; longest: string; tooShort?: string; tooLong: string }): RuleCase {
  const { kind, variant, label, place } = field;
  const wrong = ['soon', '10', '1d', '-5s', '1.5h', '5m1h', ' 10s', '9999999h', limits.tooLong];
  return {
    kind,
    variant,
    rule: `write ${label} as a duration`,
    accepted: samples(place, [limits.shortest, limits.longest]),
    refused: samples(place, limits.tooShort === undefined ? wrong : [...wrong, limits.tooShort]),
  };
}

function quantityRules(
  field: FieldOfRules,
  limits: { smallest: string; largest: string; tooSmall?: string; tooLarge: string; isPaged?: boolean; alsoBelow?: string; isInBlocks?: boolean; alsoUnpaged?: string },
): RuleCase[] {
  const { kind, variant, label, place } = field;
  const inBlocks = [limits.smallest, limits.largest, 1_073_741_824, '1073741824', '1024Mi', '1.5Gi', '1.125Gi', '0.0625Ti'];
  const accepted = samples(place, limits.isInBlocks === true ? inBlocks : [...inBlocks, '4096e6']);
  const above = samples(place, [limits.tooLarge, '1000000000000Gi', '1073741824.5']);
  const below = samples(place, ['-1Gi', '1500m', '0.1', ...(limits.tooSmall === undefined ? [] : [limits.tooSmall])]);
  const also = limits.alsoBelow === undefined ? [] : [limits.alsoBelow];
  const bounds = [...above, ...below.map((sample) => ({ ...sample, also }))];
  const rules: RuleCase[] = [
    {
      kind,
      variant,
      rule: `write ${label} as a quantity`,
      accepted,
      refused: samples(place, ['lots', '1 Gi', '1GB', '', '1Gi,shared=on', '0x10']),
    },
    { kind, variant, rule: `write ${label} with its unit`, accepted, refused: bounds },
  ];
  if (limits.isPaged === true) {
    rules.push({
      kind,
      variant,
      rule: `write ${label} as a multiple of the 4Ki page`,
      accepted,
      refused: samples(place, [1_073_741_825, '1000000001']).map((sample) => ({ ...sample, also: limits.alsoUnpaged === undefined ? [] : [limits.alsoUnpaged] })),
    });
  }
  return rules;
}

function pathRules(kind: Kind, label: string, place: Place): RuleCase[] {
  const accepted = samples(place, [
    '/var/lib/nkudo/images/guest.elf',
    '/a',
    '/srv/..data/x',
    '/srv/a..b',
    '/srv/v1.2_x86-64+debug@1:2=3~',
    `/${'a'.repeat(1023)}`,
  ]);
  const rule = `write ${label} as the absolute path`;
  return [
    {
      kind,
      variant: 'shipped',
      rule,
      accepted,
      refused: samples(place, [
        'images/guest.elf',
        '--api-socket=/tmp/x',
        '-k',
        '/srv/a,readonly=on',
        '/srv/a\n/srv/b',
        '/srv/a\u0000',
        '/srv/a b',
        '/srv/$(id)',
        '/srv/a;reboot',
        '/srv/%i',
        '/srv/"a"',
        '/srv/',
        '//srv',
        '/srv/bildgröße',
      ]),
    },
    {
      kind,
      variant: 'shipped',
      rule: `write ${label} without . and .. segments`,
      accepted,
      refused: samples(place, ['/var/lib/nkudo/../../../etc/shadow', '/..', '/srv/..', '/srv/./a']),
    },
  ];
}

function nameRule(kind: Kind): RuleCase {
  const spec = baseSpecs[kind];
  return {
    kind,
    variant: 'shipped',
    rule: 'choose a',
    accepted: ['a', 'a-1', '1a', 'a'.repeat(63)].map((name) => ({ title: name, name, spec })),
    refused: ['a.b', 'a'.repeat(64)].map((name) => ({ title: name, name, spec })),
  };
}

function labelKeyRule(label: string, place: Place): RuleCase {
  return {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: `write the keys of ${label}.matchLabels as label keys`,
    accepted: [{ title: 'a key', spec: place({ matchLabels: { 'nkudo.dev/zone': 'front' } }) }],
    refused: [{ title: 'a key of 318 characters', spec: place({ matchLabels: { ['k'.repeat(318)]: 'front' } }) }],
  };
}

function disconnectRules(kind: Kind, base: (fields: Spec) => Spec): RuleCase[] {
  const place = (fields: Spec): Spec => base({ disconnect: fields });
  const pair = 'write disconnect.lostAfter at least 1.02 times stopOnHostAfter plus 5s';
  const pairOf = (lostAfter: string, stopOnHostAfter: string): Sample => ({
    title: `${lostAfter} with ${stopOnHostAfter}`,
    spec: place({ replace: true, lostAfter, stopOnHostAfter }),
  });
  return [
    reserved(kind, 'disconnect.reconcile other than KeepNew', place({ reconcile: 'KeepOriginal' }), { accepted: place({ replace: true, reconcile: 'KeepNew' }) }),
    durationRule(
      { kind, variant: 'shipped', label: 'disconnect.lostAfter', place: (value) => place({ lostAfter: value }) },
      { shortest: '10s', longest: '720h', tooShort: '9s', tooLong: '721h' },
    ),
    durationRule(
      { kind, variant: 'shipped', label: 'disconnect.stopOnHostAfter', place: (value) => place({ stopOnHostAfter: value }) },
      { shortest: '5s', longest: '720h', tooShort: '4s', tooLong: '721h' },
    ),
    {
      kind,
      variant: 'shipped',
      rule: pair,
      accepted: [
        pairOf('10m', '9m'),
        pairOf('107s', '100s'),
        { title: 'too close but not replacing', spec: place({ replace: false, lostAfter: '10s', stopOnHostAfter: '10s' }) },
        { title: 'one of the two', spec: place({ replace: true, lostAfter: '10s' }) },
      ],
      refused: [pairOf('106999ms', '100s'), pairOf('10s', '10s'), pairOf('10s', '1h')],
    },
  ];
}

const mesh = (fields: Spec): Spec => siteSpec({ mesh: { provider: 'NetBird', secretRef: { name: 'netbird' }, ...fields } });
const policy = (fields: Spec): Spec => mesh({ policies: [{ name: 'admins', peers: ['admins'], ...fields }] });

const meshCases: RuleCase[] = [
  {
    kind: 'Site',
    variant: 'shipped',
    rule: 'write mesh.secretRef.name with provider: NetBird',
    accepted: [
      { title: 'with it', spec: mesh({}) },
      { title: 'no mesh', spec: siteSpec({ mesh: { provider: 'None' } }) },
      { title: 'nothing said', spec: siteSpec({ mesh: {} }) },
    ],
    refused: [{ title: 'without it', spec: siteSpec({ mesh: { provider: 'NetBird' } }) }],
  },
  {
    kind: 'Site',
    variant: 'shipped',
    rule: 'write mesh.managementURL as https://host',
    accepted: samples((managementURL) => mesh({ managementURL }), ['https://api.netbird.io', 'https://netbird.example.com:8443', 'http://127.0.0.1:33073', 'http://localhost:80']),
    refused: samples((managementURL) => mesh({ managementURL }), ['http://netbird.example.com', 'https://a.example/api', 'https://u:p@a.example', 'http://127.0.0.1.example.com', 'ftp://a.example', 'https://a b']),
  },
  {
    kind: 'Site',
    variant: 'shipped',
    rule: 'write ports together with protocol: tcp or protocol: udp',
    accepted: [
      { title: 'tcp', spec: policy({ protocol: 'tcp', ports: [22, 443] }) },
      { title: 'no ports', spec: policy({ protocol: 'icmp' }) },
    ],
    refused: [
      { title: 'no protocol', spec: policy({ ports: [22] }) },
      { title: 'icmp', spec: policy({ protocol: 'icmp', ports: [22] }) },
    ],
  },
  {
    kind: 'Site',
    variant: 'shipped',
    rule: 'write mesh.subnetPool as an IPv4 range',
    accepted: samples((subnetPool) => mesh({ subnetPool }), ['10.96.0.0/12', '10.0.0.0/8', '192.168.7.0/24']),
    refused: samples((subnetPool) => mesh({ subnetPool }), ['10.96.0.1/12', '10.96.0.0/25', '100.64.0.0/10', '100.80.0.0/16', '100.0.0.0/8', '300.1.1.0/24', '10.96.0.0/33', 'fd00::/8 ']),
  },
];

const natSubnetRule = (kind: 'Site' | 'Host', place: Place): RuleCase => ({
  kind,
  variant: 'shipped',
  rule: 'write natSubnet as an IPv4 range',
  accepted: samples(place, ['10.87.0.0/20', '192.168.0.0/16', '172.30.5.16/28']),
  refused: samples(place, ['10.87.0.1/20', '10.0.0.0/15', '10.87.0.0/29', '100.64.0.0/16', '127.0.0.0/16', '169.254.0.0/16', '224.0.0.0/16', '300.1.1.0/24', 'fd00::/16']),
});

const siteCases: RuleCase[] = [
  nameRule('Site'),
  natSubnetRule('Site', (natSubnet) => siteSpec({ natSubnet })),
  reserved('Site', 'images.prePull', siteSpec({ images: { prePull: ['registry.example/app:1'] } })),
  ...meshCases,
  ...disconnectRules('Site', siteSpec),
  durationRule(
    {
      kind: 'Site',
      variant: 'shipped',
      label: 'maintenanceWindows[].duration',
      place: (duration) => siteSpec({ maintenanceWindows: [{ name: 'night', start: '02:00', duration }] }),
    },
    { shortest: '5m', longest: '24h', tooShort: '4m', tooLong: '24h1s' },
  ),
  ...quantityRules(
    { kind: 'Site', variant: 'shipped', label: 'images.bandwidth', place: (bandwidth) => siteSpec({ images: { bandwidth } }) },
    { smallest: '16Ki', largest: '100Gi', tooSmall: '15Ki', tooLarge: '101Gi' },
  ),
  ...quantityRules(
    { kind: 'Site', variant: 'shipped', label: 'quota.memory', place: (memory) => siteSpec({ quota: { memory } }) },
    { smallest: '0', largest: '1Pi', tooLarge: '2Pi' },
  ),
  ...quantityRules(
    { kind: 'Site', variant: 'shipped', label: 'quota.disk', place: (disk) => siteSpec({ quota: { disk } }) },
    { smallest: '0', largest: '1Ei', tooLarge: '2Ei' },
  ),
];

const hostCases: RuleCase[] = [
  nameRule('Host'),
  natSubnetRule('Host', (natSubnet) => hostSpec({ natSubnet })),
  {
    kind: 'Host',
    variant: 'shipped',
    rule: 'siteRef can not be changed',
    accepted: [{ title: 'another change', before: hostSpec(), spec: hostSpec({ unschedulable: true }) }],
    refused: [{ title: 'another site', before: hostSpec(), spec: hostSpec({ siteRef: { name: 'shop-2' } }) }],
  },
  {
    kind: 'Host',
    variant: 'shipped',
    rule: 'write agent.version as well',
    accepted: [
      { title: 'a version', spec: hostSpec({ agent: { version: '0.4.1' } }) },
      { title: 'what rollouts look at', spec: hostSpec({ agent: { pinned: true, ring: 'first' } }) },
      { title: 'a version and its manifest', spec: hostSpec({ agent: { version: '0.4.1', manifestURL: 'https://releases.example/0.4.1/manifest.json' } }) },
    ],
    refused: [{ title: 'a manifest of no version', spec: hostSpec({ agent: { manifestURL: 'https://releases.example/0.4.1/manifest.json' } }) }],
  },
  ...quantityRules(
    { kind: 'Host', variant: 'shipped', label: 'reserved.memory', place: (memory) => hostSpec({ reserved: { memory } }) },
    { smallest: '0', largest: '64Ti', tooLarge: '65Ti' },
  ),
];

function countRule(label: string, place: Place): RuleCase {
  return {
    kind: 'AgentRollout',
    variant: 'shipped',
    rule: `write ${label} as a number from 1 to 10000 or a share from 1% to 100%`,
    accepted: samples(place, [1, 10_000, '1%', '100%']),
    refused: samples(place, [0, 10_001, '0%', '101%', '5', 'half', '1.5%']),
  };
}

const rolloutDuration = (field: string, shortest: string, longest: string, tooShort?: string): RuleCase =>
  durationRule(
    { kind: 'AgentRollout', variant: 'shipped', label: `health.${field}`, place: (value) => rolloutSpec({ health: { [field]: value } }) },
    { shortest, longest, tooLong: '721h', ...(tooShort === undefined ? {} : { tooShort }) },
  );

const rolloutCases: RuleCase[] = [
  nameRule('AgentRollout'),
  countRule('rings[].maxParallel', (maxParallel) => rolloutSpec({ rings: [{ name: 'all', hostSelector: {}, maxParallel }] })),
  countRule('health.required', (required) => rolloutSpec({ health: { required } })),
  rolloutDuration('soak', '0s', '720h'),
  rolloutDuration('deadline', '5s', '720h', '4s'),
  durationRule(
    { kind: 'AgentRollout', variant: 'shipped', label: 'windows[].duration', place: (duration) => rolloutSpec({ windows: [{ name: 'night', start: '02:00', duration }] }) },
    { shortest: '5m', longest: '24h', tooShort: '4m59s', tooLong: '25h' },
  ),
  {
    kind: 'AgentRollout',
    variant: 'shipped',
    rule: 'write windows as well',
    accepted: [{ title: 'both', spec: rolloutSpec({ timeZone: 'Europe/Berlin', windows: [{ name: 'night', start: '02:00', duration: '2h' }] }) }],
    refused: [{ title: 'a time zone of nothing', spec: rolloutSpec({ timeZone: 'Europe/Berlin' }) }],
  },
];

const tokenCases: RuleCase[] = [
  nameRule('EnrollmentToken'),
  nameRule('MicroVMClass'),
  nameRule('MicroVMSet'),
  {
    kind: 'MicroVMSet',
    variant: 'shipped',
    rule: 'write siteSelector with mode PerSite',
    accepted: [
      { title: 'one for each site', spec: without(setSpec({ mode: 'PerSite', siteSelector: {}, replicas: undefined }), 'siteRef') },
      { title: 'one for each host', spec: without(setSpec({ mode: 'PerHost' }), 'replicas') },
    ],
    refused: [
      { title: 'PerSite with siteRef', spec: without(setSpec({ mode: 'PerSite', siteSelector: {} }), 'replicas') },
      { title: 'PerSite without a selector', spec: without(without(setSpec({ mode: 'PerSite' }), 'replicas'), 'siteRef') },
      { title: 'Replicas without siteRef', spec: without(setSpec(), 'siteRef') },
      { title: 'Replicas with a selector', spec: setSpec({ siteSelector: {} }) },
    ],
  },
  {
    kind: 'MicroVMSet',
    variant: 'shipped',
    rule: 'write replicas with mode Replicas',
    accepted: [{ title: 'none at all', spec: setSpec({ replicas: 0 }) }],
    refused: [
      { title: 'no number', spec: without(setSpec(), 'replicas') },
      { title: 'a number for each host', spec: setSpec({ mode: 'PerHost' }) },
    ],
  },
  {
    kind: 'MicroVMSet',
    variant: 'shipped',
    rule: 'mode can not be changed',
    accepted: [{ title: 'another number', before: setSpec(), spec: setSpec({ replicas: 3 }) }],
    refused: [{ title: 'another mode', before: setSpec(), spec: without(setSpec({ mode: 'PerHost' }), 'replicas') }],
  },
  {
    kind: 'MicroVMSet',
    variant: 'shipped',
    rule: 'siteRef can not be changed',
    accepted: [{ title: 'another template', before: setSpec(), spec: setSpec({ template: { spec: { runPolicy: 'Halted' } } }) }],
    refused: [{ title: 'another site', before: setSpec(), spec: setSpec({ siteRef: { name: 'shop-2' } }) }],
  },
  ...rolloutCases,
  ...quantityRules(
    { kind: 'MicroVMClass', variant: 'shipped', label: 'memory.size', place: (size) => classSpec({ memory: { size } }) },
    { smallest: '8Mi', largest: '4Ti', tooSmall: '7Mi', tooLarge: '5Ti', isPaged: true },
  ),
  {
    kind: 'EnrollmentToken',
    variant: 'shipped',
    rule: 'an EnrollmentToken can not be changed',
    accepted: [{ title: 'the same again, default written out', before: tokenSpec(), spec: tokenSpec({ ttl: '1h' }) }],
    refused: [
      { title: 'a longer ttl', before: tokenSpec(), spec: tokenSpec({ ttl: '24h' }) },
      { title: 'another site', before: tokenSpec(), spec: tokenSpec({ siteRef: { name: 'shop-2' } }) },
      { title: 'no host name any more', before: tokenSpec({ hostName: 'edge-1' }), spec: tokenSpec() },
    ],
  },
  durationRule(
    { kind: 'EnrollmentToken', variant: 'shipped', label: 'ttl', place: (ttl) => tokenSpec({ ttl }) },
    { shortest: '1m', longest: '24h', tooShort: '59s', tooLong: '24h1ms' },
  ),
];

const keyCases: RuleCase[] = [
  nameRule('APIKey'),
  {
    kind: 'APIKey',
    variant: 'shipped',
    rule: 'an APIKey can be revoked and not be changed otherwise',
    accepted: [
      { title: 'the same again, default written out', before: keySpec(), spec: keySpec({ ttl: '2160h' }) },
      { title: 'revoked', before: keySpec(), spec: keySpec({ revoked: true }) },
    ],
    refused: [
      { title: 'another role', before: keySpec(), spec: keySpec({ role: 'admin' }) },
      { title: 'a longer ttl', before: keySpec(), spec: keySpec({ ttl: '8760h' }) },
      { title: 'a site', before: keySpec(), spec: keySpec({ siteRef: { name: 'shop-1' } }) },
      { title: 'another site', before: keySpec({ siteRef: { name: 'shop-1' } }), spec: keySpec({ siteRef: { name: 'shop-2' } }) },
      { title: 'no site any more', before: keySpec({ siteRef: { name: 'shop-1' } }), spec: keySpec() },
    ],
  },
  {
    kind: 'APIKey',
    variant: 'shipped',
    rule: 'a revoked APIKey stays revoked',
    accepted: [{ title: 'still revoked', before: keySpec({ revoked: true }), spec: keySpec({ revoked: true }) }],
    refused: [
      { title: 'given back', before: keySpec({ revoked: true }), spec: keySpec({ revoked: false }) },
      { title: 'left out', before: keySpec({ revoked: true }), spec: keySpec() },
    ],
  },
  durationRule(
    { kind: 'APIKey', variant: 'shipped', label: 'ttl', place: (ttl) => keySpec({ ttl }) },
    { shortest: '1m', longest: '8760h', tooShort: '59s', tooLong: '8760h1ms' },
  ),
];

const kernel = (fields: Spec): Spec => microvmSpec({ boot: { kernel: { path: '/srv/vmlinux', ...fields } } });
const disk = (fields: Spec): Spec => microvmSpec({ disks: [{ name: 'data', ...fields }] });
const pathDisk = (fields: Spec): Spec => disk({ path: '/srv/data.raw', ...fields });
const network = (fields: Spec): Spec => microvmSpec({ networks: [{ name: 'lan', ...fields }] });
const podTerms = (selector: unknown): readonly Spec[] => [{ labelSelector: selector, topologyKey: 'nkudo.dev/host' }];
const digest = `sha256:${'0'.repeat(64)}`;
/** A disk that the host makes. */
const blankDisk = (fields: Spec = {}): Spec => disk({ blank: {}, size: '1Gi', persistence: 'Persistent', ...fields });
const httpDisk = (fields: Spec = {}): Spec => disk({ http: { url: 'https://images.example/app.raw' }, digest, persistence: 'Persistent', ...fields });
const ociImage = 'registry.example:5000/team/app:1';
const ociDisk = (oci: Spec = {}, fields: Spec = {}): Spec => disk({ oci: { image: `${ociImage}@${digest}`, ...oci }, persistence: 'Persistent', ...fields });
const oneDiskSource = 'write exactly one of path, oci, http, blank and snapshot';
const needsPersistence = 'write persistence: Persistent or Ephemeral';
const diskReserved = (field: string): string => `reserved: disks[].${field}`;
const bound = { binding: { hostName: 'edge-1', epoch: 4294967297 } };

const probeNames = ['startup', 'readiness', 'liveness'] as const;
const natNetwork: Spec = { networks: [{ name: 'lan', nat: {} }] };
const probeCases: RuleCase[] = [
  ...probeNames.flatMap((name) => {
    const place = (fields: Spec): Spec => microvmSpec({ ...natNetwork, vsock: {}, probes: { [name]: { tcp: { port: 80 }, ...fields } } });
    const only = (action: Spec): Spec => microvmSpec({ ...natNetwork, vsock: {}, probes: { [name]: action } });
    const field = (of: string): FieldOfRules => ({ kind: 'MicroVM', variant: 'shipped', label: `probes.${name}.${of}`, place: (value) => place({ [of]: value }) });
    return [
      {
        kind: 'MicroVM' as const,
        variant: 'shipped' as const,
        rule: `write exactly one of tcp, http, console and vsock for probes.${name}`,
        accepted: [
          { title: 'tcp', spec: place({}) },
          { title: 'http', spec: only({ http: { port: 8080 } }) },
          { title: 'console', spec: only({ console: { contains: 'login:' } }) },
          { title: 'vsock', spec: only({ vsock: { port: 1024 } }) },
        ],
        refused: [
          { title: 'none', spec: only({}) },
          { title: 'two', spec: place({ http: { port: 80 } }) },
        ],
      },
      durationRule(field('initialDelay'), { shortest: '0s', longest: '1h', tooLong: '1h1s' }),
      durationRule(field('period'), { shortest: '1s', longest: '1h', tooShort: '999ms', tooLong: '1h1s' }),
      durationRule(field('timeout'), { shortest: '100ms', longest: '1m', tooShort: '99ms', tooLong: '61s' }),
    ];
  }),
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'a tcp or http probe needs an address of the guest that n-kudo knows',
    accepted: [
      { title: 'nat', spec: microvmSpec({ ...natNetwork, probes: { liveness: { tcp: { port: 80 } } } }) },
      { title: 'mesh', spec: microvmSpec({ networks: [{ name: 'lan', mesh: {} }], probes: { readiness: { http: { port: 80 } } } }) },
      { title: 'a bridge with an address', spec: microvmSpec({ networks: [{ name: 'lan', bridge: { name: 'br0' }, address: '10.0.0.5/24' }], probes: { startup: { tcp: { port: 80 } } } }) },
      { title: 'a console probe without networks', spec: microvmSpec({ probes: { startup: { console: { contains: 'login:' } } } }) },
    ],
    refused: [
      ...probeNames.map((name) => ({ title: `${name} without networks`, spec: microvmSpec({ probes: { [name]: { tcp: { port: 80 } } } }) })),
      ...probeNames.map((name) => ({ title: `${name} by http on a bridge without an address`, spec: microvmSpec({ networks: [{ name: 'lan', bridge: { name: 'br0' } }], probes: { [name]: { http: { port: 80 } } } }) })),
    ],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'a vsock probe needs the device',
    accepted: [{ title: 'with one', spec: microvmSpec({ vsock: {}, probes: { readiness: { vsock: { port: 1 } } } }) }, { title: 'without such a probe', spec: microvmSpec({ vsock: { cid: 3 } }) }],
    refused: probeNames.map((name) => ({ title: name, spec: microvmSpec({ probes: { [name]: { vsock: { port: 1024 } } } }) })),
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'a console probe reads the serial console',
    accepted: [
      { title: 'Log', spec: microvmSpec({ console: { serial: 'Log' }, probes: { readiness: { console: { contains: 'ready' } } } }) },
      { title: 'Interactive', spec: microvmSpec({ console: { serial: 'Interactive' }, probes: { readiness: { console: { contains: 'ready' } } } }) },
      { title: 'Off without such a probe', spec: microvmSpec({ console: { serial: 'Off' } }) },
    ],
    refused: probeNames.map((name) => ({ title: name, spec: microvmSpec({ console: { serial: 'Off' }, probes: { [name]: { console: { contains: 'ready' } } } }) })),
  },
];

/** Made by ssh-keygen for this test; nobody has the private halves. */
const publicKeys = [
  'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINUF5y1gEmjbWdDcQ+cH6DUVNtCGd3VsQ7LnEg6b18h1',
  'ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCLHYm90I/05tZQFTgTNUojj9OM7vKnOrTv3RcYUQDEnjCoLKgyln6Eo6LHip3thPHVnd332WPAQdNi3ZKUvmXBwXlisgAW6faSlj9qG0EISKuPnz9LniO3neKKIADkeb1ePvOxEYZok+TldTDMpOZjRbe0ZJICiNjrBLpEAbYxwKhPyKdHIabH9RkxIvoOtSKCEfxd5R9KtuKg39CphTZoBEs9PsLxHFAM4AkWojGXLAqNV+mNyTH54ML5PH16KveRHfjPVlumnMsZsbBwIN4Utj7N+WjIKf0osf2U3uSL4YxKTQhO3s7lgUrcvPFkkKrlzg9gVYH7kJ3fLoNxVIxl',
  'ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAACAQDrb24Z53RdQPOoJjlB2HnLdebsJeZ7CfOvz8z8epPoixtK2z/pcL0dvu77OnrQvw8b8pR9aR+j+lrkxEePMAyhsvl2EPprdxBQO93dcvKb5BWg7mD9y5BRBsi1jNMP36HmRdY/MNfZ/Qnz5/r5NJl8Iz7eZaen5g8IPG/+KrTUQcTbf5IacMsSfMcaRk+u3C7+o4Wxln8Aeatoj8LdWhC2iq/sCYGSZpjgtR2gTTA9cw/8sUeAsE6WehONJhCR8n0R8aGNSmqmUNn1Iv2UQ4KN4AxxGpaMg+yNA5L5DDaT1eiNYVSIErgnKTU6qORbHaN4oSO7CiINpoc7sTkBK5RbzWZGpt3h+8NA4qL+lojLhO7SQ1eVuDOvsqIwv30xZkCEz9yToLh6V2CKvq3eB1UH0I6ai68RYt6P5MulUIcMib6o62C9+PyPd1UCH7XN0oOz/UJHqSuxHDD/+xPglmxFkhZu8HkV1vMAppN3gnHQdk/doOKPRAY9sSmIuQakDH9vk6TObE0gaKQ8qpJ/2wDC1GtcyddtPZVf6ww96oJV8z6s2r8BipM+TroR1AIQ1yG6A2cN+oWC6vP3uFDwwsHiaEkSpMJNyVWxSb+vLYdxvvp1dx3xdVAxqjHsG6981/vMaRGbEn2hwAHYCYU/dUsERNBTm15k08cjLS1Q8sX70Q==',
  'ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBDrFq8qJ+HDsBKHNp3IRYWNhsr7J7NLLbzB4CZ2pniU+QiwXN//ZgDFbxqF4WLXIK9lkShPONlITRN16v/2DOZE=',
  'ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBI+ux9jD53fybivCgzNlMvvmTLVXC0kW6G8mSttX31u+EPZYMlmDiltF8IGlqwAAiviZBj0a1murvT6Bfb02+np2JGHI8aRVfQEqnp4k/+MeBc3RZwZXbCbupgx2sKGbng==',
  'ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAEdfWJynF+YaDAht26P3mxfNeach1WIHeu/2EWJ2mPSFLaZTzcFfN4xHG+hf0KjbtBPcAYca7TrN+yQjz0y0FKnrgDWnNKEahNTn8bKtVPHOu93z8+Z2CHKcS8On4qm4MiTPxQYzTtCHLAqPzLdZbJCbpfuQkcTaDXmpnMtDPY93+hD0A==',
  'sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIHQj3cpQFXqek2nk9dXufM/BwxO6umzZM4dbbYII+faaAAAABHNzaDo=',
  'sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBDWYmQfqipU6lHUqZBq95eXdNTkjGzn36zlbdD6GkMSpldMzI5sbgS4UwH3Oec/+gQX5EecLayq6zg7klaUbrkwAAAAEc3NoOg==',
];

const sshKey = (key: string): Spec => microvmSpec({ cloudInit: { sshAuthorizedKeys: [key] } });

const microvmCases: RuleCase[] = [
  nameRule('MicroVM'),
  // Reserved fields
  reserved('MicroVM', 'networks[].mesh.groups', network({ mesh: { groups: ['staff'] } }), { accepted: network({ mesh: {} }) }),
  reserved('MicroVM', 'disks[].snapshot', disk({ snapshot: { name: 'monday' } })),
  ...disconnectRules('MicroVM', microvmSpec),
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'a replacement on another host loses the local disks',
    accepted: [
      { title: 'without disks', spec: microvmSpec({ disconnect: { replace: true } }) },
      { title: 'a readOnly path disk', spec: { ...pathDisk({ readOnly: true }), disconnect: { replace: true } } },
      { title: 'Discard', spec: { ...pathDisk({}), disconnect: { replace: true, data: 'Discard' } } },
      { title: 'not replacing', spec: { ...pathDisk({}), disconnect: { replace: false } } },
    ],
    refused: [
      { title: 'a writable path disk', spec: { ...pathDisk({}), disconnect: { replace: true } } },
      { title: 'Keep', spec: { ...pathDisk({}), disconnect: { replace: true, data: 'Keep' } } },
    ],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'a replacement on another host loses the local disks',
    accepted: [{ title: 'an Ephemeral disk', spec: { ...blankDisk({ persistence: 'Ephemeral' }), disconnect: { replace: true } } }],
    refused: [{ title: 'a Persistent disk', spec: { ...blankDisk(), disconnect: { replace: true } } }],
  },
  // Sizes and identity
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write cpu.count, such as',
    accepted: [{ title: 'a class instead', spec: { ...without(microvmSpec(), 'cpu'), className: 'small' } }],
    refused: [{ title: 'neither', spec: without(microvmSpec(), 'cpu') }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write memory.size, such as',
    accepted: [{ title: 'a class instead', spec: { ...without(microvmSpec(), 'memory'), className: 'small' } }],
    refused: [{ title: 'neither', spec: without(microvmSpec(), 'memory') }],
  },
  ...quantityRules(
    { kind: 'MicroVM', variant: 'shipped', label: 'memory.size', place: (size) => microvmSpec({ memory: { size } }) },
    { smallest: '8Mi', largest: '4Ti', tooSmall: '7Mi', tooLarge: '5Ti', isPaged: true },
  ),
  ...quantityRules(
    { kind: 'MicroVM', variant: 'shipped', label: 'memory.max', place: (max) => microvmSpec({ memory: { size: '128Mi', max } }) },
    { smallest: '128Mi', largest: '4Ti', tooLarge: '5Ti', isPaged: true, alsoBelow: 'write memory.max no smaller than memory.size', isInBlocks: true, alsoUnpaged: 'write memory.max as memory.size and a multiple of 128Mi above it' },
  ),
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write memory.max no smaller than memory.size',
    accepted: [{ title: 'equal', spec: microvmSpec({ memory: { size: '1Gi', max: 1_073_741_824 } }) }],
    refused: [{ title: 'smaller', spec: microvmSpec({ memory: { size: '1Gi', max: '512Mi' } }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write memory.max as memory.size and a multiple of 128Mi above it',
    accepted: [
      { title: 'one block more', spec: microvmSpec({ memory: { size: '64Mi', max: '192Mi' } }) },
      { title: 'shared', spec: microvmSpec({ memory: { size: '512Mi', shared: true } }) },
    ],
    refused: [{ title: 'half a block', spec: microvmSpec({ memory: { size: '512Mi', max: '576Mi' } }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write memory.size as a multiple of memory.hugepages',
    accepted: [
      { title: '2Mi', spec: microvmSpec({ memory: { size: '66Mi', hugepages: '2Mi' } }) },
      { title: '1Gi', spec: microvmSpec({ memory: { size: '3Gi', hugepages: '1Gi' } }) },
    ],
    refused: [
      { title: '2Mi', spec: microvmSpec({ memory: { size: '65Mi', hugepages: '2Mi' } }) },
      { title: '1Gi', spec: microvmSpec({ memory: { size: '1536Mi', hugepages: '1Gi' } }) },
    ],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write memory.max as a multiple of memory.hugepages',
    accepted: [{ title: '1Gi', spec: microvmSpec({ memory: { size: '1Gi', max: '3Gi', hugepages: '1Gi' } }) }],
    refused: [{ title: '1Gi', spec: microvmSpec({ memory: { size: '1Gi', max: '1536Mi', hugepages: '1Gi' } }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write cpu.max no smaller than cpu.count',
    accepted: [{ title: 'equal', spec: microvmSpec({ cpu: { count: 2, max: 2 } }) }],
    refused: [{ title: 'smaller', spec: microvmSpec({ cpu: { count: 2, max: 1 } }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'remove disks[].bootIndex',
    accepted: [{ title: 'with firmware', spec: { ...pathDisk({ bootIndex: 0 }), boot: { firmware: { path: '/fw' } } } }],
    refused: [{ title: 'with a kernel', spec: pathDisk({ bootIndex: 0 }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'siteRef can not be changed',
    accepted: [{ title: 'another change', before: microvmSpec(), spec: microvmSpec({ restartNonce: 1 }) }],
    refused: [{ title: 'another site', before: microvmSpec(), spec: microvmSpec({ siteRef: { name: 'shop-2' } }) }],
  },
  // Placement
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'a bound microVM stays on its host',
    accepted: [
      { title: 'not bound yet', before: microvmSpec(), spec: microvmSpec({ placement: { hostName: 'edge-2' } }) },
      { title: 'the host it is on', before: microvmSpec(), statusBefore: bound, spec: microvmSpec({ placement: { hostName: 'edge-1' } }) },
      { title: 'no host any more', before: microvmSpec({ placement: { hostName: 'edge-1' } }), statusBefore: bound, spec: microvmSpec() },
      {
        title: 'another change, with a name that never held',
        before: microvmSpec({ placement: { hostName: 'edge-2' } }),
        statusBefore: bound,
        spec: microvmSpec({ placement: { hostName: 'edge-2' }, restartNonce: 1 }),
      },
    ],
    refused: [
      { title: 'another host', before: microvmSpec(), statusBefore: bound, spec: microvmSpec({ placement: { hostName: 'edge-2' } }) },
      {
        title: 'from its host to another',
        before: microvmSpec({ placement: { hostName: 'edge-1' } }),
        statusBefore: bound,
        spec: microvmSpec({ placement: { hostName: 'edge-2' } }),
      },
    ],
  },
  labelKeyRule('placement.hostSelector', (selector) => microvmSpec({ placement: { hostSelector: selector } })),
  labelKeyRule('placement.affinity.together[].labelSelector', (selector) => microvmSpec({ placement: { affinity: { together: podTerms(selector) } } })),
  labelKeyRule('placement.affinity.apart[].labelSelector', (selector) => microvmSpec({ placement: { affinity: { apart: podTerms(selector) } } })),
  labelKeyRule('placement.topologySpread[].labelSelector', (selector) =>
    microvmSpec({ placement: { topologySpread: [{ topologyKey: 'nkudo.dev/host', maxSkew: 1, labelSelector: selector }] } }),
  ),
  // Running
  durationRule(
    {
      kind: 'MicroVM',
      variant: 'shipped',
      label: 'restart.initialBackoff',
      place: (initialBackoff) => microvmSpec({ restart: { initialBackoff, maxBackoff: '24h' } }),
    },
    { shortest: '0s', longest: '1h', tooLong: '1h1s' },
  ),
  durationRule(
    {
      kind: 'MicroVM',
      variant: 'shipped',
      label: 'restart.maxBackoff',
      place: (maxBackoff) => microvmSpec({ restart: { initialBackoff: '0s', maxBackoff } }),
    },
    { shortest: '1s', longest: '24h', tooShort: '999ms', tooLong: '25h' },
  ),
  durationRule(
    { kind: 'MicroVM', variant: 'shipped', label: 'restart.window', place: (window) => microvmSpec({ restart: { window } }) },
    { shortest: '1s', longest: '168h', tooShort: '999ms', tooLong: '169h' },
  ),
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write restart.maxBackoff no shorter than restart.initialBackoff',
    accepted: [
      { title: 'equal', spec: microvmSpec({ restart: { initialBackoff: '1m', maxBackoff: '60s' } }) },
      { title: 'only the first', spec: microvmSpec({ restart: { initialBackoff: '5m' } }) },
    ],
    refused: [
      { title: 'shorter', spec: microvmSpec({ restart: { initialBackoff: '1m', maxBackoff: '59s' } }) },
      { title: 'shorter by the default', spec: microvmSpec({ restart: { initialBackoff: '6m' } }) },
    ],
  },
  durationRule(
    {
      kind: 'MicroVM',
      variant: 'shipped',
      label: 'terminationGracePeriod',
      place: (terminationGracePeriod) => microvmSpec({ terminationGracePeriod }),
    },
    { shortest: '0s', longest: '1h', tooLong: '1h1ms' },
  ),
  // Boot
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write exactly one of boot.kernel and boot.firmware',
    accepted: [
      { title: 'a kernel', spec: kernel({}) },
      { title: 'a firmware', spec: microvmSpec({ boot: { firmware: { path: '/srv/CLOUDHV.fd' } } }) },
    ],
    refused: [
      { title: 'neither', spec: microvmSpec({ boot: {} }) },
      { title: 'both', spec: microvmSpec({ boot: { kernel: { path: '/srv/vmlinux' }, firmware: { path: '/srv/CLOUDHV.fd' } } }) },
    ],
  },
  ...pathRules('MicroVM', 'boot.kernel.path', (path) => kernel({ path })),
  ...pathRules('MicroVM', 'boot.kernel.initramfs', (initramfs) => kernel({ initramfs })),
  ...pathRules('MicroVM', 'boot.firmware.path', (path) => microvmSpec({ boot: { firmware: { path } } })),
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write boot.kernel.cmdline as one line',
    accepted: samples((cmdline) => kernel({ cmdline }), ['', 'tick', 'console=ttyS0,115200 root=/dev/vda rw -- single', 'a'.repeat(2048)]),
    refused: samples((cmdline) => kernel({ cmdline }), ['--api-socket /tmp/x', ' tick', 'a\nb', 'a\tb', 'a\u0000b', 'größe']),
  },
  // Disks
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write an https URL together with disks[].http.secretRef',
    accepted: [
      { title: 'https', spec: httpDisk({ http: { url: 'https://images.example/app.raw', secretRef: { name: 'images' } } }) },
      { title: 'of a registry', spec: ociDisk({ pullSecretRef: { name: 'registry' } }) },
    ],
    refused: [{ title: 'http', spec: httpDisk({ http: { url: 'http://images.example/app.raw', secretRef: { name: 'images' } } }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write digest for an http disk',
    accepted: [{ title: 'an http disk with one', spec: httpDisk() }, { title: 'a blank disk without', spec: blankDisk() }],
    refused: [
      { title: 'an http disk without', spec: disk({ http: { url: 'https://images.example/app.raw' }, persistence: 'Ephemeral' }) },
      { title: 'a path disk with one', spec: pathDisk({ digest }) },
      { title: 'a blank disk with one', spec: blankDisk({ digest }) },
    ],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write the digest of an oci disk once',
    accepted: [
      { title: 'behind the image', spec: ociDisk() },
      { title: 'as digest', spec: ociDisk({ image: ociImage }, { digest }) },
      { title: 'of a short name', spec: ociDisk({ image: `alpine@${digest}` }) },
    ],
    refused: [
      { title: 'none', spec: ociDisk({ image: ociImage }) },
      { title: 'two', spec: ociDisk({}, { digest }) },
    ],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write size for an http, oci or blank disk only',
    accepted: [{ title: 'http', spec: httpDisk({ size: '10Gi' }) }, { title: 'oci', spec: ociDisk({}, { size: '10Gi' }) }, { title: 'blank', spec: blankDisk() }],
    refused: [{ title: 'path', spec: pathDisk({ size: '10Gi' }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: needsPersistence,
    accepted: [{ title: 'http', spec: httpDisk() }, { title: 'Ephemeral', spec: httpDisk({ persistence: 'Ephemeral' }) }, { title: 'a path disk without', spec: pathDisk({}) }],
    refused: [{ title: 'http without', spec: disk({ http: { url: 'https://images.example/app.raw' }, digest }) }, { title: 'path', spec: pathDisk({ persistence: 'Ephemeral' }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write deletePolicy for a Persistent disk only',
    accepted: [{ title: 'Retain', spec: blankDisk({ deletePolicy: 'Retain' }) }],
    refused: [{ title: 'Ephemeral', spec: blankDisk({ persistence: 'Ephemeral', deletePolicy: 'Retain' }) }, { title: 'path', spec: pathDisk({ deletePolicy: 'Retain' }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'digest of a Persistent disk can not be changed',
    accepted: [
      { title: 'the same', before: httpDisk(), spec: httpDisk({ size: '10Gi' }) },
      { title: 'of an Ephemeral one', before: httpDisk({ persistence: 'Ephemeral' }), spec: httpDisk({ persistence: 'Ephemeral', digest: `sha256:${'1'.repeat(64)}` }) },
      { title: 'the same of oci, written elsewhere', before: ociDisk(), spec: ociDisk({ image: 'mirror.example/app' }, { digest }) },
    ],
    refused: [
      { title: 'another', before: httpDisk(), spec: httpDisk({ digest: `sha256:${'1'.repeat(64)}` }) },
      { title: 'another of oci', before: ociDisk(), spec: ociDisk({ image: `${ociImage}@sha256:${'1'.repeat(64)}` }) },
    ],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: oneDiskSource,
    accepted: [{ title: 'a path', spec: pathDisk({}) }],
    refused: [
      { title: 'none', spec: disk({}) },
      { title: 'two', spec: pathDisk({ snapshot: { name: 'monday' } }), also: [diskReserved('snapshot')] },
    ],
  },
  ...pathRules('MicroVM', 'disks[].path', (path) => disk({ path })),
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write size for a blank disk',
    accepted: [{ title: 'with a size', spec: blankDisk({ size: '10Gi' }) }],
    refused: [{ title: 'without', spec: disk({ blank: {}, persistence: 'Persistent' }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'the kind of source of a disk can not be changed',
    accepted: [
      { title: 'another path', before: pathDisk({}), spec: pathDisk({ path: '/srv/other.raw' }) },
      { title: 'another disk', before: pathDisk({}), spec: microvmSpec({ disks: [{ name: 'other', blank: {}, size: '1Gi', persistence: 'Ephemeral' }] }) },
    ],
    refused: [{ title: 'from path to blank', before: pathDisk({}), spec: blankDisk({ persistence: 'Ephemeral' }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'persistence of a disk can not be changed',
    accepted: [{ title: 'the same', before: blankDisk(), spec: blankDisk({ size: '2Gi' }) }],
    refused: [
      {
        title: 'to Ephemeral',
        before: blankDisk(),
        spec: blankDisk({ persistence: 'Ephemeral' }),
      },
      { title: 'removed', before: blankDisk(), spec: disk({ blank: {}, size: '1Gi' }), also: [needsPersistence] },
    ],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'size of a disk can only grow',
    accepted: [
      { title: 'larger', before: blankDisk(), spec: blankDisk({ size: '2Gi' }) },
      { title: 'the same in other words', before: blankDisk(), spec: blankDisk({ size: 1_073_741_824 }) },
    ],
    refused: [{ title: 'smaller', before: blankDisk(), spec: blankDisk({ size: '1023Mi' }) }],
  },
  ...quantityRules(
    { kind: 'MicroVM', variant: 'shipped', label: 'disks[].size', place: (size) => blankDisk({ size }) },
    { smallest: '1Mi', largest: '64Ti', tooSmall: '1023Ki', tooLarge: '65Ti' },
  ),
  ...quantityRules(
    {
      kind: 'MicroVM',
      variant: 'shipped',
      label: 'disks[].rateLimit.bandwidth',
      place: (bandwidth) => pathDisk({ rateLimit: { bandwidth } }),
    },
    { smallest: '16Ki', largest: '100Gi', tooSmall: '15Ki', tooLarge: '101Gi' },
  ),
  // Networks
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write exactly one of nat, bridge, macvtap and mesh',
    accepted: [
      { title: 'nat', spec: network({ nat: {} }) },
      { title: 'bridge', spec: network({ bridge: { name: 'br0' } }) },
      { title: 'mesh', spec: network({ mesh: {} }) },
    ],
    refused: [
      { title: 'none', spec: network({}) },
      { title: 'two', spec: network({ nat: {}, mesh: {} }) },
    ],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'remove ports, or connect the network with nat',
    accepted: [{ title: 'with nat', spec: network({ nat: {}, ports: [{ name: 'web', guestPort: 80 }] }) }],
    refused: [{ title: 'with bridge', spec: network({ bridge: { name: 'br0' }, ports: [{ name: 'web', guestPort: 80 }] }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write every hostPort of a network once',
    accepted: [
      {
        title: 'one port in two protocols, two without',
        spec: network({
          nat: {},
          ports: [
            { name: 'a', hostPort: 53, guestPort: 53 },
            { name: 'b', hostPort: 53, guestPort: 53, protocol: 'UDP' },
            { name: 'c', guestPort: 80 },
            { name: 'd', guestPort: 80 },
          ],
        }),
      },
      {
        title: '8 networks with 32 ports each',
        spec: microvmSpec({
          networks: Array.from({ length: 8 }, (_, index) => ({
            name: `n${index}`,
            nat: {},
            ports: Array.from({ length: 32 }, (_unused, port) => ({ name: `p${port}`, hostPort: 1000 + port, guestPort: 80 })),
          })),
        }),
      },
    ],
    refused: [
      {
        title: 'twice',
        spec: network({
          nat: {},
          ports: [
            { name: 'a', hostPort: 8080, guestPort: 80 },
            { name: 'b', hostPort: 8080, guestPort: 81 },
          ],
        }),
      },
    ],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write networks[].mac as a unicast address',
    accepted: samples((mac) => network({ nat: {}, mac }), ['52:54:00:12:34:56']),
    refused: samples((mac) => network({ nat: {}, mac }), ['53:54:00:12:34:56', '52-54-00-12-34-56', '52:54:00:12:34', '52:54:00:AB:34:56']),
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write networks[].address as an IPv4 address with its prefix length',
    accepted: samples((address) => network({ nat: {}, address }), ['10.0.0.5/24', '192.168.7.9/32']),
    refused: samples((address) => network({ nat: {}, address }), ['10.0.0.5', '10.0.0.256/24', 'dhcp', 'fd00::5/64']),
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write only one of cloudInit.userData and cloudInit.userDataSecretRef',
    accepted: [
      { title: 'inline', spec: microvmSpec({ cloudInit: { userData: '#cloud-config' } }) },
      { title: 'from a Secret', spec: microvmSpec({ cloudInit: { userDataSecretRef: { name: 'init', key: 'user-data' } } }) },
    ],
    refused: [{ title: 'both', spec: microvmSpec({ cloudInit: { userData: '#cloud-config', userDataSecretRef: { name: 'init', key: 'user-data' } } }) }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'this is a private key; write the public one',
    accepted: [{ title: 'a public key', spec: sshKey(publicKeys[0] ?? '') }],
    refused: [{ title: 'a private key', spec: sshKey('-----BEGIN OPENSSH PRIVATE KEY-----') }],
  },
  {
    kind: 'MicroVM',
    variant: 'shipped',
    rule: 'write one line of an authorized_keys file without options',
    accepted: [
      ...publicKeys.map((key) => ({ title: key.slice(0, 40), spec: sshKey(key) })),
      { title: 'a key with a name of several words', spec: sshKey(`${publicKeys[0] ?? ''} ada at work`) },
      { title: 'many', spec: microvmSpec({ cloudInit: { sshAuthorizedKeys: Array.from({ length: 32 }, (_unused, index) => `${publicKeys[0] ?? ''} n${index}`) } }) },
    ],
    refused: [
      ['a word', 'key'],
      ['two lines', `${publicKeys[0] ?? ''}\n${publicKeys[1] ?? ''}`],
      ['options', `no-pty ${publicKeys[0] ?? ''}`],
      ['the type of another key', (publicKeys[0] ?? '').replace('ssh-ed25519', 'ssh-rsa')],
      ['half a key', (publicKeys[0] ?? '').slice(0, 60)],
      ['a key that is too long', `${publicKeys[0] ?? ''}A`],
      ['letters that base64 has not', (publicKeys[0] ?? '').slice(0, -1) + '!'],
    ].map(([title = '', key = '']) => ({ title, spec: sshKey(key) })),
  },
  ...probeCases,
];

export const ruleCases: readonly RuleCase[] = [...siteCases, ...hostCases, ...microvmCases, ...tokenCases, ...keyCases];
