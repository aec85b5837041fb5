/**
 * What programs did to a directory, as strace saw it, and what a power cut after any part of it leaves: the kernel keeps
 * written data and changed names in memory until somebody syncs them, and may write any of it earlier. Owns that model;
 * what must be in the remains is the tests'.
 *
 * Not followed: memory maps (SQLite maps its index only, which it makes anew) and file modes.
 */
import { cpSync, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

/** Arguments of strace before the program. Of the files and directories of `directory` and of what is said on sockets. */
export function straceArguments(output: string): readonly string[] {
  const calls = ['openat', 'creat', 'write', 'pwrite64', 'writev', 'pwritev', 'ftruncate', 'fallocate', 'fsync', 'fdatasync', 'rename', 'renameat', 'renameat2', 'link', 'linkat', 'unlink', 'unlinkat', 'mkdir', 'mkdirat', 'rmdir', 'copy_file_range', 'sendmsg'];
  return ['-f', '-qq', '-y', '-xx', '-s', '1000000', '-e', 'signal=none', '-e', `trace=${calls.join(',')}`, '-o', output];
}

export type DiskEvent =
  | { readonly kind: 'open'; readonly path: string; readonly creates: boolean; readonly truncates: boolean }
  | { readonly kind: 'write'; readonly path: string; readonly data: Buffer; readonly at: number | null }
  | { readonly kind: 'truncate'; readonly path: string; readonly length: number }
  | { readonly kind: 'grow'; readonly path: string; readonly length: number }
  | { readonly kind: 'sync'; readonly path: string }
  | { readonly kind: 'rename' | 'link'; readonly from: string; readonly to: string }
  | { readonly kind: 'remove' | 'mkdir'; readonly path: string }
  /** A program came to a fault point. */
  | { readonly kind: 'point'; readonly point: string };

const hex = (text: string): Buffer => Buffer.from(text.replaceAll('\\x', ''), 'hex');
const bytes = (argument: string | undefined): Buffer => hex(/"([^"]*)"/.exec(argument ?? '')?.[1] ?? '');
const string = (argument: string | undefined): string => bytes(argument).toString();
const descriptorPath = (argument: string | undefined): string => hex(/<((?:\\x[0-9a-f]{2})*)>/.exec(argument ?? '')?.[1] ?? '').toString();

/** Events below the directory, in the order in which the calls returned. */
export function parseRecording(file: string, directory: string): readonly DiskEvent[] {
  const begun = new Map<string, string>();
  const events: DiskEvent[] = [];
  for (const line of readFileSync(file, 'latin1').split('\n')) {
    const [, pid = '', rest = ''] = /^(\d+)\s+(.*)$/.exec(line) ?? [];
    const unfinished = /^(.*) <unfinished \.\.\.>$/.exec(rest);
    if (unfinished !== null) {
      begun.set(pid, unfinished[1] ?? '');
      continue;
    }
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(rest);
    const whole = resumed === null ? rest : `${begun.get(pid) ?? ''}${resumed[1] ?? ''}`;
    const [, name = '', words = '', answer = ''] = /^(\w+)\((.*)\)\s+= (-?\d+)/.exec(whole) ?? [];
    // What failed changed nothing.
    if (name === '' || Number(answer) < 0) continue;
    events.push(...eventsOf(name, words, Number(answer)));
  }
  return events.filter((event) => event.kind === 'point' || ('path' in event ? event.path : event.to).startsWith(`${directory}/`) || ('path' in event && event.path === directory));
}

