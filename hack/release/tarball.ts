/** A tar.gz with names, modes and one time that are given, so that the same input gives the same bytes. */
import { createReadStream, createWriteStream, statSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { pack } from 'tar-stream';
import type { PackageFile } from './package-files.ts';

export type TarEntry = { readonly name: string; readonly mode: number } & (
  | { readonly kind: 'file'; readonly content: Uint8Array }
  /** Read while it is written. */
  | { readonly kind: 'source'; readonly path: string }
  | { readonly kind: 'link'; readonly to: string }
  | { readonly kind: 'directory' }
);

/** @param sourceDateEpoch seconds, the time of every entry */
export async function writeTarball(target: string, entries: readonly TarEntry[], sourceDateEpoch: number): Promise<void> {
  const archive = pack();
  const written = pipeline(archive, createGzip({ level: 6 }), createWriteStream(target));
  const add = async (entry: TarEntry): Promise<void> => {
    const header = { name: entry.name, mode: entry.mode, mtime: new Date(sourceDateEpoch * 1_000), uid: 0, gid: 0, uname: 'root', gname: 'root' };
    switch (entry.kind) {
      case 'directory':
        return void archive.entry({ ...header, type: 'directory' });
      case 'link':
        return void archive.entry({ ...header, type: 'symlink', linkname: entry.to });
      case 'file':
        return void archive.entry(header, Buffer.from(entry.content));
      case 'source':
        return pipeline(createReadStream(entry.path, { highWaterMark: 2 ** 20 }), archive.entry({ ...header, size: statSync(entry.path).size }));
    }
  };
  const sorted = entries.toSorted((left, right) => (left.name < right.name ? -1 : 1));
  // An error of the output ends the input too, and is told by `written`.
  const filled = (async () => {
    for (const entry of sorted) await add(entry);
    archive.finalize();
  })();
  await Promise.all([written, filled]);
}

/** The files of the agent below one folder, at the paths that they have on a host. */
export function agentTarEntries(files: readonly PackageFile[], folder: string): readonly TarEntry[] {
  return files.map((file): TarEntry => {
    const name = folder + file.target;
    switch (file.kind) {
      case 'directory':
        return { kind: 'directory', name, mode: file.mode };
      case 'link':
        return { kind: 'link', name, mode: 0o777, to: file.to };
      case 'program':
        return { kind: 'source', name, mode: file.mode, path: file.source };
      case 'file':
      case 'setting':
        return { kind: 'file', name, mode: file.mode, content: file.content };
    }
  });
}
