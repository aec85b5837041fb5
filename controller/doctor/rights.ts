/**
 * What the controller must be allowed to do in Kubernetes, as data: `doctor` asks for each, the chart's role and the
 * identity in tests are made of it, and test/e2e/rights.test.ts finds what nobody uses.
 */

interface Rule {
  readonly group: string;
  readonly resource: string;
  readonly subresource?: string;
  readonly verbs: readonly string[];
  /** Only in the controller's own namespace. */
  readonly isOwnNamespace?: true;
}

const own = { group: 'nkudo.dev' } as const;

/** `get` of a kind with a status is for the read after a write that met another one: runtime/status-patch.ts. */
export const neededRights: readonly Rule[] = [
  { ...own, resource: 'sites', verbs: ['get', 'list', 'watch', 'patch'] },
  // A Site that is deleted by force takes its hosts along.
  { ...own, resource: 'hosts', verbs: ['get', 'list', 'watch', 'create', 'patch', 'delete'] },
  // Plans of tenants make, change and delete them.
  { ...own, resource: 'microvms', verbs: ['get', 'list', 'watch', 'create', 'patch', 'delete'] },
  { ...own, resource: 'enrollmenttokens', verbs: ['get', 'list', 'watch', 'patch'] },
  { ...own, resource: 'apikeys', verbs: ['get', 'list', 'watch', 'patch'] },
  { ...own, resource: 'microvmsets', verbs: ['get', 'list', 'watch', 'patch'] },
  { ...own, resource: 'agentrollouts', verbs: ['get', 'list', 'watch', 'patch'] },
  { ...own, resource: 'microvmclasses', verbs: ['list', 'watch'] },
  ...['sites', 'hosts', 'microvms', 'enrollmenttokens', 'apikeys', 'microvmsets', 'agentrollouts'].map((resource): Rule => ({ ...own, resource, subresource: 'status', verbs: ['patch'] })),
  { group: '', resource: 'namespaces', verbs: ['get'] },
  // Tokens and keys are written once; mesh accounts and Secrets for guests are read, and the latter's names and versions followed.
  { group: '', resource: 'secrets', verbs: ['get', 'list', 'watch', 'create', 'delete'] },
  // The command that rotates the hosts' authority.
  { group: '', resource: 'secrets', verbs: ['patch'], isOwnNamespace: true },
  { group: 'events.k8s.io', resource: 'events', verbs: ['create'] },
  { group: 'authentication.k8s.io', resource: 'tokenreviews', verbs: ['create'] },
  { group: 'authorization.k8s.io', resource: 'subjectaccessreviews', verbs: ['create'] },
  { group: 'apiextensions.k8s.io', resource: 'customresourcedefinitions', verbs: ['get'] },
  { group: 'coordination.k8s.io', resource: 'leases', verbs: ['get', 'create', 'patch'], isOwnNamespace: true },
  { group: '', resource: 'configmaps', verbs: ['get', 'create', 'patch'], isOwnNamespace: true },
];