function eventsOf(name: string, words: string, answer: number): readonly DiskEvent[] {
  // Strings are hexadecimal, so a comma is always between arguments.
  const args = words.split(', ');
  const path = descriptorPath(args[0]);
  const at = (index: number): string => inDirectory(args[index], args[index + 1]);
  switch (name) {
    case 'openat':
      return [{ kind: 'open', path: at(0), creates: words.includes('O_CREAT'), truncates: words.includes('O_TRUNC') }];
    case 'creat':
      return [{ kind: 'open', path: string(args[0]), creates: true, truncates: true }];
    case 'write':
    case 'sendmsg':
    case 'writev': {
      const data = Buffer.concat([...words.matchAll(/"((?:\\x[0-9a-f]{2})*)"/g)].map(([, text]) => hex(text ?? '')));
      const points = [...data.toString('latin1').matchAll(/"point":"([^"]+)"/g)].map(([, point]): DiskEvent => ({ kind: 'point', point: point ?? '' }));
      return points.length > 0 ? points : path.startsWith('/') ? [{ kind: 'write', path, data: data.subarray(0, answer), at: null }] : [];
    }
    case 'pwrite64':
      return [{ kind: 'write', path, data: bytes(args[1]).subarray(0, answer), at: Number(args.at(-1)) }];
    case 'ftruncate':
      return [{ kind: 'truncate', path, length: Number(args[1]) }];
    case 'fallocate':
      return [{ kind: 'grow', path, length: Number(args[2]) + Number(args[3]) }];
    case 'fsync':
    case 'fdatasync':
      return [{ kind: 'sync', path }];
    case 'rename':
      return [{ kind: 'rename', from: string(args[0]), to: string(args[1]) }];
    case 'renameat':
    case 'renameat2':
      return [{ kind: 'rename', from: at(0), to: at(2) }];
    case 'link':
      return [{ kind: 'link', from: string(args[0]), to: string(args[1]) }];
    case 'linkat':
      return [{ kind: 'link', from: at(0), to: at(2) }];
    case 'unlink':
    case 'rmdir':
      return [{ kind: 'remove', path: string(args[0]) }];
    case 'unlinkat':
      return [{ kind: 'remove', path: at(0) }];
    case 'mkdir':
      return [{ kind: 'mkdir', path: string(args[0]) }];
    case 'mkdirat':
      return [{ kind: 'mkdir', path: at(0) }];
    default:
      // Something of it would be missing without anybody noticing.
      if (path.startsWith('/')) throw new Error(`${name} is not in the model of the disk`);
      return [];
  }
}

function inDirectory(directory: string | undefined, name: string | undefined): string {
  const path = string(name);
  return path.startsWith('/') ? path : join(descriptorPath(directory), path);
}

interface Inode {
  /** Null: a directory. */
  data: Buffer | null;
  synced: Buffer;
  /** Where the next write without a place goes. */
  cursor: number;
}

/** `strict`: only what was synced. `names`: names are ahead of their contents. `kept`: all. `torn`: all but half of the last write. */
export const remainsKinds = ['strict', 'names', 'kept', 'torn'] as const;
export type RemainsKind = (typeof remainsKinds)[number];

export interface Disk {
  apply(event: DiskEvent): void;
  /** What a power cut now leaves, by path below the directory; null is a directory. */
  remains(kind: RemainsKind): ReadonlyMap<string, Buffer | null>;
}

