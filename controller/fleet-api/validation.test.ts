/** Every rule of every request: what is right passes, what is wrong is named, and all of it at once. */
import { describe, expect, it } from 'vitest';
import { PlanAction_Kind, type ApplyPlanRequest, type PlanAction } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { isAppError } from '#api/model/error-codes.ts';
import { applyPlanRules, getStatusRules, listExecutionsRules, tailLogsRules, validate, type Rule } from './validation.ts';

const uid = '0b0e7a52-4b8e-4d5e-9c51-0f4d8f3f4a01';
const object = { apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name: 'web' }, spec: { siteRef: { name: 'shop-1' } } };
const create = (changes: object = {}): PlanAction => ({ kind: PlanAction_Kind.CREATE, name: 'web', uid: '', objectJson: JSON.stringify({ ...object, ...changes }) });
const stops = (count: number): PlanAction[] => Array.from({ length: count }, (_unused, index) => ({ kind: PlanAction_Kind.STOP, name: `vm-${index}`, uid, objectJson: '' }));
const plan = (changes: Partial<ApplyPlanRequest> = {}): ApplyPlanRequest => ({ namespace: 'shop', site: 'shop-1', idempotencyKey: 'one', actions: [create()], dryRun: false, force: false, ...changes });

function refused<Request>(rules: readonly Rule<Request>[], request: Request): string {
  try {
    validate(rules, request);
    return '';
  } catch (error) {
    if (!isAppError(error) || error.code !== 'INVALID_REQUEST') throw error;
    return String(error.details['fields']);
  }
}

describe('ApplyPlan', () => {
  it('takes a plan of every kind', () => {
    const others = [PlanAction_Kind.START, PlanAction_Kind.STOP, PlanAction_Kind.DELETE].map((kind, index) => ({ kind, name: `vm-${index}`, uid, objectJson: '' }));
    expect(refused(applyPlanRules, plan({ actions: [create(), ...others] }))).toBe('');
    expect(refused(applyPlanRules, plan({ dryRun: true, idempotencyKey: '' }))).toBe('');
  });

  it.each([
    ['namespace', { namespace: '' }], ['namespace', { namespace: 'a'.repeat(64) }], ['namespace', { namespace: 'a.b' }],
    ['site', { site: '', actions: stops(1) }], ['site', { site: 'Shop', actions: stops(1) }], ['site', { site: 'a'.repeat(254), actions: stops(1) }],
    ['idempotency_key', { idempotencyKey: '' }], ['idempotency_key', { idempotencyKey: 'a'.repeat(129) }], ['idempotency_key', { idempotencyKey: 'a b' }],
    ['idempotency_key', { idempotencyKey: 'cr/1' }], ['idempotency_key', { idempotencyKey: 'é' }], ['idempotency_key', { dryRun: true }],
    ['actions', { actions: [] }], ['actions', { actions: [create(), create()] }],
    ['actions', { actions: stops(257) }],
    ['actions[0].kind', { actions: [{ ...create(), kind: PlanAction_Kind.UNSPECIFIED, uid, objectJson: '' }] }],
    ['actions[0].kind', { actions: [{ kind: 9 as PlanAction_Kind, name: 'web', uid, objectJson: '' }] }], // A number that no version of the contract has.
    ['actions[0].name', { actions: [{ kind: PlanAction_Kind.STOP, name: '-web', uid, objectJson: '' }] }],
    ['actions[0].uid', { actions: [{ ...create(), uid }] }], ['actions[0].uid', { actions: [{ kind: PlanAction_Kind.STOP, name: 'web', uid: '', objectJson: '' }] }],
    ['actions[0].uid', { actions: [{ kind: PlanAction_Kind.DELETE, name: 'web', uid: uid.toUpperCase(), objectJson: '' }] }],
    ['actions[0].object_json', { actions: [{ kind: PlanAction_Kind.STOP, name: 'web', uid, objectJson: '{}' }] }],
    ['actions[0].object_json', { actions: [{ ...create(), objectJson: '{' }] }], ['actions[0].object_json', { actions: [{ ...create(), objectJson: '[]' }] }],
    ['actions[0].object_json', { actions: [create({ spec: { ...object.spec, x: 'é'.repeat(40_000) } })] }],
    ['actions[0].object_json', { actions: [create({ kind: 'Site' })] }], ['actions[0].object_json', { actions: [create({ status: {} })] }],
    ['actions[0].object_json', { actions: [create({ metadata: { name: 'other' } })] }], ['actions[0].object_json', { actions: [create({ metadata: { namespace: 'other' } })] }],
    ['actions[0].object_json', { actions: [create({ metadata: { finalizers: ['x/y'] } })] }], ['actions[0].object_json', { actions: [create({ metadata: { annotations: { 'nkudo.dev/plan': uid } } })] }],
    ['actions[0].object_json', { actions: [create({ spec: { siteRef: { name: 'shop-2' } } })] }], ['actions[0].object_json', { actions: [create({ spec: undefined })] }],
  ] as const)('names %s when it is wrong, case %#', (name, changes) => {
    expect(refused(applyPlanRules, plan(changes as Partial<ApplyPlanRequest>))).toBe(name); // The table's tuples are readonly.
  });

  it('names all wrong fields in one answer', () => {
    expect(refused(applyPlanRules, plan({ namespace: '', site: '', idempotencyKey: '', actions: [create({ kind: 'Pod' }), { kind: 0, name: '', uid: 'x', objectJson: 'y' }] }))).toBe(
      'namespace,site,idempotency_key,actions[0].object_json,actions[1].kind,actions[1].name,actions[1].uid,actions[1].object_json',
    );
  });
});

const everyExecution = { namespace: 'shop', site: '', microvmUid: '', operationId: '', planId: '', host: '', status: '', startedFrom: undefined, startedBefore: undefined, pageSize: 0, pageToken: '' };

describe('the reading calls', () => {
  it('name all wrong fields as well', () => {
    expect(refused(getStatusRules, { namespace: 'X', site: 'Y', pageSize: 1001, pageToken: 'a'.repeat(1025) })).toBe('namespace,site,page_size,page_token');
    expect(refused(listExecutionsRules, { ...everyExecution, microvmUid: 'x', operationId: 'y', planId: 'z', status: 'Done', startedFrom: { seconds: -1, nanos: 0 } })).toBe(
      'microvm_uid,operation_id,plan_id,status,started_from',
    );
    expect(refused(tailLogsRules, { namespace: 'shop', microvmUid: '', source: 'disk', tailBytes: 1_048_577, follow: false, incarnation: -1, fromOffset: 0 })).toBe('microvm_uid,source,tail_bytes,incarnation');
    expect(refused(getStatusRules, { namespace: 'shop', site: '', pageSize: 0, pageToken: '' })).toBe('');
  });
});
