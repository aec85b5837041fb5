/**
 * Judges what was found on a host: what lacks, why it matters and how to mend it. Pure; commands/check.ts looks.
 * `missing` is what no microVM runs without, `warning` what only some need or what will hurt later.
 */

export type CheckState = 'ok' | 'warning' | 'missing';

export interface CheckItem {
  readonly name: string;
  readonly state: CheckState;
  readonly found: string;
  /** Absent when nothing is to be done. */
  readonly fix?: string;
}

export interface FoundHost {
  readonly architecture: string;
  readonly cpuFlags: readonly string[];
  /** Of the cloud-hypervisor executable, such as `v53.0`; null when it can't be run. */
  readonly hypervisor: { readonly path: string; readonly version: string | null };
  readonly isKvmPresent: boolean;
  readonly isKvmUsable: boolean;
  readonly isTunUsable: boolean;
  readonly cgroups: 'v2' | 'v1' | 'hybrid' | 'none';
  /** `usersProblem`: why VMMs share the user of the agent; empty when they don't. */
  readonly isolation: { readonly usersProblem: string; readonly landlock: 'yes' | 'no' | 'unknown' };
  /** By name, whether it is on PATH. */
  readonly programs: Readonly<Record<string, boolean>>;
  readonly stateDirectory: { readonly path: string; readonly exists: boolean; readonly isDirectory: boolean; readonly isOwn: boolean; readonly mode: number; readonly isWritable: boolean };
  /** Of the file system that the state directory is or will be on, bytes. */
  readonly space: { readonly freeBytes: number; readonly totalBytes: number };
  readonly wallMs: number;
  /** A time that has certainly passed, since the control plane signed the certificate then; null when not enrolled. */
  readonly newestKnownMs: number | null;
  readonly certificateEndsMs: number | null;
  /** Empty when not enrolled. `problem` null: a connection was made. */
  readonly endpoints: readonly { readonly endpoint: string; readonly problem: string | null }[];
}

/** The API and files of these were measured; older ones lack parts of it. */
const hypervisorVersionMin = 53;
const mebibyte = 1024 * 1024;
/** Below this the journal and the logs may find no room. */
const freeBytesMin = 256 * mebibyte;
const freeBytesComfortable = 2048 * mebibyte;
/** A certificate is trusted from a little before it was signed; clocks of healthy hosts differ by less. */
const clockToleranceMs = 60_000;

export function judgeHost(host: FoundHost): readonly CheckItem[] {
  return [kvm(host), cpu(host), hypervisor(host), cgroups(host), isolation(host), tun(host), networkPrograms(host), imagePrograms(host), logPrograms(host), guardPrograms(host), stateDirectory(host), space(host), clock(host), certificate(host), controlPlane(host)];
}

function kvm({ isKvmPresent, isKvmUsable }: FoundHost): CheckItem {
  if (isKvmUsable) return { name: '/dev/kvm', state: 'ok', found: 'can be opened' };
  return isKvmPresent
    ? { name: '/dev/kvm', state: 'missing', found: 'can not be opened by this user', fix: 'run the agent as root, or add its user to the group that owns /dev/kvm' }
    : { name: '/dev/kvm', state: 'missing', found: 'does not exist', fix: 'switch on virtualization (VT-x, AMD-V) in the firmware, then: modprobe kvm_intel, or kvm_amd' };
}

function cpu({ architecture, cpuFlags, isKvmUsable }: FoundHost): CheckItem {
  if (architecture !== 'x64') return { name: 'cpu', state: 'ok', found: `${architecture}; its virtualization shows in /dev/kvm` };
  const flag = cpuFlags.find((each) => each === 'vmx' || each === 'svm');
  if (flag !== undefined) return { name: 'cpu', state: 'ok', found: flag };
  // Some kernels virtualize without the extensions, or hide them from a guest that may use KVM all the same.
  if (isKvmUsable) return { name: 'cpu', state: 'ok', found: 'shows neither vmx nor svm, and /dev/kvm can be used' };
  return { name: 'cpu', state: 'missing', found: 'neither vmx nor svm', fix: 'switch on VT-x or AMD-V in the firmware; in a virtual machine, switch on nested virtualization' };
}

