/**
 * The files of a container image in memory, as the layers on top of each other leave them: names, links,
 * owners and attributes, with the content elsewhere by number. Nothing here touches the host's file system,
 * so no path of a stranger can lead anywhere: `..` is refused, links are followed inside the tree only.
 *
 * Source: OCI image-spec v1.1 layer.md (whiteouts); parents that are links are followed as containerd does.
 */
import { AppError } from '#api/model/error-codes.ts';
import type { TarEntry } from './tar-reader.ts';

export interface Meta {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds. */
  readonly mtime: number;
  readonly xattrs: ReadonlyMap<string, Buffer>;
}

export interface DirectoryNode {
  readonly kind: 'directory';
  readonly children: Map<string, TreeNode>;
  /** The layer that each name was last written by: one file may have names of several. */
  readonly layers: Map<string, number>;
  meta: Meta;
}
export interface FileNode {
  readonly kind: 'file';
  /** Number of the content; several names of one node are hard links. */
  readonly content: number;
  readonly bytes: number;
  names: number;
  readonly meta: Meta;
}
export interface SymlinkNode {
  readonly kind: 'symlink';
  readonly target: string;
  names: number;
  readonly meta: Meta;
}
export type TreeNode = DirectoryNode | FileNode | SymlinkNode;

export interface LayerTree {
  readonly root: DirectoryNode;
  /** What the next entries belong to; 0 is the lowest. */
  beginLayer(): void;
  /**
   * Takes one entry over. For a file it answers the number that its content is to be kept under.
   * @throws IMAGE_REFUSED for what no disk is made from: devices, paths that lead out, too much of anything
   */
  apply(entry: Omit<TarEntry, 'content'>): { readonly content: number } | null;
  /** Numbers of contents that no name leads to any more, since the last call. */
  takeUnused(): readonly number[];
}

const nodesMax = 1_000_000;
const nameBytesMax = 255;
const pathBytesMax = 4_095;
/** As Linux counts them. */
const linksFollowedMax = 40;
/** What fits beside an inode of ext4 in one block. */
const xattrBytesMax = 3_072;
const whiteout = '.wh.';
const opaque = '.wh..wh..opq';
/** Those of an overlay are of its host, and mean nothing in the guest. */
const keptXattrPattern = /^(user|security|trusted(?!\.overlay))\.[\x21-\x7e]{1,240}$|^system\.posix_acl_(access|default)$/;
const directoryMeta: Meta = { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: new Map() };

