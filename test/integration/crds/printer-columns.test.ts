/**
 * What `kubectl get` shows of each kind, with a status as the controller writes it.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { useCrdServer, type CrdServer, type Spec } from './api-server.ts';
import type { Kind } from './crd-source.ts';
import { baseSpecs } from './rule-cases.ts';

const time = '2026-01-02T03:04:05Z';
const ready = (reason: string): Spec => ({ type: 'Ready', status: 'True', lastTransitionTime: time, reason, message: 'as it should be' });

interface Shown {
  readonly kind: Kind;
  readonly status: Spec;
  readonly header: string;
  /** The line of the object without its last column, Age. */
  readonly line: string;
}

const shown: readonly Shown[] = [
  {
    kind: 'Site',
    status: {
      connectivity: 'Online',
      hosts: { total: 3, ready: 2, pending: 1, unreachable: 0 },
      microvms: { total: 7, running: 6, unknown: 0 },
      conditions: [ready('HostsReady')],
    },
    header: 'NAME READY CONNECTIVITY HOSTS HOSTS READY MICROVMS RUNNING AGE',
    line: 'shown True Online 3 2 7 6',
  },
  {
    kind: 'Host',
    status: {
      phase: 'Ready',
      capacity: { cpus: 4, memory: '16Gi' },
      allocatable: { cpus: 64, memory: '15Gi', microvms: 100 },
      allocated: { cpus: 1, memory: '512Mi', microvms: 2 },
      hypervisor: { kind: 'cloud-hypervisor', version: '54.0.0' },
      agentVersion: '0.1.0',
      conditions: [ready('HostConnected')],
    },
    header: 'NAME STATUS READY SITE CPUS MEMORY VMS HYPERVISOR AGENT SEEN AGE',
    line: 'shown Ready True shop-1 4 15Gi 2 cloud-hypervisor 0.1.0',
  },
  {
    kind: 'MicroVM',
    status: {
      printableStatus: 'Running',
      binding: { hostName: 'edge-1', epoch: 4294967297 },
      addresses: [{ network: 'lan', address: '10.0.0.5' }],
      restarts: { count: 2 },
      conditions: [ready('NoProbe')],
    },
    header: 'NAME STATUS READY SITE HOST IP RESTARTS SEEN AGE',
    line: 'shown Running True shop-1 edge-1 10.0.0.5 2',
  },
  {
    kind: 'EnrollmentToken',
    status: { printableStatus: 'Used', secretName: 'edge-1-token', usedBy: 'edge-1', conditions: [{ ...ready('TokenUsed'), status: 'False' }] },
    header: 'NAME STATUS READY SITE SECRET USED BY AGE',
    line: 'shown Used False shop-1 edge-1-token edge-1',
  },
  {
    kind: 'APIKey',
    status: { printableStatus: 'Active', secretName: 'shown-key', expiresAt: time, conditions: [ready('SecretWritten')] },
    header: 'NAME STATUS ROLE SITE SECRET EXPIRES LAST USED AGE',
    line: `shown Active read shown-key ${time}`,
  },
  { kind: 'MicroVMClass', status: {}, header: 'NAME CPUS MEMORY AGE', line: 'shown 1 512Mi' },
  { kind: 'MicroVMSet', status: { desiredReplicas: 3, replicas: 3, updatedReplicas: 2, readyReplicas: 1 }, header: 'NAME MODE DESIRED CURRENT UPDATED READY AGE', line: 'shown Replicas 3 3 2 1' },
  { kind: 'AgentRollout', status: { phase: 'Progressing', ring: 'all', hosts: 5, updated: 2, failed: 1 }, header: 'NAME VERSION STATUS RING HOSTS UPDATED FAILED AGE', line: 'shown 0.4.1 Progressing all 5 2 1' },
];

let server: CrdServer;
beforeAll(async () => {
  server = await useCrdServer({ withUnlocked: false });
  for (const { kind, status } of shown) {
    const body = { apiVersion: 'nkudo.dev/v1alpha1', kind, metadata: { name: 'shown' }, spec: baseSpecs[kind] };
    await server.client.request('POST', server.collection(kind), body);
    const merge = await server.client.request('PATCH', `${server.collection(kind)}/shown/status`, { status }, 'application/merge-patch+json');
    expect(merge.status).toBe(200);
  }
});

const get = async (...args: readonly string[]): Promise<string[][]> => {
  const { stdout } = await server.kubectl(['get', ...args], { namespace: server.namespace });
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.trim().split(/\s+/));
};

describe('kubectl get', () => {
  it.each(shown)('shows the columns of $kind', async ({ kind, header, line }) => {
    const [headerWords, lineWords] = await get(kind.toLowerCase());
    expect(headerWords?.join(' ')).toBe(header);
    expect(lineWords?.slice(0, -1).join(' ')).toBe(line);
  });

  it.each([
    ['nksite', 'site'],
    ['nkhost', 'host'],
    ['mvm', 'microvm'],
    ['nktoken', 'enrollmenttoken'],
    ['nkkey', 'apikey'],
    ['mvmclass', 'microvmclass'],
    ['mvmset', 'microvmset'],
    ['nkrollout', 'agentrollout'],
  ])('knows %s as the short name of %s', async (shortName, singular) => {
    expect((await get(shortName, '--output=name')).flat()).toEqual([`${singular}.nkudo.dev/shown`]);
  });

  it('lists every kind by the category nkudo', async () => {
    const names = (await get('nkudo', '--output=name')).flat();
    expect(names.toSorted()).toEqual(['agentrollout.nkudo.dev/shown', 'apikey.nkudo.dev/shown', 'enrollmenttoken.nkudo.dev/shown', 'host.nkudo.dev/shown', 'microvm.nkudo.dev/shown', 'microvmclass.nkudo.dev/shown', 'microvmset.nkudo.dev/shown', 'site.nkudo.dev/shown']);
  });

  it('shows the reason with --output=wide', async () => {
    const [header, line] = await get('mvm', '--output=wide');
    expect(header).toContain('REASON');
    expect(line).toContain('NoProbe');
  });

  it('shows when a silent host was last heard', async () => {
    const path = `${server.collection('MicroVM')}/shown/status`;
    await server.client.request('PATCH', path, { status: { lastObservedTime: time } }, 'application/merge-patch+json');
    const { stdout } = await server.kubectl(['get', 'mvm', 'shown', '--output=jsonpath={.status.lastObservedTime}'], { namespace: server.namespace });
    expect(stdout).toBe(time);
    const [, line] = await get('mvm', 'shown');
    expect(line?.at(-2)).toMatch(/^[0-9]+[a-z0-9]*$/);
  });

  it('selects microVMs by their site on the server', async () => {
    expect(await get('mvm', '--field-selector=spec.siteRef.name=shop-1', '--output=name')).toHaveLength(1);
    expect(await get('mvm', '--field-selector=spec.siteRef.name=shop-2', '--output=name')).toHaveLength(0);
  });

  it('explains a field with its description', async () => {
    const { stdout } = await server.kubectl(['explain', 'microvm.spec.runPolicy']);
    expect(stdout).toContain('RerunOnFailure');
  });
});
