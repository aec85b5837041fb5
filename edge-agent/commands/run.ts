/**
 * `run`: puts the agent together and keeps it going until a signal. The microVMs do not end with it.
 * Order of the start: lock, journal, microVMs, and only then the control plane, so that a host
 * without a connection runs its microVMs all the same.
 */
import { X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { machine } from 'node:os';
import { join } from 'node:path';
import { pino, type Logger as PinoLogger } from 'pino';
import { createFaultPoints } from '#api/fault-points/fault-points.ts';
import { AppError } from '#api/model/error-codes.ts';
import { createAgentSlots } from '../adapters/agent-slots/agent-slots.ts';
import type { MicroVMId } from '#api/model/ids.ts';
import type { ObservedState } from '#api/model/microvm.ts';
import { systemSerialLines, systemSerialSpool } from '../adapters/consoles/serial-lines.ts';
import { createCloudHypervisor } from '../adapters/cloud-hypervisor/cloud-hypervisor.ts';
import { makeCertificateRequest } from '../adapters/control-plane-grpc/certificate-request.ts';
import { controlSocketPath } from '../adapters/control-socket/protocol.ts';
import { startControlServer } from '../adapters/control-socket/control-server.ts';
import { createControlPlaneGrpc } from '../adapters/control-plane-grpc/control-plane-grpc.ts';
import { createGuardProcess } from '../adapters/guard/guard-process.ts';
import { createHostFacts } from '../adapters/host-facts/host-facts.ts';
import { createKeptSecrets } from '../adapters/guest-secrets/kept-secrets.ts';
import { createBlobStore } from '../adapters/images/blob-store.ts';
import { createGuestDisks } from '../adapters/images/guest-disks.ts';
import { createHttpTransfer } from '../adapters/images/http-transfer.ts';
import { createImageCache } from '../adapters/images/image-cache.ts';
import { createOciImages } from '../adapters/images/oci-images.ts';
import { createIdentityFiles } from '../adapters/identity-files/identity-files.ts';
import { damagedJournalFile, openJournalOrBegin } from '../adapters/journal-sqlite/journal-sqlite.ts';
import { createNetbird } from '../adapters/netbird/netbird.ts';
import { createHostIsolation } from '../adapters/isolation/host-isolation.ts';
import { createGuestNetworks } from '../adapters/network/guest-networks.ts';
import { createSeeds } from '../adapters/seed/seeds.ts';
import { createHostNetwork } from '../adapters/network/host-network.ts';
import { loadReleaseKeys } from '../adapters/releases/release-keys.ts';
import { createReleases } from '../adapters/releases/releases.ts';
import { createSystemClock, systemEntropy as entropy } from '../adapters/system/clock.ts';
import { ensureDirectory } from '../adapters/system/durable-file.ts';
import { createProber } from '../adapters/probes/prober.ts';
import { createHostFiles } from '../adapters/system/host-files.ts';
import { systemLogFiles } from '../adapters/system/log-files.ts';
import { createLogSpace } from '../adapters/system/log-space.ts';
import { giveBackMemory } from '../adapters/system/memory.ts';
import { lockStateDirectory } from '../adapters/system/state-lock.ts';
import { createVmDirectories } from '../adapters/vm-directories/vm-directories.ts';
import { agentVersion, guardDirectory, type RunConfig } from '../config.ts';
import { pinnedImages } from '../domain/images.ts';
import { serialLogBounds, vmmLogBounds } from '../domain/log-bounds.ts';
import { edgeFaultPoints, logFaultPoints, machineFaultPoints, meshFaultPoints, siteFaultPoints, versionFaultPoints, type EdgeFaultPoint } from '../fault-points.ts';
import type { Journal } from '../ports/journal.ts';
import { createAgentVersionKeeper } from '../supervisor/agent-version.ts';
import { createCertificateRenewal } from '../supervisor/certificate-renewal.ts';
import { createConsoleKeeper } from '../supervisor/console-keeper.ts';
import { createLeaseKeeper } from '../supervisor/lease-keeper.ts';
import { createLinkLoop } from '../supervisor/link-loop.ts';
import { createLogShipper } from '../supervisor/log-shipper.ts';
import { createLogTrimmer } from '../supervisor/log-trimmer.ts';
import { createMeshKeeper } from '../supervisor/mesh-membership.ts';
import { createMicroVMRegistry } from '../supervisor/microvm-registry.ts';
import { createObservationReporter } from '../supervisor/observation-reporter.ts';
import { createProbeKeeper } from '../supervisor/probe-keeper.ts';
import { createReportSender } from '../supervisor/report-sender.ts';
import { createSiteDesk } from '../supervisor/site-desk.ts';
import { createSpaceKeeper, spaceProblem } from '../supervisor/space-keeper.ts';
import { createSlots } from '#api/model/slots.ts';
import { createTrustedTime } from '../supervisor/trusted-time.ts';

export const journalFile = 'journal.db';
/** Names what is known of the journal before this one, when that one was damaged. */
export const damageFact = 'damagedJournal';

/** Resolves when the agent has stopped: by a signal, or for another version of itself. @throws STATE_DIR_LOCKED, JOURNAL_FAILED, UNAUTHENTICATED */
export async function runAgent(config: RunConfig): Promise<'stopped' | 'restart'> {
  const logger = pino({ level: config.logLevel, base: { program: 'nkudo-edge', pid: process.pid } });
  if (!existsSync(config.stateDirectory)) {
    throw new AppError('UNAUTHENTICATED', `this host is not enrolled: there is no state directory ${config.stateDirectory}`, {
      remedy: 'correct --state-dir, or make this host known first: nkudo-edge enroll',
    });
  }
  ensureDirectory(join(config.stateDirectory, 'vms'));
  const lock = lockStateDirectory(config.stateDirectory);
  const onFatal = (error: unknown): void => endNow(logger, error);
  const clock = createSystemClock();
  const store = createIdentityFiles(config.stateDirectory);
  const { journal, damage } = openJournalOrBegin(join(config.stateDirectory, journalFile));
  if (damage !== undefined) {
    logger.error({ reason: damage, detail: `the damaged one is kept as ${damagedJournalFile}` }, 'the journal was damaged: a new one is begun; microVMs that run go on, and are taken over again when the control plane orders them anew');
    journal.saveFact(damageFact, JSON.stringify({ damage, atMs: clock.now().wallMs }));
  }
  const faults = createFaultPoints<EdgeFaultPoint>({ socketPath: config.faultSocket, processName: 'edge', known: [...edgeFaultPoints, ...meshFaultPoints, ...machineFaultPoints, ...siteFaultPoints, ...versionFaultPoints, ...logFaultPoints] });
  const hypervisor = createCloudHypervisor({ binaryPath: config.hypervisorPath, environment: config.vmmEnvironment, landlock: 'try' });
  const directories = createVmDirectories(config.stateDirectory);
  const isolation = createHostIsolation({ ...config.isolation, stateDirectory: config.stateDirectory });
  const isolationFacts = isolation.facts();
  for (const problem of isolationFacts.problems) logger.warn({ error: problem }, 'microVMs are not wholly confined');
  const files = createHostFiles({ ...config, vmmGroupIds: isolationFacts.users ? isolation.groupIds() : null });
  const networks = createGuestNetworks({ ...config.network, vmmUserIdOf: (id) => isolation.userOf(id)?.userId ?? process.getuid?.() ?? 0, host: createHostNetwork(config.network.path) });
  const keptSecrets = createKeptSecrets(config.stateDirectory);
  const openTransfer = createHttpTransfer(config.images.proxies);
  const blobs = createBlobStore({
    ...config.images,
    stateDirectory: config.stateDirectory,
    pinned: async () => {
      const images = pinnedImages([...registry.workers()].map((worker) => ({ record: worker.record(), isLive: worker.isLive() })));
      return new Set([...images, ...(await oci.disksOf(images))]);
    },
    clock,
    entropy,
    logger,
  });
  const oci = createOciImages({ ...config.images, stateDirectory: config.stateDirectory, store: blobs, openTransfer, architecture: process.arch, logger });
  const cache = createImageCache({ store: blobs, oci, openTransfer, logger });
  const disks = createGuestDisks({ stateDirectory: config.stateDirectory, directories, cache, path: config.images.path, secrets: (id) => keptSecrets.load(id) });
  const facts = createHostFacts({ hypervisor, agentVersion, isolation: isolationFacts, stateDirectory: config.stateDirectory, problem: () => (journal.isSpaceLow() ? spaceProblem : ''), clockSkewMs: () => time.skewMs() });

  const reporter = createObservationReporter({ journal, clock });
  const sender = createReportSender({ journal, reporter, clock, entropy, faults, logger, onFatal });
  const trimmer = createLogTrimmer({ space: createLogSpace(config.vmmEnvironment), faults, logger });
  const shipper = createLogShipper({
    journal,
    files: systemLogFiles,
    onSize: (path, size) => trimmer.seen(path, size, serialLogBounds),
    serialLogOf: (id) => hypervisor.paths(directories.path(id)).serialLog,
    clock,
    entropy,
    logger,
    onFatal,
  });
  const boundVmmLog = async (id: MicroVMId, state: ObservedState): Promise<void> => {
    const { vmmLog, serialLog } = pathsOf(id);
    if (state === 'absent') return [vmmLog, serialLog].forEach(trimmer.forget);
    // Without a file, or one that can't be looked at, there is nothing to bound.
    const size = await systemLogFiles.size(vmmLog).catch(() => null);
    if (size !== null) trimmer.seen(vmmLog, size, vmmLogBounds);
  };
  const pathsOf = (id: MicroVMId) => hypervisor.paths(directories.path(id));
  const probes = createProbeKeeper({ prober: createProber(), files: systemLogFiles, pathsOf, clock, logger });
  const consoles = createConsoleKeeper({ lines: systemSerialLines, spool: systemSerialSpool, pathsOf, clock, logger });
  const leases = createLeaseKeeper({
    guard: createGuardProcess({ directory: join(config.stateDirectory, guardDirectory), bootId: clock.now().bootId, environment: config.vmmEnvironment }),
    directories,
    records: () => [...registry.workers()].map((worker) => worker.record()),
    clock,
    logger,
  });
  const registry = createMicroVMRegistry({
    leases,
    probes,
    consoles,
    journal,
    hypervisor,
    directories,
    files,
    networks,
    isolation,
    disks,
    secrets: keptSecrets,
    seeds: createSeeds({ directories, secrets: keptSecrets, nameServers: config.network.nameServers }),
    hostMemoryBytes: config.hostMemoryBytes,
    clock,
    entropy,
    faults,
    logger,
    bootSlots: createSlots(config.bootsAtOnce),
    reporter: {
      reportsQueued: reporter.reportsQueued,
      observed(content, isSettled) {
        reporter.observed(content, isSettled);
        shipper.noticed(content.microvmId, content.state);
        void boundVmmLog(content.microvmId, content.state);
      },
    },
    onFatal,
  });
  leases.onConfirmed(() => {
    for (const worker of registry.workers()) if (worker.record().desired?.lease !== undefined) worker.wake();
  });
  registry.onWorker(shipper.follow);
  reporter.onNews(sender.wake);
  reporter.onOrdersTold((microvmId, upTo) => {
    for (const worker of registry.workers()) if (worker.record().microvmId === microvmId) void worker.ordersTold(upTo).catch(onFatal);
  });
  const desk = createSiteDesk({ registry, journal, leases, consoles, clock, faults, logger, onFatal });

  let identity = store.load();
  const replaceIdentity = (change: Partial<NonNullable<typeof identity>>): void => {
    if (identity === null) return;
    identity = { ...identity, ...change };
    store.save(identity);
  };
  const theIdentity = () => {
    if (identity === null) throw new AppError('UNAUTHENTICATED', 'this host is not enrolled');
    return identity;
  };
  const time = createTrustedTime({
    newestMs: newestTimeMs(journal, identity?.chainPem),
    save: (newestMs) => journal.saveFact(newestTimeFact, String(newestMs)),
    clock,
    logger,
  });
  const renewal = createCertificateRenewal({
    identity: theIdentity,
    makeRequest: makeCertificateRequest,
    onRenewed(renewed) {
      replaceIdentity(renewed);
      link.handOver();
    },
    time,
    clock,
    entropy,
    logger,
  });
  const mesh = createMeshKeeper({
    mesh: createNetbird({ ...config.mesh, stateDirectory: config.stateDirectory }),
    journal,
    hostId: () => identity?.hostId,
    pollMs: config.mesh.pollMs,
    clock,
    entropy,
    faults,
    logger,
    onFatal,
  });
  const ending = Promise.withResolvers<string>();
  const versions = createAgentSlots(config.updates.launcher);
  const keeper = createAgentVersionKeeper({
    releases: createReleases({ keys: () => loadReleaseKeys(config.updates.keysDirectory), openTransfer: createHttpTransfer(config.images.proxies), clock, entropy }),
    versions,
    runningVersion: agentVersion,
    architecture: machine(),
    nowMs: () => time.now(),
    deadlineSeconds: config.updates.deadlineSeconds,
    restart: () => ending.resolve('restart'),
    journal,
    clock,
    entropy,
    faults,
    logger,
    onFatal,
  });
  const link = createLinkLoop({
    leases,
    controlPlane: createControlPlaneGrpc(() => time.newestMs()),
    time,
    onRecovered: replaceIdentity,
    registry,
    facts,
    identity: theIdentity,
    onWelcome({ endpoints, trustBundlePem, renewNow }) {
      if (renewNow) renewal.demand();
      const known = theIdentity();
      const isNew = (endpoints.length > 0 && endpoints.join() !== known.endpoints.join()) || (trustBundlePem !== '' && trustBundlePem !== known.trustBundlePem);
      if (isNew) replaceIdentity({ ...(endpoints.length > 0 ? { endpoints } : {}), ...(trustBundlePem === '' ? {} : { trustBundlePem }) });
    },
    onMeshOrder: ({ order, revealKey }) => mesh.ordered(order, revealKey),
    onAgentOrder: ({ order }) => keeper.ordered(order),
    onSession(session) {
      // Also the sign for a launcher that tries this version.
      if (session !== undefined) versions.ready();
      if (session !== undefined) reporter.repeatAll();
      sender.use(session);
      shipper.use(session);
      renewal.use(session);
      mesh.use(session);
      keeper.use(session);
    },
    clock,
    entropy,
    faults,
    logger,
    onFatal,
  });

  const space = createSpaceKeeper({ journal, clock, logger, onChange: () => void link.factsChanged().catch(onFatal) });
  bindJournal(journal, identity?.hostId, logger);
  await registry.start();
  const control = await startControlServer({ path: controlSocketPath(config.stateDirectory), version: agentVersion, desk, logger });
  const checkFacts = (): void => void clock.after(factsIntervalMs, () => void link.factsChanged().then(checkFacts, onFatal));
  checkFacts();
  if (identity === null) logger.warn({}, 'this host is not enrolled: it keeps its microVMs and talks to nobody');
  else link.start();
  mesh.start();
  keeper.start();
  if (versions.state().trialNeeds !== 'session') versions.ready();
  logger.info({ version: agentVersion }, 'running');
  clock.after(giveBackAfterMs, giveBackMemory);

  const ignore = onSignals(ending.resolve, () => versions.state().trialVersion !== null, logger);
  const signal = await ending.promise;
  ignore();
  logger.info({ signal }, 'stopping; the microVMs go on');
  await control.close();
  await keeper.stop();
  await link.stop();
  shipper.stop();
  await trimmer.stop();
  space.stop();
  await mesh.stop();
  await registry.stop();
  await probes.stop();
  await consoles.stop();
  await disks.stop();
  leases.close();
  journal.close();
  lock.release();
  return signal === 'restart' ? 'restart' : 'stopped';
}

/** When the garbage of the start is thrown away, milliseconds: by then the first session stands. */
const giveBackAfterMs = 5_000;

/** How often facts are compared with those that were sent; nothing is said when they are the same. */
const factsIntervalMs = 600_000;

/** The journal says whose it is, so that a copied or re-enrolled state directory is noticed. Its microVMs are kept. */
function bindJournal(journal: Journal, hostId: string | undefined, logger: PinoLogger): void {
  if (hostId === undefined) return;
  const earlier = journal.loadFact('hostId');
  if (earlier === hostId) return;
  if (earlier !== undefined) logger.warn({ earlier, hostId }, 'the journal was written by this machine under another identity');
  journal.saveFact('hostId', hostId);
}

const newestTimeFact = 'newestTime';

/** The newest time that is known for certain: what the control plane said, and when it signed the certificate. */
export function newestTimeMs(journal: Pick<Journal, 'loadFact'>, chainPem: string | undefined): number {
  const heard = Number(journal.loadFact(newestTimeFact) ?? 0);
  return Math.max(Number.isFinite(heard) ? heard : 0, chainPem === undefined ? 0 : new X509Certificate(chainPem).validFromDate.getTime());
}

/** SIGTERM and SIGINT end the agent; so does SIGHUP, of a command at the site, when another version is to be tried. */
function onSignals(end: (why: string) => void, isOnTrial: () => boolean, logger: PinoLogger): () => void {
  // A timer keeps the loop alive also when there is nothing to wait for.
  const keepAlive = setInterval(() => {}, 2 ** 30);
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => end(name));
  process.on('SIGHUP', () => (isOnTrial() ? end('restart') : logger.info({}, 'no other version is to be tried, so the agent goes on')));
  return () => clearInterval(keepAlive);
}

/** After a journal that can't be written, or a fault of our own, only a new look helps: the service manager starts us again. */
function endNow(logger: PinoLogger, error: unknown): never {
  logger.fatal({ err: error }, 'the agent can not go on; the microVMs do');
  process.exit(1);
}
