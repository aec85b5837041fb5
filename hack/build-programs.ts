/**
 * Bundles the controller and the edge agent to one JavaScript file each, for the tests and the demo: they start several
 * times faster than from source. Owns the bundler's options; releases are built elsewhere.
 */
import { build } from 'esbuild';
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheRoot, contentKey, repositoryRoot } from './build-cache.ts';

/** How to start a program: `node` with `script` as its first argument. */
export interface ProductPrograms {
  readonly node: string;
  /** `nkudo-controller` */
  readonly controller: string;
  /** `nkudo-edge` */
  readonly edge: string;
}

/** CommonJS dependencies inside an ES module bundle still call `require`. */
const banner = "import { createRequire as nkudoCreateRequire } from 'node:module'; const require = nkudoCreateRequire(import.meta.url);";

/** Bundles both programs (about a second) into a folder named by the content of the result. */
export async function buildPrograms(): Promise<ProductPrograms> {
  const [controller, edge] = await Promise.all([bundle('controller/main.ts', 'nkudo-controller'), bundle('edge-agent/main.ts', 'nkudo-edge')]);
  return { node: process.execPath, controller, edge };
}

async function bundle(entry: string, name: string): Promise<string> {
  const result = await build({
    absWorkingDir: repositoryRoot,
    entryPoints: [entry],
    outfile: `${name}.mjs`,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    sourcemap: 'external',
    sourcesContent: false,
    write: false,
    external: ['pg-native'],
    banner: { js: banner },
    logLevel: 'silent',
    loader: { '.sql': 'text' },
  });
  const directory = join(cacheRoot(), 'programs', contentKey(result.outputFiles.map((file) => file.contents)));
  mkdirSync(directory, { recursive: true });
  for (const file of result.outputFiles) {
    const fileName = file.path.endsWith('.map') ? `${name}.mjs.map` : `${name}.mjs`;
    const staging = join(directory, `.${fileName}.${process.pid}`);
    writeFileSync(staging, file.contents);
    renameSync(staging, join(directory, fileName));
  }
  return join(directory, `${name}.mjs`);
}
