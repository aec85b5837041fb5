/**
 * Makes an ext4 image of the files of a container image, with mkfs.ext4 and debugfs of e2fsprogs, without
 * mounting anything. The tree is laid out below a directory that is the agent's alone; every step of a path
 * in it is a directory that was made here, so nothing is ever followed. Durable only when the caller syncs.
 */
import { createHash } from 'node:crypto';
import { chmodSync, lchownSync, linkSync, lutimesSync, mkdirSync, renameSync, symlinkSync, utimesSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { AppError } from '#api/model/error-codes.ts';
import { runHostProgram } from './host-program.ts';
import type { DirectoryNode, Meta, TreeNode } from './layer-tree.ts';

export interface FileSystemRequest {
  readonly root: DirectoryNode;
  /** Where the contents lie by number. Those are moved. */
  readonly contents: string;
  /** A directory that does not exist yet. */
  readonly scratch: string;
  /** The image, which does not exist yet. */
  readonly target: string;
  /** The digest that it is made from, which gives the file system its UUID. */
  readonly sha256: string;
  /** PATH of the agent. */
  readonly path: string | undefined;
  /** @throws DISK_FULL */
  readonly makeRoom: (bytes: number) => Promise<void>;
  readonly signal: AbortSignal;
}

/** What every Linux since 4.0 mounts, whatever mke2fs.conf of the host says. */
const features = 'none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum';
const blockBytes = 4_096;
const inodeBytes = 256;
/** Room of a small root file system for what its guest writes before its disk is made larger. */
const spareBytes = 64 * 2 ** 20;
/** Entries after which other work of the agent gets its turn. */
const entriesAtOnce = 200;

/** @throws IMAGE_TOOL_MISSING, IMAGE_REFUSED, DISK_FULL */
export async function makeFileSystem(request: FileSystemRequest): Promise<void> {
  const { root, scratch, target, path, signal, sha256, makeRoom } = request;
  const { blocks, inodes, xattrs } = await layOut(request);
  await makeRoom(blocks * blockBytes + inodes * inodeBytes);
  const bytes = Math.ceil(((blocks * blockBytes + inodes * inodeBytes) * 1.1 + spareBytes) / 2 ** 20) * 2 ** 20;
  const uuid = createHash('sha256').update(`root file system ${sha256}`).digest('hex').replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*$/, '$1-$2-5$3-8$4-$5');
  const inodesWanted = Math.max(inodes + 1_024, Math.ceil(bytes / 16_384));
  const made = await runHostProgram({
    program: 'mkfs.ext4',
    args: ['-q', '-F', '-d', scratch, '-b', String(blockBytes), '-I', String(inodeBytes), '-N', String(inodesWanted), '-m', '0', '-O', features, '-U', uuid, '-E', `hash_seed=${uuid},root_owner=${root.meta.uid}:${root.meta.gid}`, target, `${bytes / 1024}k`],
    path,
    signal,
  });
  if (made.status !== 0) {
    // Somebody else may have taken the space; then that is what is said.
    await makeRoom(0);
    throw refusal('mkfs.ext4', made.complaint);
  }
  chmodSync(target, 0o600);
  await rm(scratch, { recursive: true, force: true });
  await finish(xattrs, request);
}

/** Names with attributes that no program of the host puts there, and the values, as files. */
interface Attribute {
  /** Within the tree, from its root. */
  readonly path: string;
  readonly name: string;
  readonly value: Buffer;
}

