/** Two layers against each other, and any entries at all: no path ever leads out of the tree. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isAppError } from '#api/model/error-codes.ts';
import { createLayerTree, type DirectoryNode, type LayerTree } from './layer-tree.ts';
import type { TarEntry, TarType } from './tar-reader.ts';

const entry = (path: string, type: TarType = 'file', link = ''): Omit<TarEntry, 'content'> => ({ path, type, link, mode: 0o644, uid: 0, gid: 0, mtime: 0, bytes: 1, xattrs: new Map() });

function build(...layers: readonly (readonly Omit<TarEntry, 'content'>[])[]): LayerTree {
  const tree = createLayerTree();
  for (const entries of layers) {
    tree.beginLayer();
    for (const each of entries) tree.apply(each);
  }
  return tree;
}

function paths({ children }: DirectoryNode, at = ''): readonly string[] {
  return [...children].flatMap(([name, node]) => (node.kind === 'directory' ? [`${at}/${name}/`, ...paths(node, `${at}/${name}`)] : [`${at}/${name}`])).sort();
}

test('a whiteout hides lower layers only, wherever it stands in its own', () => {
  const lower = [entry('a/one'), entry('a/two'), entry('a/deep/three')];
  expect(paths(build(lower, [entry('a/new'), entry('a/.wh..wh..opq')]).root)).toEqual(['/a/', '/a/new']);
  expect(paths(build(lower, [entry('a/.wh..wh..opq'), entry('a/deep/new')]).root)).toEqual(['/a/', '/a/deep/', '/a/deep/new']);
  expect(paths(build(lower, [entry('a/one'), entry('a/.wh.one'), entry('a/.wh.two')]).root)).toEqual(['/a/', '/a/deep/', '/a/deep/three', '/a/one']);
  expect(paths(build(lower, [entry('.wh.a')]).root)).toEqual([]);
  // A hard link to a file of a lower layer is of its own layer, the file's old name is not.
  expect(paths(build(lower, [entry('a/link', 'hardLink', 'a/one'), entry('a/.wh.one'), entry('a/.wh.link')]).root)).toEqual(['/a/', '/a/deep/', '/a/deep/three', '/a/link', '/a/two']);
});

test('contents that no name leads to are told once, and a hard link keeps one', () => {
  const tree = build([entry('a'), entry('b', 'hardLink', 'a'), entry('c')], [entry('.wh.a'), entry('c')]);
  expect([tree.takeUnused(), tree.takeUnused()]).toEqual([[2], []]);
  tree.beginLayer();
  tree.apply(entry('.wh.b'));
  expect(tree.takeUnused()).toEqual([1]);
});

test('any entries make a tree whose names are names, or are refused', () => {
  const name = fc.constantFrom('a', 'b', '..', '.', '', '.wh.a', '.wh..wh..opq', 'c\0', '.wh...');
  const path = fc.array(name, { maxLength: 5 }).map((names) => names.join('/'));
  const any = fc.record({ path, type: fc.constantFrom<TarType>('file', 'hardLink', 'symlink', 'directory', 'other'), link: fc.oneof(path, path.map((text) => `/${text}`)) });
  fc.assert(
    fc.property(fc.array(fc.array(any, { maxLength: 12 }), { maxLength: 3 }), (layers) => {
      const tree = createLayerTree();
      for (const entries of layers) {
        tree.beginLayer();
        for (const each of entries) {
          try {
            tree.apply(entry(each.path, each.type, each.link));
          } catch (error) {
            if (!isAppError(error) || error.code !== 'IMAGE_REFUSED') throw error;
          }
        }
      }
      for (const each of paths(tree.root)) expect(each).toMatch(/^(\/(a|b))+\/?$/);
    }),
    { numRuns: 2_000 },
  );
});
