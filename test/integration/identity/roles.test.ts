/**
 * The ClusterRoles for people against the table of rights, and on a real API server: who has view, edit or admin in a
 * namespace has the rights of read, operate and admin there, and no more.
 */
import { readFileSync } from 'node:fs';
import { parseAllDocuments } from 'yaml';
import { beforeAll, describe, expect, it } from 'vitest';
import { keyRoles, roleAllows, roleRights, type ResourceRight } from '#controller/fleet-api/rights.ts';
import { loadConnection } from '#controller/adapters/kubernetes/connection.ts';
import { createKubernetesReviews } from '#controller/adapters/kubernetes/reviews.ts';
import { useKubernetes, type TestKubernetes } from '#test/harness/kubernetes.ts';

interface ClusterRole {
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly rules: readonly { readonly resources: readonly string[]; readonly verbs: readonly string[] }[];
}

const file = new URL('../../../crds/rbac/roles.yaml', import.meta.url);
const roles = parseAllDocuments(readFileSync(file, 'utf8')).map((document) => document.toJS() as ClusterRole); // A committed file; the API server judges it below.
const roleOf = { read: 'nkudo-viewer', operate: 'nkudo-operator', admin: 'nkudo-admin' } as const;
const clusterRoleOf = { read: 'view', operate: 'edit', admin: 'admin' } as const;

const grants = (role: ClusterRole, right: ResourceRight): boolean => {
  const resource = right.subresource === undefined ? right.resource : `${right.resource}/${right.subresource}`;
  return role.rules.some(({ resources, verbs }) => resources.includes(resource) && verbs.includes(right.verb));
};
const every: readonly ResourceRight[] = keyRoles.flatMap((role) => roleRights[role]);

let kubernetes: TestKubernetes;
let namespace: string;
beforeAll(async () => {
  kubernetes = await useKubernetes();
  namespace = await kubernetes.createNamespace('roles');
  await kubernetes.kubectl(['apply', '-f', file.pathname]);
});

describe('the ClusterRoles', () => {
  it('give each role what the table of rights gives it, and nothing that the table gives to a higher one', () => {
    for (const role of keyRoles) {
      const mine = roles.find(({ metadata }) => metadata.name === roleOf[role]);
      if (mine === undefined) throw new Error(`there is no ${roleOf[role]}`);
      expect(roleRights[role].filter((right) => !grants(mine, right)), `missing in ${roleOf[role]}`).toEqual([]);
      expect(every.filter((right) => grants(mine, right) && !roleAllows(role, right)), `too much in ${roleOf[role]}`).toEqual([]);
      // What is added to view is in edit and admin too, and so on.
      const added = (['view', 'edit', 'admin'] as const).filter((name) => mine.metadata.labels[`rbac.authorization.k8s.io/aggregate-to-${name}`] === 'true');
      expect(added).toEqual((['view', 'edit', 'admin'] as const).slice(keyRoles.indexOf(role)));
    }
  });

  // A cluster adds them to view, edit and admin by its controller manager, which does not run beside this API server.
  it.each(keyRoles)('are honoured by the API server for %s', async (role) => {
    const held = keyRoles.slice(0, keyRoles.indexOf(role) + 1);
    const user = { username: `person-${role}`, uid: '', groups: [], extra: {} };
    for (const each of held) await kubernetes.kubectl(['create', 'rolebinding', `${clusterRoleOf[role]}-${each}`, `--clusterrole=${roleOf[each]}`, `--user=${user.username}`], { namespace });
    const reviews = createKubernetesReviews(loadConnection(kubernetes.access.kubeconfig));
    const differing = async (): Promise<readonly ResourceRight[]> => {
      const answers = await Promise.all(every.map(async (right) => ({ right, isAllowed: await reviews.reviewAccess(user, namespace, right) })));
      return answers.filter(({ right, isAllowed }) => isAllowed !== roleAllows(role, right)).map(({ right }) => right);
    };
    // The authorizer takes a new binding up a moment later.
    await expect.poll(differing, { timeout: 30_000 }).toEqual([]);
  });
});
