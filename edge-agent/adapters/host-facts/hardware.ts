/**
 * What the machine has, from /proc and /sys. Pure but for the tree that is read: a test gives one of its own. What a
 * kernel does not show is left out. Serial numbers, which /sys has too, are never looked at.
 */
import { hardwareMax, type HardwareFacts } from '#api/model/host.ts';

/** Files of /proc and /sys; what is missing or can't be read is null or empty. */
export interface SystemTree {
  text(path: string): string | null;
  list(path: string): readonly string[];
  /** Last part of where a symbolic link leads. */
  linkName(path: string): string | null;
}

export type Machine = Omit<HardwareFacts, 'stateTotalBytes' | 'stateFreeBytes'>;

const kibibyte = 1024;
/** The kernel counts disks in these, whatever their own are. */
const sectorBytes = 512;
/** PCI class code of displays, the first of its three bytes. */
const displayClass = '0x03';
/** More than any device has: what drivers say that don't know. */
const speedMaxMbps = 10_000_000;

export function readMachine(tree: SystemTree): Machine {
  return {
    cpuFlags: readFlags(tree).slice(0, hardwareMax.cpuFlags),
    numaNodes: readNumaNodes(tree).slice(0, hardwareMax.numaNodes),
    hugepages: readHugepages(tree).slice(0, hardwareMax.hugepages),
    disks: readDisks(tree).slice(0, hardwareMax.disks),
    nics: readNics(tree).slice(0, hardwareMax.nics),
    gpus: readGpus(tree).slice(0, hardwareMax.gpus),
  };
}

function readFlags(tree: SystemTree): readonly string[] {
  const line = /^(?:flags|Features)\s*:(.*)$/m.exec(tree.text('/proc/cpuinfo') ?? '');
  return (line?.[1] ?? '').trim().split(/\s+/).filter((flag) => flag !== '').sort();
}

function readNumaNodes(tree: SystemTree): HardwareFacts['numaNodes'] {
  const root = '/sys/devices/system/node';
  const ids = tree.list(root).flatMap((name) => (/^node\d+$/.test(name) ? [Number(name.slice('node'.length))] : []));
  return ids
    .toSorted((a, b) => a - b)
    .map((id) => ({
      id,
      cpus: line(tree, `${root}/node${id}/cpulist`),
      memoryBytes: Number(/MemTotal:\s+(\d+) kB/.exec(tree.text(`${root}/node${id}/meminfo`) ?? '')?.[1] ?? 0) * kibibyte,
    }));
}

function readHugepages(tree: SystemTree): HardwareFacts['hugepages'] {
  const root = '/sys/kernel/mm/hugepages';
  const sizes = tree.list(root).flatMap((name) => {
    const match = /^hugepages-(\d+)kB$/.exec(name);
    return match === null ? [] : [{ name, kib: Number(match[1]) }];
  });
  return sizes
    .toSorted((a, b) => a.kib - b.kib)
    .map(({ name, kib }) => ({ pageBytes: kib * kibibyte, total: count(tree, `${root}/${name}/nr_hugepages`), free: count(tree, `${root}/${name}/free_hugepages`) }));
}

/** Those with a device behind them: no loops, RAM disks, partitions, and nothing that is made of other disks. */
function readDisks(tree: SystemTree): HardwareFacts['disks'] {
  return tree
    .list('/sys/block')
    .filter((name) => !/^(?:loop|ram|zram|dm-|md|sr|fd|nbd)/.test(name) && (tree.linkName(`/sys/block/${name}/device`) !== null || name.startsWith('vd')))
    .toSorted()
    .map((name) => ({ name, sizeBytes: count(tree, `/sys/block/${name}/size`) * sectorBytes, isRotational: line(tree, `/sys/block/${name}/queue/rotational`) === '1' }))
    .filter(({ sizeBytes }) => sizeBytes > 0);
}

function readNics(tree: SystemTree): HardwareFacts['nics'] {
  return tree
    .list('/sys/class/net')
    .filter((name) => tree.linkName(`/sys/class/net/${name}/device`) !== null)
    .toSorted()
    .map((name) => {
      const at = `/sys/class/net/${name}`;
      const speed = Number(line(tree, `${at}/speed`));
      return {
        name,
        mac: line(tree, `${at}/address`),
        // -1, or an error, without a link; 4294967295 of drivers that don't know.
        speedMbps: Number.isInteger(speed) && speed > 0 && speed <= speedMaxMbps ? speed : 0,
        driver: tree.linkName(`${at}/device/driver`) ?? '',
        isUp: line(tree, `${at}/operstate`) === 'up',
      };
    });
}

function readGpus(tree: SystemTree): HardwareFacts['gpus'] {
  const root = '/sys/bus/pci/devices';
  return tree
    .list(root)
    .filter((address) => line(tree, `${root}/${address}/class`).startsWith(displayClass))
    .toSorted()
    .map((address) => ({ address, vendor: hex(tree, `${root}/${address}/vendor`), device: hex(tree, `${root}/${address}/device`), driver: tree.linkName(`${root}/${address}/driver`) ?? '' }));
}

function line(tree: SystemTree, path: string): string {
  return (tree.text(path) ?? '').trim();
}

function count(tree: SystemTree, path: string): number {
  const value = Number(line(tree, path));
  return Number.isSafeInteger(value) && value > 0 ? value : 0;
}

function hex(tree: SystemTree, path: string): string {
  return line(tree, path).replace(/^0x/, '');
}

/** Parts of the whole by which free space has to change before it is told again. */
const freeSteps = 20;

/** Free space as it is told: the last value again, unless it is far from it by now. */
export function tellFree(totalBytes: number, freeBytes: number, toldBytes: number | undefined): number {
  return toldBytes !== undefined && Math.abs(freeBytes - toldBytes) < totalBytes / freeSteps ? toldBytes : freeBytes;
}

const skewStepMs = 10_000;

/** In whole steps; undefined below half of one, which is no more than a slow answer may make. */
export function tellSkew(skewMs: number | undefined): number | undefined {
  const steps = Math.round((skewMs ?? 0) / skewStepMs);
  return steps === 0 ? undefined : steps * skewStepMs;
}
