/** A tenant of the running product: accounts with rights, a client of the fleet listener, and what is counted in rows. */
import { credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { randomUUID } from 'node:crypto';
import { PlanAction_Kind, FleetServiceClient, PlanStatus, type ApplyPlanRequest, type Plan, type PlanAction } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { serverName } from '#controller/pki/certificates.ts';
import type { World } from '#test/e2e/world.ts';
import { microVMSpec, siteName } from '#test/e2e/world.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';

export interface Tenant {
  readonly client: FleetServiceClient;
  readonly metadata: Metadata;
  readonly token: string;
  /** PEM of the control plane's certificate authority. */
  readonly ca: string;
  request(actions: readonly PlanAction[], changes?: Partial<ApplyPlanRequest>): ApplyPlanRequest;
  apply(request: ApplyPlanRequest): Promise<Plan>;
  get(planId: string): Promise<Plan>;
  cancel(planId: string): Promise<Plan>;
  /** Asks until the plan has ended. @throws when it did with another status */
  waitFor(planId: string, status: PlanStatus): Promise<Plan>;
}

/** What a call failed with: its gRPC code, the catalogue's code and the sentence. */
export interface Refusal {
  readonly code: number;
  readonly errorCode: string;
  readonly message: string;
}

export async function refusalOf(call: Promise<unknown>): Promise<Refusal> {
  try {
    await call;
  } catch (error) {
    const failed = error as ServiceError; // What grpc-js rejects with.
    return { code: failed.code, errorCode: String(failed.metadata.get('nkudo-error-code')[0] ?? ''), message: failed.details };
  }
  throw new Error('the call was expected to be refused');
}

/** A service account with those verbs on microVMs, all or the named ones, and a client with its token. */
export async function openTenant(world: World, account: string, verbs: readonly string[], names: readonly string[] = []): Promise<Tenant> {
  const { kubernetes, namespace } = world;
  await kubernetes.kubectl(['create', 'serviceaccount', account], { namespace });
  await kubernetes.kubectl(['create', 'role', account, `--verb=${verbs.join(',')}`, '--resource=microvms.nkudo.dev', ...names.map((name) => `--resource-name=${name}`)], { namespace });
  await kubernetes.kubectl(['create', 'rolebinding', account, `--role=${account}`, `--serviceaccount=${namespace}:${account}`], { namespace });
  const token = (await kubernetes.kubectl(['create', 'token', account, '--audience', 'nkudo'], { namespace })).stdout.trim();
  const root = await kubernetes.kubectl(['get', 'secret', 'nkudo-ca', '-o', 'jsonpath={.data.root\\.crt}'], { namespace: 'nkudo-system' });
  const ca = Buffer.from(root.stdout, 'base64').toString();
  const client = new FleetServiceClient(world.endpoints().fleet, credentials.createSsl(Buffer.from(ca)), {
    'grpc.ssl_target_name_override': serverName, 'grpc.initial_reconnect_backoff_ms': 100, 'grpc.max_reconnect_backoff_ms': 500,
  });
  fileScope().defer(() => client.close());
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${token}`);
  const answer = (resolve: (plan: Plan) => void, reject: (error: Error) => void) => (error: Error | null, response: { plan: Plan | undefined } | undefined): void => {
    if (error !== null || response?.plan === undefined) reject(error ?? new Error('an answer without plan'));
    else resolve(response.plan);
  };
  const tenant: Tenant = {
    client,
    metadata,
    token,
    ca,
    request: (actions, changes = {}) => ({ namespace, site: siteName, idempotencyKey: randomUUID(), actions: [...actions], dryRun: false, force: false, ...changes }),
    apply: (request) => new Promise((resolve, reject) => client.applyPlan(request, metadata, answer(resolve, reject))),
    get: (planId) => new Promise((resolve, reject) => client.getPlan({ namespace, planId }, metadata, answer(resolve, reject))),
    cancel: (planId) => new Promise((resolve, reject) => client.cancelPlan({ namespace, planId }, metadata, answer(resolve, reject))),
    waitFor: async (planId, status) => {
      await until(async () => {
        const open = await tenant.get(planId);
        if (open.finishedAt === undefined) throw new Error(`still ${JSON.stringify(open)}`);
        return true;
      }, `the end of plan ${planId}`);
      const plan = await tenant.get(planId);
      if (plan.status !== status) throw new Error(`plan with status ${status} expected: ${JSON.stringify(plan)}`);
      return plan;
    },
  };
  return tenant;
}

export function create(world: World, name: string, spec: Readonly<Record<string, unknown>> = {}): PlanAction {
  const object = { apiVersion: 'nkudo.dev/v1alpha1', kind: 'MicroVM', metadata: { name, labels: { tier: 'front' } }, spec: microVMSpec(world.guest, spec) };
  return { kind: PlanAction_Kind.CREATE, name, uid: '', objectJson: JSON.stringify(object) };
}

const change = (kind: PlanAction_Kind) => (name: string, uid: string): PlanAction => ({ kind, name, uid, objectJson: '' });
export const start = change(PlanAction_Kind.START);
export const stop = change(PlanAction_Kind.STOP);
export const remove = change(PlanAction_Kind.DELETE);

/** Rows of every table that a plan writes. */
export async function countRows(world: World): Promise<Readonly<Record<string, unknown>>> {
  const [row] = await world.database.query(
    `select (select count(*)::int from nkudo.plans) as plans, (select count(*)::int from nkudo.plan_actions) as actions,
      (select count(*)::int from nkudo.operations) as operations, (select count(*)::int from nkudo.audit_events) as audit,
      (select count(*)::int from nkudo.microvms) as microvms, (select count(*)::int from nkudo.bindings) as bindings`,
  );
  return row ?? {};
}