/** Starts from a copy of the directory, all of which is on the disk. */
export function createDisk(directory: string, copy: string): Disk {
  const names = new Map<string, Inode>();
  for (const name of readdirSync(copy, { recursive: true, encoding: 'utf8' })) {
    const kind = lstatSync(join(copy, name));
    if (kind.isDirectory()) names.set(join(directory, name), { data: null, synced: Buffer.alloc(0), cursor: 0 });
    if (!kind.isFile()) continue;
    const data = readFileSync(join(copy, name));
    names.set(join(directory, name), { data, synced: data, cursor: 0 });
  }
  /** Names that are on the disk. */
  const durable = new Map(names);
  let last: { readonly inode: Inode; readonly before: Buffer; readonly at: number; readonly data: Buffer } | null = null;

  function put(inode: Inode, data: Buffer, at: number): void {
    const before = inode.data ?? Buffer.alloc(0);
    const grown = Buffer.alloc(Math.max(before.length, at + data.length));
    before.copy(grown);
    data.copy(grown, at);
    inode.data = grown;
    last = { inode, before, at, data };
  }

  function open(path: string, creates: boolean, truncates: boolean): void {
    const known = names.get(path);
    if (known === undefined && creates) names.set(path, { data: Buffer.alloc(0), synced: Buffer.alloc(0), cursor: 0 });
    if (known?.data == null) return;
    known.cursor = 0;
    if (truncates) known.data = Buffer.alloc(0);
  }

  function move(from: string, to: string): void {
    const moved = names.get(from);
    if (moved === undefined) return;
    for (const [path, inode] of [...names]) {
      if (path !== from && !path.startsWith(`${from}/`)) continue;
      names.delete(path);
      names.set(to + path.slice(from.length), inode);
    }
  }

  /** A synced directory has the names on the disk that it has in memory. */
  function syncNames(path: string): void {
    for (const name of [...durable.keys()]) if (dirname(name) === path && !names.has(name)) durable.delete(name);
    for (const [name, inode] of names) if (dirname(name) === path) durable.set(name, inode);
  }

  function apply(event: DiskEvent): void {
    last = event.kind === 'point' ? last : null;
    switch (event.kind) {
      case 'open':
        return open(event.path, event.creates, event.truncates);
      case 'write': {
        const inode = names.get(event.path);
        if (inode?.data == null) return;
        put(inode, event.data, event.at ?? inode.cursor);
        if (event.at === null) inode.cursor += event.data.length;
        return;
      }
      case 'truncate':
      case 'grow': {
        const inode = names.get(event.path);
        if (inode?.data == null) return;
        const length = event.kind === 'truncate' ? event.length : Math.max(event.length, inode.data.length);
        inode.data = Buffer.concat([inode.data.subarray(0, length), Buffer.alloc(Math.max(0, length - inode.data.length))]);
        return;
      }
      case 'sync': {
        const inode = names.get(event.path);
        if (inode?.data == null) return syncNames(event.path);
        inode.synced = inode.data; // A write makes a new buffer.
        return;
      }
      case 'rename':
        return move(event.from, event.to);
      case 'link': {
        const inode = names.get(event.from);
        if (inode !== undefined) names.set(event.to, inode);
        return;
      }
      case 'remove':
        return void names.delete(event.path);
      case 'mkdir':
        return void names.set(event.path, { data: null, synced: Buffer.alloc(0), cursor: 0 });
      case 'point':
        return;
    }
  }

  return {
    apply,
    remains(kind) {
      const left = new Map<string, Buffer | null>();
      for (const [path, inode] of kind === 'strict' ? durable : names) {
        // A name whose directory is not on the disk can't be found.
        if (kind === 'strict' && dirname(path) !== directory && !hasParents(durable, path, directory)) continue;
        let content = inode.data === null ? null : kind === 'strict' || kind === 'names' ? inode.synced : inode.data;
        if (kind === 'torn' && last?.inode === inode && content !== null) {
          const half = Math.floor(last.data.length / 2);
          content = Buffer.concat([content]);
          last.before.copy(content, 0, 0, Math.min(last.before.length, content.length));
          last.data.copy(content, last.at, 0, half);
          if (last.at + half > last.before.length) content = content.subarray(0, last.at + half);
          else content = content.subarray(0, last.before.length);
        }
        left.set(relative(directory, path), content);
      }
      return left;
    },
  };
}

function hasParents(names: ReadonlyMap<string, Inode>, path: string, directory: string): boolean {
  for (let parent = dirname(path); parent !== directory; parent = dirname(parent)) if (!names.has(parent)) return false;
  return true;
}

/** Writes it out as a new directory. What was no file at the start (sockets) is gone, as after a boot. */
export function materialize(remains: ReadonlyMap<string, Buffer | null>, target: string): void {
  mkdirSync(target, { recursive: true, mode: 0o700 });
  for (const [name, content] of [...remains].sort(([a], [b]) => a.length - b.length)) {
    if (content === null) mkdirSync(join(target, name), { recursive: true, mode: 0o700 });
  }
  for (const [name, content] of remains) {
    // SQLite makes its index anew; after a power cut there is none.
    if (content === null || name.endsWith('-shm')) continue;
    mkdirSync(dirname(join(target, name)), { recursive: true, mode: 0o700 });
    writeFileSync(join(target, name), content, { mode: 0o600 });
  }
}

export function copyDirectory(from: string, to: string): void {
  cpSync(from, to, { recursive: true, filter: (path) => lstatSync(path).isFile() || lstatSync(path).isDirectory() });
}
