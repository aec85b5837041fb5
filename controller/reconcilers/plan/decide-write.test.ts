/** What a plan does to the object that it finds: never an upsert, never a stranger's object, nothing twice. */
import { describe, expect, it } from 'vitest';
import { microVMId } from '#api/model/ids.ts';
import type { MicroVM } from '#crds/gen/microvm.ts';
import { decideWrite, describeWinner, expectedSpec, planAnnotation, runPolicyManagers, type WriteInput } from './decide-write.ts';
import { hashSpec } from './spec-hash.ts';

const uid = '0b0e7a52-4b8e-4d5e-9c51-0f4d8f3f4a01';
const planId = '1b0e7a52-4b8e-4d5e-9c51-0f4d8f3f4a02';

function live(changes: { readonly runPolicy?: MicroVM['spec']['runPolicy']; readonly uid?: string; readonly plan?: string; readonly isDeleting?: boolean; readonly managedFields?: readonly object[] } = {}): MicroVM {
  return {
    apiVersion: 'nkudo.dev/v1alpha1',
    kind: 'MicroVM',
    metadata: {
      name: 'web', namespace: 'shop', uid: changes.uid ?? uid, resourceVersion: '7', generation: 2, creationTimestamp: '2026-01-01T00:00:00Z',
      ...(changes.plan === undefined ? {} : { annotations: { [planAnnotation]: changes.plan } }),
      ...(changes.isDeleting === true ? { deletionTimestamp: '2026-01-01T00:00:00Z' } : {}),
      ...(changes.managedFields === undefined ? {} : { managedFields: changes.managedFields }),
    },
    spec: { siteRef: { name: 'shop-1' }, runPolicy: changes.runPolicy ?? 'Always' },
  } as unknown as MicroVM; // The fields that decide.
}

function input(kind: 'Create' | 'Start' | 'Stop' | 'Delete', changes: Partial<WriteInput> = {}): WriteInput {
  const action = { kind, name: 'web', uid: kind === 'Create' ? null : microVMId(uid), object: kind === 'Create' ? { spec: {}, metadata: { labels: { a: 'b' } } } : null };
  return { planId, namespace: 'shop', siteName: 'shop-1', action, live: live(), attempted: null, hash: hashSpec, restoredRunPolicy: null, ...changes };
}

describe('a create', () => {
  it('makes the object with the plan on it when the name is free', () => {
    expect(decideWrite(input('Create', { live: null }))).toEqual({
      write: 'create', body: { spec: {}, metadata: { labels: { a: 'b' }, name: 'web', namespace: 'shop', annotations: { [planAnnotation]: planId } } },
    });
  });

  it('is done when the object carries this plan, and fails on every other object', () => {
    const mine = live({ plan: planId });
    expect(decideWrite(input('Create', { live: mine, attempted: { specHash: null } }))).toEqual({ write: 'none', written: mine });
    for (const other of [live(), live({ plan: uid })]) expect(decideWrite(input('Create', { live: other }))).toMatchObject({ write: 'none', end: { code: 'ALREADY_EXISTS' } });
  });
});

