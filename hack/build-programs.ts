/**
 * Bundles the controller and the edge agent to one JavaScript file each, for the tests and the demo: they start several
 * times faster than from source. Owns the bundler's options; releases are built elsewhere.
 */
import { build, type Metafile } from 'esbuild';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { buildOnce, contentKey, repositoryRoot } from './build-cache.ts';

/** How to start a program: `node` with `script` as its first argument. */
export interface ProductPrograms {
  readonly node: string;
  /** `nkudo-controller` */
  readonly controller: string;
  /** `nkudo-edge` */
  readonly edge: string;
  /** Source files of which the controller holds anything, relative to the source tree. */
  readonly controllerInputs: readonly string[];
}

/** CommonJS dependencies inside an ES module bundle still call `require`. */
const banner = "import { createRequire as nkudoCreateRequire } from 'node:module'; const require = nkudoCreateRequire(import.meta.url);";

/** Bundles both programs (about a second) into a folder named by the content of the result. */
export async function buildPrograms(): Promise<ProductPrograms> {
  const [controller, edge] = await Promise.all([bundle('controller/main.ts', 'nkudo-controller'), bundle('edge-agent/main.ts', 'nkudo-edge')]);
  const files = [...controller.files, ...edge.files, ...migrations()];
  const directory = await buildOnce({
    kind: 'programs',
    key: contentKey(files.flatMap((file) => [file.path, file.contents])),
    build: async (staging) => {
      for (const file of files) {
        await mkdir(dirname(join(staging, file.path)), { recursive: true });
        await writeFile(join(staging, file.path), file.contents);
      }
    },
  });
  return {
    node: process.execPath,
    controller: join(directory, 'nkudo-controller.mjs'),
    edge: join(directory, 'nkudo-edge.mjs'),
    controllerInputs: controller.inputs,
  };
}

interface OutputFile {
  /** Relative to the folder of the programs. */
  readonly path: string;
  readonly contents: Uint8Array;
}

async function bundle(entry: string, name: string): Promise<{ readonly files: readonly OutputFile[]; readonly inputs: readonly string[] }> {
  const result = await build({
    absWorkingDir: repositoryRoot,
    entryPoints: [entry],
    outfile: `${name}.mjs`,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    sourcemap: 'linked',
    sourcesContent: false,
    write: false,
    external: ['pg-native'],
    banner: { js: banner },
    metafile: true,
    logLevel: 'silent',
  });
  return { files: result.outputFiles.map((file) => ({ path: basename(file.path), contents: file.contents })), inputs: inputsOf(result.metafile) };
}

/** What went into the output of a bundler, without what it left out. */
export function inputsOf({ outputs }: Metafile): readonly string[] {
  const used = Object.values(outputs).flatMap(({ inputs }) => Object.entries(inputs).filter(([, { bytesInOutput }]) => bytesInOutput > 0));
  return [...new Set(used.map(([path]) => path))].sort();
}

/** The controller reads its migrations from the folder beside it. */
function migrations(): OutputFile[] {
  const source = join(repositoryRoot, 'db', 'migrations');
  return readdirSync(source)
    .filter((name) => name.endsWith('.sql'))
    .sort()
    .map((name) => ({ path: join('migrations', name), contents: readFileSync(join(source, name)) }));
}
