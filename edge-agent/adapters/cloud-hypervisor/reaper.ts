/**
 * Starts a VMM so that it outlives the agent, by a tiny reaper: a constant POSIX sh script in a
 * session of its own that records identity and exit of its one child. Owns the claim that keeps a
 * directory from having two VMMs; leaves deciding whether to start one to its caller.
 *
 * The claim is an flock(2) lock on `vmm.claim`, inherited by the VMM. So it is held from before the
 * VMM exists until both reaper and VMM are gone, whichever of agent, reaper or VMM is killed:
 * - agent killed before the reaper has the claim: nothing runs yet; the next spawn starts another
 *   reaper, and only one of the two gets the claim, the other ends with status 75. If nobody spawns
 *   again, a VMM without a guest appears, which the next look finds;
 * - agent killed later: the next spawn sees the claim and waits for the process record;
 * - reaper killed before it wrote the process record: the VMM holds the claim, and the next spawn
 *   learns its pid from the API and writes the record;
 * - reaper killed later: the VMM is still identified by the record; only its exit status is lost.
 */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { link, open, stat, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError } from '#api/model/error-codes.ts';
import type { ProcessIdentity } from '../../ports/hypervisor.ts';
import type { Confinement, VmmUnit } from '../../ports/isolation.ts';
import { watcherScript } from '../guard/guard-scripts.ts';
import { isErrno } from '../system/errno.ts';
import { runFolder, vmFile, vmFiles } from './vm-files.ts';

/** Status of the reaper when another one holds the claim. Source: EX_TEMPFAIL of sysexits(3). */
export const claimHeldStatus = 75;
/** Status of a VMM that could not join its control groups: its program was never started. */
const notConfinedStatus = 71;
/** Of a VMM before this one, which may have had another user: nobody else could write on. An agent before the run folder had them in the directory itself. */
const leftBehind = ['api.sock', 'api.sock.lock', 'events', 'serial.sock', 'vsock.sock', 'vmm.log', 'serial.log'];
/** Where an agent before the run folder looks for them: one that comes back after an upgrade still reaches the VMM. */
const ofEarlierAgents = ['api.sock', 'events', 'vmm.log', 'serial.log'];

/**
 * Arguments: $1 VM directory, $2 directory of the guard or nothing, $3 script of the watcher or the name of its file, $4 control groups that the VMM joins before its program
 * starts and $5 files that count kills for want of memory (one in each line), then the command to run. It doesn't wait for the claim: a reaper that
 * waited would start a VMM that nobody asked for when the other one ends.
 *
 * Stale sockets of an earlier VMM are removed here, under the claim: a VMM before v53 refuses to
 * start on a stale API socket, and none removes its serial and vsock sockets. The process record is
 * not synced, since after a power loss there is no process that it could tell of; the exit is.
 * Signals are caught by a no-op instead of ignored, because a child inherits ignored signals.
 */
const reaperScript = `
set -u
umask 077
cd -- "$1" || exit 70
vm=$1
guard=$2
watch=$3
groups=$4
counts=$5
shift 5
set -f
exec 9>>${vmFiles.claim}
flock -n 9 || exit ${claimHeldStatus}
rm -f -- ${vmFiles.process} ${vmFiles.exit} ${leftBehind.flatMap((name) => [name, `${runFolder}/${name}`]).join(' ')}
for name in ${ofEarlierAgents.join(' ')}; do
  ln -s -- "${runFolder}/$name" "$name"
done
trap : HUP INT TERM
IFS='
'
(
  for group in $groups; do
    printf 0 >"$group/cgroup.procs" || exit ${notConfinedStatus}
  done
  exec "$@"
) </dev/null >${vmFiles.output} 2>&1 9>&9 &
child=$!
start=
if read -r stat_line <"/proc/$child/stat"; then
  IFS=' '
  set -- \${stat_line##*) }
  start=\${20}
fi
read -r boot </proc/sys/kernel/random/boot_id
identity="\\"pid\\":$child,\\"startTime\\":\\"$start\\",\\"bootId\\":\\"$boot\\""
printf '{%s,"reaperPid":%d}\\n' "$identity" "$$" >${vmFiles.process}.tmp && mv -f ${vmFiles.process}.tmp ${vmFiles.process}
watcher=
if [ -n "$guard" ]; then
  [ "$watch" = ${vmFiles.watcherScript} ] && watch='. ./${vmFiles.watcherScript}'
  /bin/sh -c "$watch" nkudo-vmm-watcher "$guard" "$vm" "$child" "$start" </dev/null >/dev/null 2>&1 9>&- &
  watcher=$!
fi
while :; do
  wait "$child"
  status=$?
  kill -0 "$child" 2>/dev/null || break
done
[ -n "$watcher" ] && kill "$watcher" 2>/dev/null
kills=0
IFS='
'
for file in $counts; do
  IFS=' '
  [ -r "$file" ] && while read -r name value; do
    [ "$name" = oom_kill ] && kills=$((kills + value))
  done <"$file"
done
printf '{%s,"status":%d,"oomKills":%d}\\n' "$identity" "$status" "$kills" >${vmFiles.exit}.tmp
sync ${vmFiles.exit}.tmp 2>/dev/null || sync
mv -f ${vmFiles.exit}.tmp ${vmFiles.exit}
`;