function hypervisor({ hypervisor: { path, version } }: FoundHost): CheckItem {
  const name = 'cloud-hypervisor';
  if (version === null) return { name, state: 'missing', found: `${path} can not be run`, fix: 'install cloud-hypervisor, or say where it is: --hypervisor' };
  const major = Number(/v(\d+)\./.exec(version)?.[1] ?? Number.NaN);
  if (Number.isNaN(major)) return { name, state: 'warning', found: `${version}, not a release known here`, fix: `use v${hypervisorVersionMin}.0 or later` };
  if (major < hypervisorVersionMin) return { name, state: 'missing', found: `${version} is too old`, fix: `install v${hypervisorVersionMin}.0 or later` };
  return { name, state: 'ok', found: version };
}

function cgroups({ cgroups: version }: FoundHost): CheckItem {
  if (version === 'none') return { name: 'cgroups', state: 'warning', found: 'not mounted', fix: 'mount -t cgroup2 none /sys/fs/cgroup' };
  return { name: 'cgroups', state: 'ok', found: version };
}

function isolation({ isolation: { usersProblem, landlock }, cgroups: version }: FoundHost): CheckItem {
  const name = 'isolation of microVMs';
  const lacks = [
    ...(usersProblem === '' ? [] : [`they share the user of the agent: ${usersProblem}`]),
    ...(version === 'none' ? ['they have no limits: there are no control groups'] : []),
    ...(landlock === 'no' ? ['they do not shut themselves out of files: this kernel has no Landlock'] : []),
  ];
  if (lacks.length === 0) return { name, state: 'ok', found: `users of their own, limits, seccomp${landlock === 'yes' ? ', Landlock' : '; Landlock shows with the first one'}` };
  return { name, state: 'warning', found: lacks.join('; '), fix: 'run the agent as root with util-linux installed, and a kernel of 6.2 or later with lsm=landlock among its parameters' };
}

function tun({ isTunUsable }: FoundHost): CheckItem {
  if (isTunUsable) return { name: '/dev/net/tun', state: 'ok', found: 'can be opened' };
  return { name: '/dev/net/tun', state: 'warning', found: 'can not be opened; microVMs with networks will not start', fix: 'modprobe tun, and run the agent as root' };
}

function networkPrograms({ programs }: FoundHost): CheckItem {
  const packages: Readonly<Record<string, string>> = { ip: 'iproute2', nft: 'nftables', dnsmasq: 'dnsmasq' };
  const lacking = Object.keys(packages).filter((program) => programs[program] !== true);
  if (lacking.length === 0) return { name: 'network programs', state: 'ok', found: Object.keys(packages).join(', ') };
  const wanted = lacking.map((program) => packages[program] ?? program).join(', ');
  return { name: 'network programs', state: 'warning', found: `${lacking.join(', ')} not on PATH; microVMs with networks will not start`, fix: `install ${wanted}` };
}

function imagePrograms({ programs }: FoundHost): CheckItem {
  const needed = ['mkfs.ext4', 'debugfs', 'resize2fs'];
  const lacking = needed.filter((program) => programs[program] !== true);
  if (lacking.length === 0) return { name: 'image programs', state: 'ok', found: needed.join(', ') };
  return { name: 'image programs', state: 'warning', found: `${lacking.join(', ')} not found; container images can not become disks`, fix: 'install e2fsprogs' };
}

function logPrograms({ programs }: FoundHost): CheckItem {
  const name = 'log programs';
  if (programs['fallocate'] === true) return { name, state: 'ok', found: 'fallocate' };
  return { name, state: 'warning', found: 'fallocate not on PATH; the logs of microVMs grow without a bound', fix: 'install util-linux' };
}