async function layOut({ root, contents, scratch, signal }: FileSystemRequest): Promise<{ readonly blocks: number; readonly inodes: number; readonly xattrs: readonly Attribute[] }> {
  const isRoot = process.getuid?.() === 0;
  const placed = new Map<TreeNode, Buffer>();
  const xattrs: Attribute[] = [];
  let blocks = 0;
  let inodes = 16;
  let entries = 0;

  function dress(at: Buffer, { mode, uid, gid, mtime }: Meta, kind: TreeNode['kind']): void {
    if (isRoot) lchownSync(at, uid, gid);
    else if (uid !== process.getuid?.() || gid !== process.getgid?.()) throw new AppError('IMAGE_TOOL_MISSING', 'only root can make files of other owners, which the image has');
    if (kind === 'symlink') return lutimesSync(at, mtime, mtime);
    // A change of owner takes these bits away, so they come after it.
    chmodSync(at, mode);
    utimesSync(at, mtime, mtime);
  }

  async function place(directory: DirectoryNode, at: Buffer, shown: string): Promise<void> {
    blocks += 2 + Math.ceil(directory.children.size / 32);
    inodes += 1;
    for (const [name, node] of directory.children) {
      entries += 1;
      if (entries % entriesAtOnce === 0) {
        await nextTurn();
        signal.throwIfAborted();
      }
      const path = Buffer.concat([at, slash, Buffer.from(name, 'latin1')]);
      const inside = `${shown}/${name}`;
      const first = placed.get(node);
      if (first !== undefined) {
        linkSync(first, path);
        continue;
      }
      for (const [attribute, value] of node.meta.xattrs) xattrs.push({ path: inside, name: attribute, value });
      if (node.meta.xattrs.size > 0) blocks += 1;
      if (node.kind === 'directory') {
        mkdirSync(path, { mode: 0o700 });
        await place(node, path, inside);
      } else {
        inodes += 1;
        placed.set(node, path);
        if (node.kind === 'file') {
          blocks += Math.ceil(node.bytes / blockBytes) + Math.ceil(node.bytes / (blockBytes * 1_000));
          renameSync(join(contents, String(node.content)), path);
        } else {
          blocks += 1;
          symlinkSync(Buffer.from(node.target, 'latin1'), path);
        }
      }
      dress(path, node.meta, node.kind);
    }
  }

  mkdirSync(scratch, { mode: 0o700 });
  await place(root, Buffer.from(scratch), '');
  for (const [attribute, value] of root.meta.xattrs) xattrs.push({ path: '/', name: attribute, value });
  return { blocks, inodes, xattrs };
}

const slash = Buffer.from('/');

/** What mkfs.ext4 does not take over. debugfs tells its failures on standard error only, below a line with its version. */
async function finish(xattrs: readonly Attribute[], { root, contents, target, path, signal }: FileSystemRequest): Promise<void> {
  const lines = root.meta.mode === 0o755 ? [] : [`set_inode_field / mode 04${root.meta.mode.toString(8).padStart(4, '0')}`];
  for (const [index, attribute] of xattrs.entries()) {
    if (/[\n\r]/.test(attribute.path)) throw new AppError('IMAGE_REFUSED', 'the image has extended attributes on a name with a line break');
    const value = join(contents, `xattr-${index}`);
    await writeFile(value, attribute.value, { mode: 0o600 });
    lines.push(`ea_set -f ${quote(value)} ${quote(attribute.path)} ${attribute.name}`);
  }
  if (lines.length === 0) return;
  const script = join(contents, 'script');
  await writeFile(script, `${lines.join('\n')}\n`, { mode: 0o600, encoding: 'latin1' });
  const { status, complaint } = await runHostProgram({ program: 'debugfs', args: ['-w', '-f', script, target], path, signal });
  const problems = complaint.split('\n').filter((line) => line !== '' && !/^debugfs \d/.test(line));
  if (status !== 0 || problems.length > 0) throw refusal('debugfs', problems.join('\n'));
}

/** Source: e2fsprogs lib/ss/parse.c: a quotation mark inside quotation marks is doubled. */
function quote(text: string): string {
  return `"${text.replaceAll('"', '""')}"`;
}

/** Makes the file system as large as its file. @throws IMAGE_TOOL_MISSING, IMAGE_REFUSED */
export async function growFileSystem(file: string, path: string | undefined, signal: AbortSignal): Promise<void> {
  const { status, complaint } = await runHostProgram({ program: 'resize2fs', args: [file], path, signal });
  if (status !== 0) throw refusal('resize2fs', complaint);
}

function refusal(program: string, complaint: string): AppError {
  return new AppError('IMAGE_REFUSED', `${program}: ${complaint.split('\n').slice(-3).join('; ').slice(0, 300)}`);
}