export function createLayerTree(): LayerTree {
  const root: DirectoryNode = { kind: 'directory', children: new Map(), layers: new Map(), meta: directoryMeta };
  let layer = -1;
  let nodes = 0;
  let contents = 0;
  let unused: number[] = [];

  function add(parent: DirectoryNode, name: string, node: TreeNode): void {
    nodes += 1;
    if (nodes > nodesMax) throw refused(`more than ${nodesMax} files`);
    const before = parent.children.get(name);
    if (before !== undefined) drop(before);
    parent.children.set(name, node);
    parent.layers.set(name, layer);
  }

  function drop(node: TreeNode): void {
    nodes -= 1;
    if (node.kind === 'directory') {
      for (const child of node.children.values()) drop(child);
      return;
    }
    node.names -= 1;
    if (node.names === 0 && node.kind === 'file') unused.push(node.content);
  }

  function remove(parent: DirectoryNode, name: string): void {
    const node = parent.children.get(name);
    if (node === undefined) return;
    drop(node);
    parent.children.delete(name);
    parent.layers.delete(name);
  }

  /** A whiteout hides what lower layers brought, not what its own layer does. */
  function hideLower(parent: DirectoryNode, name: string): void {
    const node = parent.children.get(name);
    if (node === undefined) return;
    if ((parent.layers.get(name) ?? 0) < layer) return remove(parent, name);
    if (node.kind === 'directory') for (const child of [...node.children.keys()]) hideLower(node, child);
  }

  function makeDirectory(parent: DirectoryNode, name: string, meta: Meta): DirectoryNode {
    const made: DirectoryNode = { kind: 'directory', children: new Map(), layers: new Map(), meta };
    add(parent, name, made);
    return made;
  }

  /** The directory at the end of the path, with links followed inside the tree; what is missing is made. */
  function enter(components: readonly string[], shown: string): DirectoryNode {
    const trail: DirectoryNode[] = [root];
    const todo = [...components].reverse();
    let followed = 0;
    for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
      if (name === '' || name === '.') continue;
      // Only the target of a link has these; above the root is the root.
      if (name === '..') {
        if (trail.length > 1) trail.pop();
        continue;
      }
      const parent = trail.at(-1) ?? root;
      const child = parent.children.get(name);
      if (child === undefined) trail.push(makeDirectory(parent, checkName(name, shown), directoryMeta));
      else if (child.kind === 'directory') trail.push(child);
      else if (child.kind === 'symlink') {
        followed += 1;
        if (followed > linksFollowedMax) throw refused(`links that lead in a circle, at ${shown}`);
        if (child.target.startsWith('/')) trail.length = 1;
        todo.push(...child.target.split('/').reverse());
      } else throw refused(`a file where ${shown} wants a directory`);
    }
    return trail.at(-1) ?? root;
  }

  function apply(entry: Omit<TarEntry, 'content'>): { readonly content: number } | null {
    const shown = show(entry.path);
    const components = split(entry.path);
    const name = components.at(-1);
    const meta = metaOf(entry, shown);
    if (name === undefined) {
      if (entry.type !== 'directory') throw refused('a root that is no directory');
      root.meta = meta;
      return null;
    }
    const parent = enter(components.slice(0, -1), shown);
    if (name.startsWith(whiteout)) {
      if (name === opaque) for (const child of [...parent.children.keys()]) hideLower(parent, child);
      // Other names of this kind are bookkeeping of aufs.
      else if (!name.startsWith('.wh..wh.')) hideLower(parent, checkName(name.slice(whiteout.length), shown));
      return null;
    }
    checkName(name, shown);
    switch (entry.type) {
      case 'directory': {
        const there = parent.children.get(name);
        if (there?.kind === 'directory') {
          there.meta = meta;
          parent.layers.set(name, layer);
        } else makeDirectory(parent, name, meta);
        return null;
      }
      case 'symlink':
        if (entry.link === '' || entry.link.length > pathBytesMax || entry.link.includes('\0')) throw refused(`a link that leads nowhere: ${shown}`);
        add(parent, name, { kind: 'symlink', target: entry.link, names: 1, meta });
        return null;
      case 'hardLink':
        addLink(parent, name, entry.link, shown);
        return null;
      case 'file': {
        const node: FileNode = { kind: 'file', content: (contents += 1), bytes: entry.bytes, names: 1, meta };
        add(parent, name, node);
        return { content: node.content };
      }
      case 'other':
        throw refused(`a device, pipe or socket, from which no disk is made: ${shown}`);
    }
  }

  function addLink(parent: DirectoryNode, name: string, link: string, shown: string): void {
    const components = split(link);
    const last = components.at(-1);
    const target = last === undefined ? undefined : enter(components.slice(0, -1), shown).children.get(last);
    if (target === undefined || target.kind === 'directory') throw refused(`a hard link to no file: ${shown}`);
    if (parent.children.get(name) === target) return;
    target.names += 1;
    add(parent, name, target);
  }

  return {
    root,
    beginLayer: () => void (layer += 1),
    apply,
    takeUnused() {
      const taken = unused;
      unused = [];
      return taken;
    },
  };
}

function split(path: string): readonly string[] {
  if (path.length > pathBytesMax) throw refused('a path that is too long');
  const components = path.split('/').filter((component) => component !== '' && component !== '.');
  if (components.includes('..')) throw refused(`a path that leads out of it: ${show(path)}`);
  return components;
}

function checkName(name: string, shown: string): string {
  if (name === '' || name === '.' || name === '..' || name.startsWith(whiteout) || name.length > nameBytesMax || name.includes('\0')) throw refused(`a name that no file can have: ${shown}`);
  return name;
}

function metaOf({ mode, uid, gid, mtime, xattrs }: Omit<TarEntry, 'content'>, shown: string): Meta {
  const kept = new Map([...xattrs].filter(([name]) => keptXattrPattern.test(name)));
  const bytes = [...kept].reduce((sum, [name, value]) => sum + name.length + value.length + 20, 0);
  if (bytes > xattrBytesMax) throw refused(`more extended attributes than a file can have: ${shown}`);
  if (uid > 0xffff_fffe || gid > 0xffff_fffe) throw refused(`an owner that is none: ${shown}`);
  return { mode, uid, gid, mtime, xattrs: kept };
}

/** For a message: printable and short. */
function show(path: string): string {
  return path.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 120);
}

function refused(what: string): AppError {
  return new AppError('IMAGE_REFUSED', `the image has ${what}`);
}