function guardPrograms({ programs }: FoundHost): CheckItem {
  const needed = ['sh', 'flock', 'sleep'];
  const lacking = needed.filter((program) => programs[program] !== true);
  if (lacking.length === 0) return { name: 'basic programs', state: 'ok', found: needed.join(', ') };
  return { name: 'basic programs', state: 'missing', found: `${lacking.join(', ')} not on PATH`, fix: 'install util-linux and coreutils' };
}

function stateDirectory({ stateDirectory: { path, exists, isDirectory, isOwn, mode, isWritable } }: FoundHost): CheckItem {
  const name = 'state directory';
  if (!exists) return { name, state: 'warning', found: `${path} does not exist yet`, fix: 'nkudo-edge enroll makes it' };
  if (!isDirectory) return { name, state: 'missing', found: `${path} is not a directory`, fix: 'move it away, or say another one: --state-dir' };
  if (!isWritable) return { name, state: 'missing', found: `${path} can not be written by this user`, fix: 'run as the user of the agent (root), and look whether the file system is mounted read-only' };
  if (!isOwn) return { name, state: 'warning', found: `${path} belongs to another user`, fix: 'run as the user of the agent' };
  const others = mode & 0o077;
  if (others !== 0) return { name, state: 'warning', found: `${path} is open to others (mode ${(mode & 0o777).toString(8)})`, fix: `chmod 700 ${path}` };
  return { name, state: 'ok', found: path };
}

function space({ space: { freeBytes, totalBytes } }: FoundHost): CheckItem {
  const found = `${Math.floor(freeBytes / mebibyte)} MiB free of ${Math.floor(totalBytes / mebibyte)} MiB`;
  const fix = 'free space on the file system of the state directory';
  if (freeBytes < freeBytesMin) return { name: 'disk space', state: 'missing', found, fix };
  return freeBytes < freeBytesComfortable ? { name: 'disk space', state: 'warning', found, fix } : { name: 'disk space', state: 'ok', found };
}

function clock({ wallMs, newestKnownMs }: FoundHost): CheckItem {
  const found = new Date(wallMs).toISOString();
  if (newestKnownMs === null) return { name: 'clock', state: 'ok', found: `${found}; nothing to compare it with before the host is enrolled` };
  if (wallMs + clockToleranceMs >= newestKnownMs) return { name: 'clock', state: 'ok', found };
  return { name: 'clock', state: 'warning', found: `${found} is before ${new Date(newestKnownMs).toISOString()}, which has passed`, fix: 'set the clock: timedatectl set-ntp true, or chronyc makestep' };
}

function certificate({ wallMs, certificateEndsMs }: FoundHost): CheckItem {
  const name = 'enrollment';
  if (certificateEndsMs === null) return { name, state: 'warning', found: 'this host is not enrolled', fix: 'nkudo-edge enroll --token-file <file>' };
  const until = new Date(certificateEndsMs).toISOString();
  return certificateEndsMs <= wallMs
    ? { name, state: 'warning', found: `the certificate ended ${until}`, fix: 'nothing while the agent reaches the control plane, which renews it; else: nkudo-edge renew' }
    : { name, state: 'ok', found: `certificate until ${until}` };
}

function controlPlane({ endpoints }: FoundHost): CheckItem {
  const name = 'control plane';
  if (endpoints.length === 0) return { name, state: 'ok', found: 'no endpoint is known before the host is enrolled' };
  const reached = endpoints.filter(({ problem }) => problem === null);
  const failed = endpoints.flatMap(({ endpoint, problem }) => (problem === null ? [] : [`${endpoint} (${problem})`]));
  const fix = 'look at DNS, routes and firewalls for outgoing TCP; microVMs without a lease go on meanwhile';
  if (reached.length === 0) return { name, state: 'warning', found: `no endpoint can be reached: ${failed.join(', ')}`, fix };
  return failed.length === 0 ? { name, state: 'ok', found: reached.map(({ endpoint }) => endpoint).join(', ') } : { name, state: 'warning', found: `not reached: ${failed.join(', ')}`, fix };
}
