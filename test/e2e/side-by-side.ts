/**
 * An earlier release and this one, side by side: agents and control plane in all combinations, and the database in both
 * directions, in the order in which an installation is upgraded and goes back. Two microVMs run through all of it.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { agentVersion } from '#edge-agent/config.ts';
import { migrate } from '#db/migrate.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { until } from '#test/harness/until.ts';
import { appPassword, systemPassword, useDatabase, type TestDatabase } from '#test/harness/postgres.ts';
import { buildEarlierPrograms, type NamedRelease } from './earlier-programs.ts';
import { conditionOf, createWorld, statusOf, type TestHost, type World } from './world.ts';

type Release = 'before' | 'now';
const releases: readonly Release[] = ['before', 'now'];

/** Once in a file: it builds a world. */
export async function describeSideBySide(earlier: NamedRelease | undefined): Promise<void> {
  const previous = earlier === undefined ? { missing: 'CHANGELOG.md names no commit of an earlier release' } : await buildEarlierPrograms(earlier);
  const isMissing = 'missing' in previous;
  if (isMissing) process.stdout.write(`[R6] two releases side by side: skipped, ${previous.missing}\n`);

  let world: World;
  let database: TestDatabase;
  let controller: Release = 'before';
  /** By name of the machine. */
  const agents = new Map<string, Release>();
  const lasting = new Map<string, TestHost>();
  let vmmsBefore: readonly string[] = [];

  const scriptOf = (program: 'controller' | 'edge', release: Release): string | undefined => (release === 'before' && !isMissing ? previous[program] : undefined);
  const vmms = (): readonly string[] => [...lasting.values()].flatMap((host) => host.vmms().map(({ pid, startTime }) => `${pid}/${startTime}`)).toSorted();

  async function restartController(release: Release): Promise<void> {
    await world.stopController();
    controller = release;
    await world.startController();
  }

  /** A microVM on that host: placed, planned, run, stopped, started again and deleted. */
  async function liveOn(host: string, name: string): Promise<void> {
    await world.applyMicroVM(name, { placement: { hostName: host } });
    await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
    await world.patchMicroVM(name, { runPolicy: 'Halted' });
    await world.waitForCondition('microvms', name, { type: 'Running', status: 'False' });
    await world.patchMicroVM(name, { runPolicy: 'Always' });
    await world.waitForCondition('microvms', name, { type: 'Running', status: 'True' });
    await world.deleteObject('microvms', name);
    await world.waitUntilGone('microvms', name);
  }

  /** Enrolls a machine with an agent of each release, and lives on it; then on those that were there before. */
  async function everything(phase: string): Promise<void> {
    await Promise.all(releases.map(async (release) => {
      const name = `${phase}-${release}`;
      agents.set(name, release);
      const host = await world.addHost(name);
      await liveOn(name, `on-${name}`);
      await host.stopAgent();
    }));
    await Promise.all([...lasting.keys()].map((name) => liveOn(name, `${phase}-on-${name}`)));
    for (const name of lasting.keys()) await world.waitForCondition('microvms', `lasting-${name}`, { type: 'Running', status: 'True' });
    // A start may overtake the end of the stop before it.
    await until(async () => (await database.query(`select from nkudo.plans where status not in ('Succeeded', 'Superseded') limit 1`)).length === 0, `all plans of phase ${phase} to be carried out`);
    expect(vmms(), phase).toEqual(vmmsBefore);
  }

  describe.skipIf(isMissing)('[R6] two releases side by side', () => {
    beforeAll(async () => {
      if (isMissing) return;
      process.stdout.write(`[R6] ${previous.version} is ${previous.commit}\n`);
      database = await useDatabase({ migrated: false });
      const programs = await fileScope().shared('programs');
      const migrated = await fileScope().start({ name: 'migrate-before', command: programs.node, args: [previous.controller, 'migrate'], environment: { NKUDO_DATABASE_ADMIN_URL: database.adminUrl, NKUDO_DATABASE_APP_PASSWORD: appPassword, NKUDO_DATABASE_SYSTEM_PASSWORD: systemPassword } });
      expect((await migrated.exited).code, migrated.lines().join('\n')).toBe(0);
      world = await createWorld({
        database,
        controllerProgram: () => scriptOf('controller', controller),
        agent: (machine) => ({ program: scriptOf('edge', agents.get(machine) ?? 'now') }),
      });
      await world.startController();
      await world.createSite();
      for (const release of releases) agents.set(release, release);
      await Promise.all(releases.map(async (name) => {
        lasting.set(name, await world.addHost(name));
        await world.applyMicroVM(`lasting-${name}`, { placement: { hostName: name } });
        await world.waitForCondition('microvms', `lasting-${name}`, { type: 'Running', status: 'True' });
      }));
      vmmsBefore = vmms();
      expect(vmmsBefore).toHaveLength(2);
    });

    it('[R6] agents of both under the control plane of the release before, on its own schema', async () => {
      await everything('a');
    });

    it('[R6] the same control plane goes on while the database is migrated, and on the schema of this release', async () => {
      await migrate({ adminUrl: database.adminUrl, appPassword, systemPassword });
      await everything('b');
    });

    it('[R6] agents of both under the control plane of this release', async () => {
      await restartController('now');
      await everything('c');
      expect(statusOf(await world.get('hosts', 'now'))['agentVersion']).toBe(agentVersion);
    });

    it('[R6] and back: the control plane of the release before on what this one wrote', async () => {
      await restartController('before');
      await everything('d');
    });

    it('[R6] agents change places: each release goes on with the state that the other one left', async () => {
      await restartController('now');
      for (const [name, host] of lasting) {
        await host.stopAgent();
        agents.set(name, agents.get(name) === 'now' ? 'before' : 'now');
        await host.startAgent();
      }
      await Promise.all([...lasting.keys()].map((name) => world.waitForCondition('hosts', name, { type: 'Ready', status: 'True' })));
      await everything('e');
      for (const name of lasting.keys()) expect(conditionOf(await world.get('microvms', `lasting-${name}`), 'Running')).toMatchObject({ status: 'True' });
    });
  });
}
