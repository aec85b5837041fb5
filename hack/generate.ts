/**
 * Writes everything that is generated from a source of truth in this repository: wire types, CRD types, the types of
 * the Cloud Hypervisor and NetBird clients, the error list. Generated files are committed and never edited; `hack/verify.ts` finds drift.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { runTool } from './checks.ts';
import { chartFiles } from './generate-chart.ts';

/** One generator and the files or folders that it alone writes. */
export interface Generator {
  readonly name: string;
  readonly writes: readonly string[];
  readonly run: () => Promise<void>;
}

const netbirdApi = join('controller', 'adapters', 'netbird');
const cloudHypervisorApi = join('edge-agent', 'adapters', 'cloud-hypervisor');

/** All generators. */
export const generators: readonly Generator[] = [
  { name: 'wire types', writes: ['api/gen'], run: () => runOrThrow('buf', ['generate']) },
  { name: 'CRD types', writes: ['crds/gen'], run: () => runScript('hack/generate-crd-types.ts') },
  {
    name: 'Cloud Hypervisor API types',
    writes: [join(cloudHypervisorApi, 'gen')],
    run: () =>
      runOrThrow('openapi-typescript', [
        join(cloudHypervisorApi, 'cloud-hypervisor.yaml'),
        // Fields with a default may be left out of a request.
        '--default-non-nullable=false',
        `--output=${join(cloudHypervisorApi, 'gen', 'api.ts')}`,
      ]),
  },
  {
    name: 'NetBird API types',
    writes: [join(netbirdApi, 'gen')],
    run: () => runOrThrow('openapi-typescript', [join(netbirdApi, 'netbird-management.yml'), '--default-non-nullable=false', `--output=${join(netbirdApi, 'gen', 'api.ts')}`]),
  },
  { name: 'tenant API descriptors', writes: ['api/gen/fleet-descriptors.ts'], run: () => runScript('hack/generate-fleet-descriptors.ts') },
  { name: 'chart', writes: chartFiles, run: () => runScript('hack/generate-chart.ts') },
  { name: 'error list', writes: ['docs/errors.md'], run: () => runScript('hack/generate-errors-doc.ts') },
  { name: 'list of fields', writes: ['docs/fields.md'], run: () => runScript('hack/generate-fields-doc.ts') },
];

function runScript(script: string): Promise<void> {
  return runOrThrow('node', ['--import', 'tsx', script]);
}

async function runOrThrow(tool: string, args: readonly string[]): Promise<void> {
  const result = await runTool(tool, args);
  if (result.code !== 0) {
    throw new Error(`${tool} ended with ${result.code}:\n${result.stdout}${result.stderr}`);
  }
}

/** Runs every generator. */
export async function generateAll(report: (line: string) => void): Promise<void> {
  for (const generator of generators) {
    await generator.run();
    report(`generated ${generator.name}: ${generator.writes.join(', ')}`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  await generateAll((line) => process.stdout.write(`${line}\n`));
}