describe('start, stop and delete', () => {
  it.each(['Start', 'Stop', 'Delete'] as const)('%s never makes an object, touches one of another UID, or one of another site', (kind) => {
    expect(decideWrite(input(kind, { live: null }))).toMatchObject({ write: 'none', end: { code: 'NOT_FOUND' } });
    expect(decideWrite(input(kind, { live: live({ uid: planId }) }))).toMatchObject({ write: 'none', end: { code: 'NOT_FOUND' } });
    expect(decideWrite(input(kind, { siteName: 'shop-2' }))).toMatchObject({ write: 'none', end: { code: 'INVALID_REQUEST' } });
  });

  it('changes the run policy alone, and nothing when it is so already', () => {
    const stop = decideWrite(input('Stop'));
    expect(stop).toMatchObject({ write: 'power', runPolicy: 'Halted' });
    expect(expectedSpec(stop)).toEqual({ siteRef: { name: 'shop-1' }, runPolicy: 'Halted' });
    expect(decideWrite(input('Stop', { live: live({ runPolicy: 'Halted' }) }))).toEqual({ write: 'none', end: null });
    expect(decideWrite(input('Start'))).toEqual({ write: 'none', end: null });
  });

  it('puts back on start what a stop took away', () => {
    const halted = live({ runPolicy: 'Halted' });
    expect(decideWrite(input('Start', { live: halted }))).toMatchObject({ runPolicy: 'Always' });
    expect(decideWrite(input('Start', { live: halted, restoredRunPolicy: 'RerunOnFailure' }))).toMatchObject({ runPolicy: 'RerunOnFailure' });
    expect(decideWrite(input('Start', { live: halted, restoredRunPolicy: 'Once' }))).toMatchObject({ end: { code: 'INVALID_REQUEST' } });
    expect(decideWrite(input('Start', { live: live({ runPolicy: 'Manual' }) }))).toMatchObject({ end: { code: 'INVALID_REQUEST' } });
  });

  it('finds by the spec that an attempt of unknown outcome was made', () => {
    const halted = live({ runPolicy: 'Halted' });
    expect(decideWrite(input('Stop', { live: halted, attempted: { specHash: hashSpec(halted.spec) } }))).toEqual({ write: 'none', written: halted });
    // Not made: it is made now.
    expect(decideWrite(input('Stop', { attempted: { specHash: hashSpec(halted.spec) } }))).toMatchObject({ write: 'power' });
  });

  it('deletes once: what is gone after an intent was ours, what is being deleted needs nothing', () => {
    expect(decideWrite(input('Delete'))).toMatchObject({ write: 'delete' });
    expect(decideWrite(input('Delete', { live: null, attempted: { specHash: null } }))).toEqual({ write: 'none', end: null });
    const deleting = live({ isDeleting: true });
    expect(decideWrite(input('Delete', { live: deleting }))).toEqual({ write: 'none', end: null });
    expect(decideWrite(input('Delete', { live: deleting, attempted: { specHash: null } }))).toEqual({ write: 'none', written: deleting });
    expect(decideWrite(input('Stop', { live: deleting }))).toMatchObject({ end: { code: 'CONFLICT' } });
  });
});

describe('field managers', () => {
  const entry = (manager: string, time: string, spec: object = { 'f:runPolicy': {} }): object => ({ manager, time, operation: 'Update', fieldsV1: { 'f:spec': spec } });

  it('are named when they own the run policy and are not plans', () => {
    const object = live({ managedFields: [entry('flux', '2026-01-01T00:00:00Z'), entry('nkudo-plan', '2026-01-01T00:00:01Z'), entry('kubectl', '2026-01-01T00:00:02Z', { 'f:memory': {} })] });
    expect(runPolicyManagers(object)).toEqual(['flux']);
  });

  it('are none when kubectl apply was given no run policy and only has the default', () => {
    const applied = (spec: object): MicroVM => {
      const object = live({ managedFields: [entry('kubectl-client-side-apply', '2026-01-01T00:00:00Z')] });
      return { ...object, metadata: { ...object.metadata, annotations: { 'kubectl.kubernetes.io/last-applied-configuration': JSON.stringify({ spec }) } } };
    };
    expect(runPolicyManagers(applied({ memory: { size: '64Mi' } }))).toEqual([]);
    expect(runPolicyManagers(applied({ runPolicy: 'Always' }))).toEqual(['kubectl-client-side-apply']);
    expect(runPolicyManagers(live({ managedFields: [entry('kubectl-client-side-apply', '2026-01-01T00:00:00Z')] }))).toEqual(['kubectl-client-side-apply']);
  });

  it('win by time, and over a plan within one second', () => {
    expect(describeWinner(live({ managedFields: [entry('flux', '2026-01-01T00:00:01Z'), entry('nkudo-plan', '2026-01-01T00:00:01Z')] }))).toContain('written by the field manager flux');
    expect(describeWinner(live({ managedFields: [entry('flux', '2026-01-01T00:00:01Z'), entry('nkudo-plan-power', '2026-01-01T00:00:02Z')] }))).toContain('written by another plan');
    expect(describeWinner(live())).toContain('written by the field manager unknown');
  });
});
