/**
 * The accounts that the suite runs on: mock-netbird always, and a real NetBird management server when NETBIRD_TEST_URL
 * and NETBIRD_TEST_TOKEN name one. The real account is one for tests: the suite makes and deletes objects in it.
 */
import { randomUUID } from 'node:crypto';
import { afterAll, describe, test } from 'vitest';
import { siteId } from '#api/model/ids.ts';
import { createNetbirdAccounts } from '#controller/adapters/netbird/netbird.ts';
import type { MeshScope } from '#controller/domain/mesh/names.ts';
import type { MeshAccount } from '#controller/ports/mesh.ts';
import { createTime } from '#controller/runtime/time.ts';
import { startMockNetbird, type MockNetbird } from '#test/simulators/mock-netbird/server.ts';

export const testToken = 'nbp_mesh_conformance';

export interface Target {
  readonly name: 'simulated' | 'real';
  readonly managementUrl: string;
  readonly token: string;
  /** Null on the real server. */
  readonly simulator: MockNetbird | null;
}

export const time = createTime({ nowMs: Date.now, monotonicMs: () => performance.now(), random: Math.random });
/** Both targets take any number of requests; the limits have tests of their own. */
const openAccount = createNetbirdAccounts(time, { concurrencyMax: 4, perSecond: 1000, burst: 1000, waitersMax: 1000 });

export function open({ managementUrl, token }: Pick<Target, 'managementUrl' | 'token'>): MeshAccount {
  return openAccount({ managementUrl, token });
}

/** A site that no run before had: names never collide, also on a server that keeps what an aborted run left. */
export function anyScope(installationId: string = randomUUID()): MeshScope {
  return { installationId, siteUid: siteId(randomUUID()), namespace: 'conformance', siteName: 'site' };
}

const url = process.env['NETBIRD_TEST_URL'] ?? '';
const token = process.env['NETBIRD_TEST_TOKEN'] ?? '';
const simulator = await startMockNetbird({ tokens: [testToken] });
const simulated: Target = { name: 'simulated', managementUrl: simulator.managementUrl, token: testToken, simulator };
const real: Target | null = url === '' || token === '' ? null : { name: 'real', managementUrl: url, token, simulator: null };

afterAll(() => simulator.close());

export function describeOnTargets(title: string, body: (target: Target) => void): void {
  describe(`${title} (simulated)`, () => body(simulated));
  if (real !== null) {
    describe(`${title} (real)`, () => body(real));
    return;
  }
  const reason = 'NETBIRD_TEST_URL and NETBIRD_TEST_TOKEN are not set';
  process.stdout.write(`mesh conformance: ${title} is not run on a real NetBird management server: ${reason}\n`);
  test.skip(`${title} (real): ${reason}`, () => undefined);
}
