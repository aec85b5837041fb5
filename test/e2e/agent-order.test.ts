/**
 * The version of the agent as an operator orders it through the Host object: the order reaches the host, and what the host
 * says of it is shown. This agent was started by no launcher, so that it refuses; what one with a launcher does is in
 * test/integration/edge-agent/single-executable.test.ts.
 */
import { expect, it } from 'vitest';
import { agentVersion } from '#edge-agent/config.ts';
import { conditionOf, createWorld } from './world.ts';

it('an order for the version of an agent reaches its host, and the answer is shown on the Host', async () => {
  const world = await createWorld({ controllerEnvironment: { NKUDO_AGENT_RELEASES: 'https://releases.invalid/{version}/manifest.json' } });
  await world.startController();
  await world.createSite();
  await world.addHost('edge-1');
  const order = async (agent: object | null): Promise<void> => {
    const answer = await world.kubernetes.client.request('PATCH', world.path('hosts', 'edge-1'), { spec: { agent } }, 'application/merge-patch+json');
    expect(answer.status).toBe(200);
  };
  await order({ version: '9.9.9' });
  const refused = await world.waitForCondition('hosts', 'edge-1', { type: 'AgentUpToDate', status: 'False', reason: 'UpdateUnsupported' });
  expect(conditionOf(refused, 'AgentUpToDate')?.message).toContain(`the agent is ${agentVersion}; 9.9.9 is refused by the host`);

  await order({ version: agentVersion });
  await world.waitForCondition('hosts', 'edge-1', { type: 'AgentUpToDate', status: 'True', reason: 'VersionRuns' });
  await order(null);
  await world.waitUntil('hosts', 'edge-1', 'to say nothing of versions', (object) => conditionOf(object, 'AgentUpToDate') === null);
  const rows = await world.database.query(`select agent_version, agent_revision, agent_report->>'orderRevision' as answered from nkudo.hosts where name = $1`, ['edge-1']);
  expect(rows).toEqual([{ agent_version: null, agent_revision: expect.anything(), answered: expect.anything() }]);
  expect(Number(rows[0]?.['agent_revision'])).toBe(3);

  // The same version again is another order: it is looked at again.
  await order({ version: '9.9.9' });
  await world.waitForCondition('hosts', 'edge-1', { type: 'AgentUpToDate', status: 'False', reason: 'UpdateUnsupported' });
});
