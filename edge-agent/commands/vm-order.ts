/**
 * `vm stop`, `start`, `restart`, `hold` and `release`: hands an order to the running agent and waits until it is brought
 * about. The order is durable when the agent has answered, so leaving the wait takes nothing back.
 */
import { userInfo } from 'node:os';
import { resolve } from 'node:path';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { microVMId } from '#api/model/ids.ts';
import type { SiteForce, SiteOperator, SiteOrderKind } from '#api/model/site-orders.ts';
import { createControlClient, type ControlClient } from '../adapters/control-socket/control-client.ts';
import { waitMsMax } from '../adapters/control-socket/protocol.ts';
import { isStateDirectoryLocked } from '../adapters/system/state-lock.ts';
import type { SiteSituation } from '../ports/site-desk.ts';
import { findMicroVM } from './inspect.ts';

export interface OrderOptions extends SiteForce {
  readonly stateDir: string;
  readonly named: string;
  readonly kind: SiteOrderKind;
  /** Longest wait for its effect, milliseconds; 0: none. */
  readonly waitMs: number;
  readonly output: string;
  /** Told to the person at once, before the wait. */
  readonly say: (text: string) => void;
}

export interface OrderOutcome {
  readonly text: string;
  /** It was brought about, or was so already. False: it is taken and stands, and its effect is still to come. */
  readonly isDone: boolean;
}

/** @throws NOT_FOUND, AGENT_NOT_RUNNING, HELD_AT_SITE, WAITING_FOR_LEASE, CONFLICT */
export async function orderMicroVM(options: OrderOptions): Promise<OrderOutcome> {
  const { kind, output, acceptsTwoCopies, isAgainstSpec } = options;
  const stateDirectory = resolve(options.stateDir);
  const vm = await findMicroVM(options.stateDir, options.named);
  const id = microVMId(vm.microvmId);
  const client = createControlClient(stateDirectory);
  const force: SiteForce = { ...(acceptsTwoCopies === true ? { acceptsTwoCopies } : {}), ...(isAgainstSpec === true ? { isAgainstSpec } : {}) };
  const answer = await orExplain(stateDirectory, () => client.order(id, { kind, by: whoAsks(), ...force }));
  const name = `${vm.namespace}/${vm.name}`;
  if (output !== 'json') options.say(`${name}: ${answer.message}`);
  const situation = answer.result === 'already' && kind !== 'Stop' && kind !== 'Hold' ? null : await waitFor(client, id, options.waitMs);
  const isDone = situation === null || situation.progress === 'settled' || options.waitMs === 0;
  if (output === 'json') {
    return { text: JSON.stringify({ microvmId: id, namespace: vm.namespace, name: vm.name, order: kind, ...answer, ...situation }, null, 2), isDone };
  }
  return { text: situation === null ? '' : `${name}: ${describe(situation)}`, isDone };
}

/** Through sudo it is the caller. Both are only told: whoever can open the socket could tell anything. */
export function whoAsks(environment: NodeJS.ProcessEnv = process.env): SiteOperator {
  const { username, uid } = whoRuns();
  const sudoUid = Number(environment['SUDO_UID'] ?? Number.NaN);
  const sudoUser = environment['SUDO_USER'] ?? '';
  return uid === 0 && sudoUser !== '' && Number.isSafeInteger(sudoUid) && sudoUid >= 0 ? { user: sudoUser, uid: sudoUid } : { user: username, uid };
}

/** A user without an entry in the table of users has a number only. */
function whoRuns(): { readonly username: string; readonly uid: number } {
  try {
    return userInfo();
  } catch {
    const uid = process.getuid?.() ?? 0;
    return { username: `uid-${uid}`, uid };
  }
}

async function waitFor(client: ControlClient, id: ReturnType<typeof microVMId>, waitMs: number): Promise<SiteSituation | null> {
  if (waitMs === 0) return null;
  const giveUpAt = performance.now() + waitMs;
  for (;;) {
    const leftMs = Math.floor(giveUpAt - performance.now());
    const situation = await client.situation(id, Math.max(0, Math.min(leftMs, waitMsMax)));
    if (situation.progress !== 'busy' || leftMs <= 0) return situation;
  }
}

function describe({ progress, state, waitsFor, problem }: SiteSituation): string {
  const why = problem === undefined ? '' : ` (${problem.code}: ${problem.message})`;
  if (progress === 'settled') return `${state}${why}`;
  if (progress === 'busy') return `${state}, not done yet; the order stands`;
  return `${state}, waits for ${waits[waitsFor ?? ''] ?? waitsFor ?? 'something'}${why}; the order stands`;
}

const waits: Readonly<Record<string, string>> = {
  restart: 'the back-off of its restart policy',
  retry: 'another try of a step that failed',
  lease: 'a lease of this host, which needs the control plane',
  images: 'its image',
  fence: 'a newer change of its spec',
};

/** An agent that runs and has no socket is one that is just starting, or of a version without these commands. */
export async function orExplain<Answer>(stateDirectory: string, ask: () => Promise<Answer>): Promise<Answer> {
  try {
    return await ask();
  } catch (error) {
    if (!isAppError(error) || error.code !== 'AGENT_NOT_RUNNING' || !isStateDirectoryLocked(stateDirectory)) throw error;
    throw new AppError('UNAVAILABLE', 'the agent runs and takes no orders: it is just starting, or has a version without them', { remedy: 'repeat the command; if it lasts, look at the log of the agent: journalctl -u nkudo-edge', cause: error });
  }
}