/** What a reaper is given: plain words, whoever starts it. */
export interface ReaperCommand {
  readonly vmDirectory: string;
  readonly guardDirectory?: string | undefined;
  readonly confinement?: Pick<Confinement, 'cgroups' | 'oomFiles'>;
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
}

export interface StartedReaper {
  /** Undefined when it could not be started. */
  readonly pid: Promise<number | undefined>;
  /**
   * Settles with the reaper's status: 75 when another one holds the claim, 0 when the VMM ran and is gone. It is never to
   * be waited for without a bound.
   */
  readonly ended: Promise<number>;
}

/** Starts a reaper as a child that outlives this process, and returns at once. */
export function startReaper(options: ReaperCommand): StartedReaper {
  const child = spawn('/bin/sh', ['-c', reaperScript, 'nkudo-vmm-reaper', ...reaperArguments(options, watcherScript)], { cwd: '/', env: { ...options.environment }, detached: true, stdio: 'ignore' });
  child.unref();
  const ended = new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? -1));
  });
  ended.catch(() => undefined); // The caller may have stopped listening; it observes the directory anyway.
  return { pid: Promise.resolve(child.pid), ended };
}

function reaperArguments({ vmDirectory, guardDirectory, confinement, command }: ReaperCommand, watcher: string): readonly string[] {
  const lists = [confinement?.cgroups ?? [], confinement?.oomFiles ?? []].map((lines) => lines.join('\n'));
  return [vmDirectory, guardDirectory ?? '', guardDirectory === undefined ? '' : watcher, ...lists, ...command];
}

/**
 * Starts the same reaper as a transient service of systemd. `ended` looks at the unit from time to time until `signal`
 * is aborted: nobody waits for a service as for a child.
 */
export function startReaperUnit(options: ReaperCommand, unit: VmmUnit, signal: AbortSignal): StartedReaper {
  const started = runUnit(options, unit);
  const pid = started.then(
    async (status) => (status === 0 ? Number(await askUnit('MainPID', unit, options)) : undefined),
    () => undefined,
  );
  const ended = started.then((status) => (status === 0 ? awaitUnit(options, unit, signal) : status));
  ended.catch(() => undefined); // As above.
  return { pid, ended };
}

/** How often a unit is asked whether it still runs, milliseconds. */
const unitPollMs = 200;

/** @returns 0 when the unit was started, 75 when there is one of that name */
async function runUnit(options: ReaperCommand, unit: VmmUnit): Promise<number> {
  const { vmDirectory, environment } = options;
  // systemd keeps what it runs in a file of lines, so that text of several lines has to lie in files of its own.
  writeFileSync(join(vmDirectory, vmFiles.reaperScript), reaperScript, { mode: 0o600 });
  if (options.guardDirectory !== undefined) writeFileSync(join(vmDirectory, vmFiles.watcherScript), watcherScript, { mode: 0o600 });
  const started = await runTool('systemd-run', unitArguments(options, unit), environment);
  if (started.code === 0) return 0;
  // The name is taken: a reaper of this microVM is there, or its unit is just going away.
  if ((await askUnit('ActiveState', unit, options)) !== 'inactive') return claimHeldStatus;
  throw new AppError('HYPERVISOR_FAILED', `systemd-run ended with ${started.code}: ${started.output.trim().slice(-outputShownMax)}`);
}

async function awaitUnit(options: ReaperCommand, unit: VmmUnit, signal: AbortSignal): Promise<number> {
  while (!signal.aborted) {
    await delay(unitPollMs, undefined, { ref: false });
    if ((await askUnit('ActiveState', unit, options)) === 'inactive') break;
  }
  return 0;
}

const outputShownMax = 500;

/** Nothing of it becomes shell or unit text: each word is one argument of the reaper's shell, and `$` and `%` are taken as they are. */
export function unitArguments(options: ReaperCommand, unit: VmmUnit): readonly string[] {
  const words = ['/bin/sh', join(options.vmDirectory, vmFiles.reaperScript), ...reaperArguments(options, vmFiles.watcherScript)];
  if (words.some((word) => word.includes('\n'))) throw new AppError('HYPERVISOR_FAILED', 'a path with a line break can not be given to systemd');
  const environment = Object.entries(options.environment).map(([name, value]) => `--setenv=${name}=${value}`);
  const properties = unit.properties.map((property) => `--property=${property}`);
  return ['--quiet', '--collect', '--no-ask-password', `--unit=${unit.name}`, ...properties, ...environment, '--', ...words.map(escapeForUnit)];
}

