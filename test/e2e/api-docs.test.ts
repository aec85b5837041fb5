/**
 * docs/api.md against the running product: an unchanged grpcurl, which knows nothing but reflection, and the system's curl
 * run every command of the page, and what curl is answered is held against the description that the server gives of itself.
 */
import { Ajv2020 } from 'ajv/dist/2020.js';
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { FleetServiceService } from '#api/gen/nkudo/v1/fleet.pb.ts';
import { httpRoutes, type HttpRoute } from '#controller/http-api/routes.ts';
import { repositoryRoot } from '#hack/build-cache.ts';
import { ensureGoTool } from '#hack/build-go-tools.ts';
import { fileScope } from '#test/harness/file-scope.ts';
import { commandsOf, methodsIn, readBlocks, requestsIn, runCommand, type CurlCall, type ShellEnvironment } from './api-docs.ts';
import { createWorld, siteName, type World } from './world.ts';

const blocks = readBlocks();
const commands = blocks.flatMap((block) => commandsOf(block).map((text) => ({ text, line: block.line, isStream: block.isStream })));
const routeOf = ({ method, path }: CurlCall): HttpRoute | undefined =>
  httpRoutes.find((route) => route.method === method && new RegExp(`^${route.path.replaceAll(/\{\w+\}/g, '[^/]+')}$`).test(path));

/** By then a stream has sent what it is there for. */
const enough: Readonly<Record<string, RegExp>> = { WatchStatus: /isSynced/, TailLogs: /event: log\n[^\n]*\n\n/ };

function streamEnd(command: string): (stdout: string) => boolean {
  const call = methodsIn(command)[0] ?? requestsIn(command).map((request) => routeOf(request)?.call)[0] ?? '';
  const pattern = enough[call];
  if (pattern === undefined) throw new Error(`nobody knows when ${command} has said enough`);
  return (stdout) => pattern.test(stdout);
}

describe('the page', () => {
  it('[C11] has a grpcurl command for every RPC and a curl command for every route', () => {
    const documented = new Set(commands.flatMap(({ text }) => methodsIn(text)));
    expect(Object.values(FleetServiceService).map(({ path }) => path.split('/').at(-1) ?? '').filter((method) => !documented.has(method))).toEqual([]);
    const routes = new Set(commands.flatMap(({ text }) => requestsIn(text)).map(routeOf));
    expect(httpRoutes.filter((route) => !routes.has(route)).map(({ method, path }) => `${method} ${path}`)).toEqual([]);
    expect(commands.flatMap(({ text }) => requestsIn(text)).filter((request) => routeOf(request) === undefined).map(({ path }) => path)).toEqual(['/openapi.json']);
  });
});

describe('an unchanged grpcurl and an unchanged curl', () => {
  let world: World;
  let shell: ShellEnvironment;

  beforeAll(async () => {
    world = await createWorld();
    await world.startController();
    await world.createSite();
    await world.addHost('edge-1');
    await world.kubernetes.kubectl(['apply', '-f', join(repositoryRoot, 'crds/rbac/roles.yaml')]);
    const directory = fileScope().makeDirectory('api-docs');
    writeFileSync(join(directory, 'exported'), '');
    const { fleet, api } = world.endpoints();
    const path = [dirname(await ensureGoTool('grpcurl')), dirname(world.kubernetes.access.kubectl), '/usr/local/bin', '/usr/bin', '/bin'].join(':');
    shell = {
      directory,
      variables: {
        PATH: path, HOME: directory, KUBECONFIG: world.kubernetes.access.kubeconfig,
        GRPC: fleet, API: api, NAMESPACE: world.namespace, SITE: siteName, HOST_NAME: 'edge-1', KERNEL: world.guest,
      },
    };
  });

  it('[C11] drive the whole API from docs/api.md: every command works as it stands, and every answer is as described', async () => {
    const answers: { readonly route: HttpRoute; readonly text: string }[] = [];
    for (const { text, line, isStream } of commands) {
      // For whoever finds it hanging.
      appendFileSync(join(fileScope().logDirectory, 'commands.log'), `${line}: ${text}\n`);
      const ran = await runCommand(shell, text, isStream ? streamEnd(text) : null);
      // A stream was interrupted; everything else has to have worked.
      if (!isStream) expect({ line, code: ran.code, stderr: ran.stderr, stdout: ran.code === 0 ? '' : ran.stdout, text: ran.code === 0 ? '' : text }).toEqual({ line, code: 0, stderr: ran.code === 0 ? ran.stderr : '', stdout: '', text: '' });
      else expect({ line, stderr: ran.stderr, stdout: ran.stdout }).toEqual({ line, stderr: expect.any(String), stdout: expect.toSatisfy(streamEnd(text)) });
      const [request] = requestsIn(text);
      const route = request === undefined ? undefined : routeOf(request);
      if (route?.kind === 'json' && ran.stdout.trim() !== '') answers.push({ route, text: ran.stdout });
    }

    const description = JSON.parse(readFileSync(join(shell.directory, 'openapi.json'), 'utf8')) as object; // Of the server under test.
    const ajv = new Ajv2020({ strict: false, allErrors: true, formats: { 'date-time': true, uuid: true } });
    ajv.addSchema(description, 'api');
    for (const { route, text } of answers) {
      const pointer = `api#/paths/${route.path.replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D')}/${route.method.toLowerCase()}/responses/200/content/application~1json/schema`;
      const isValid = ajv.validate({ $ref: pointer }, JSON.parse(text));
      expect({ route: route.path, isValid, errors: ajv.errors ?? [] }).toEqual({ route: route.path, isValid: true, errors: [] });
    }
    expect(httpRoutes.filter((route) => route.kind === 'json' && !answers.some((answer) => answer.route === route)).map(({ path }) => path)).toEqual([]);
    process.stdout.write(`[C11] ${commands.length} commands of docs/api.md, ${answers.length} answers held against the description\n`);
  });
});