/** Source: systemd.service(5), COMMAND LINES: `$` begins a variable; systemd-run passes words on as such a line would have them. */
function escapeForUnit(word: string): string {
  return word.replaceAll('$', () => '$$');
}

async function askUnit(property: 'ActiveState' | 'MainPID', { name }: VmmUnit, { environment }: ReaperCommand): Promise<string> {
  return (await runTool('systemctl', ['show', `--property=${property}`, '--value', name], environment)).output.trim();
}

async function runTool(program: string, args: readonly string[], environment: Readonly<Record<string, string>>): Promise<{ readonly code: number | null; readonly output: string }> {
  const child = spawn(program, args, { env: { ...environment }, stdio: ['ignore', 'pipe', 'pipe'] });
  const chunks: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { code, output: Buffer.concat(chunks).toString('utf8') };
}

/** Whether a reaper or VMM holds the directory's claim now. */
export async function isClaimHeld(vmDirectory: string): Promise<boolean> {
  const claim = vmFile(vmDirectory, 'claim');
  try {
    await stat(claim);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
  // A shared lock, so that two probes don't see each other. A reaper that meets it ends with 75 and is started again.
  const probe = spawn('flock', ['-s', '-n', '-E', String(claimHeldStatus), claim, 'true'], { stdio: 'ignore' });
  const status = await new Promise<number | null>((resolve, reject) => {
    probe.once('error', reject);
    probe.once('exit', resolve);
  });
  return status === claimHeldStatus;
}

export interface ProcessRecord {
  readonly process: ProcessIdentity;
  /** Pid of the reaper that started it; absent when a spawn had to write the record. */
  readonly reaperPid?: number;
}

/** The reaper's record of the VMM process; null when there is none. */
export async function readProcessRecord(vmDirectory: string): Promise<ProcessRecord | null> {
  const record = await readRecord(vmFile(vmDirectory, 'process'));
  const process = record === null ? null : parseIdentity(record.fields);
  if (record === null || process === null) return null;
  const reaperPid = record.fields['reaperPid'];
  return typeof reaperPid === 'number' ? { process, reaperPid } : { process };
}

/** Tells the scratch files of spawns at the same time apart. */
let scratchFiles = 0;

/**
 * Writes the process record of a VMM whose reaper has not, or not yet. An existing record stays; the
 * reaper of a later VMM replaces this one in any case.
 */
export async function completeProcessRecord(vmDirectory: string, identity: ProcessIdentity): Promise<void> {
  const path = vmFile(vmDirectory, 'process');
  scratchFiles += 1;
  const scratch = `${path}.${process.pid}-${scratchFiles}.tmp`;
  await writeFile(scratch, `${JSON.stringify(identity)}\n`, { mode: 0o600 });
  try {
    await link(scratch, path);
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  } finally {
    await unlink(scratch);
  }
}

export interface ExitRecord {
  readonly process: ProcessIdentity;
  /** As the shell counts: the exit code, or 128 + the number of the signal that ended it. */
  readonly status: number;
  readonly atMs: number;
  /** Processes that the kernel killed for want of memory, among those that its limits count. */
  readonly oomKills: number;
}

/** The reaper's record of the end; null when there is none. */
export async function readExitRecord(vmDirectory: string): Promise<ExitRecord | null> {
  const record = await readRecord(vmFile(vmDirectory, 'exit'));
  if (record === null) return null;
  const process = parseIdentity(record.fields);
  const status = record.fields['status'];
  if (process === null || typeof status !== 'number') return null;
  const oomKills = record.fields['oomKills'];
  return { process, status, atMs: record.writtenAtMs, oomKills: typeof oomKills === 'number' ? oomKills : 0 };
}

/** Contents and time are read from one open file: another spawn may remove the name meanwhile. */
async function readRecord(path: string): Promise<{ fields: Record<string, unknown>; writtenAtMs: number } | null> {
  let file;
  try {
    file = await open(path, 'r');
    const writtenAtMs = Math.trunc((await file.stat()).mtimeMs);
    const value: unknown = JSON.parse(await file.readFile('utf8'));
    // JSON.parse gives unknown; an object is all that is claimed here, its fields are checked where used.
    return typeof value === 'object' && value !== null ? { fields: value as Record<string, unknown>, writtenAtMs } : null;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return null;
    if (error instanceof SyntaxError) return null; // Torn by a power loss: as good as no record.
    throw error;
  } finally {
    await file?.close();
  }
}

function parseIdentity(record: Record<string, unknown>): ProcessIdentity | null {
  const { pid, startTime, bootId } = record;
  if (typeof pid !== 'number' || typeof startTime !== 'string' || typeof bootId !== 'string') return null;
  return { pid, startTime, bootId };
}
