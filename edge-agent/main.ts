/**
 * `nkudo-edge`: the agent on a host. Owns the command line and the exit codes; what the commands put
 * together is in commands/. Secrets come from files only, never from arguments.
 */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { isAppError } from '#api/model/error-codes.ts';
import type { SiteOrderKind } from '#api/model/site-orders.ts';
import { escapeByDefault, historyLinesByDefault, historyLinesMax, parseEscapeKey, type EscapeKey } from './commands/console-keys.ts';
import { agentVersion, deriveRunConfig, launcherExitCodes } from './config.ts';
import { loadConfig } from './config/load.ts';
import type { EffectiveConfig } from './config/resolve.ts';
import { configFileByDefault, settings, type SettingKey } from './config/settings.ts';

/** What commander makes of the flags of settings, all optional: the file or the environment may say them. */
interface SettingFlags {
  config?: string;
  stateDir?: string;
  hypervisor?: string;
  netbird?: string;
  logLevel?: string;
  allowPath?: string[];
}
type OutputFlags = SettingFlags & { output: string };

const collect = (value: string, earlier: readonly string[] = []): string[] => [...earlier, value];
const outputOption = () => new Option('--output <format>', 'how to print').choices(['table', 'json']).default('table');

/** The flag of a setting. Its value is looked at with those of the file and the environment. */
function settingOption(key: SettingKey & keyof typeof placeholders): Option {
  const setting = settings.find((each) => each.key === key);
  const { flag, placeholder } = placeholders[key];
  const option = new Option(`${flag} ${placeholder}`, `${setting?.meaning ?? ''}; default: ${String(setting?.byDefault)}`);
  return key === 'allowPaths' ? option.argParser(collect) : option;
}
const placeholders = {
  stateDir: { flag: '--state-dir', placeholder: '<directory>' },
  hypervisor: { flag: '--hypervisor', placeholder: '<path>' },
  netbird: { flag: '--netbird', placeholder: '<path>' },
  logLevel: { flag: '--log-level', placeholder: '<level>' },
  allowPaths: { flag: '--allow-path', placeholder: '<directory>' },
} as const;
const configOption = () => new Option('--config <file>', `configuration file; default: ${configFileByDefault}, if it is there`);
const stateDirOption = () => settingOption('stateDir');
const hypervisorOption = () => settingOption('hypervisor');

function configOf({ config, allowPath, stateDir, hypervisor, netbird, logLevel }: SettingFlags): Promise<EffectiveConfig> {
  return loadConfig(config, process.env, { stateDir, hypervisor, netbird, logLevel, allowPaths: allowPath });
}
/** The settings that most commands need. */
async function pathsOf(flags: SettingFlags): Promise<{ stateDir: string; hypervisor: string; vmmUsers: string }> {
  const { stateDir, hypervisor, vmmUsers } = await configOf(flags);
  return { stateDir: String(stateDir.value), hypervisor: String(hypervisor.value), vmmUsers: String(vmmUsers.value) };
}

/** Specs and logs of guests lie in the state directory, which a service manager may have made readable. */
process.umask(0o077);

/**
 * done: also when there was nothing to do. failed: refused, or `check` found something missing. wrongCommand: a wrong
 * command, option, value or setting. notRunning: no agent takes the order. notYet: the order stands, its effect is still
 * to come. A command that Ctrl-C ends has 130.
 */
const exitCodes = { done: 0, failed: 1, wrongCommand: 2, notRunning: 3, notYet: 4 } as const;

// The commands below take over what is set here.
const program = new Command('nkudo-edge').description('runs the microVMs of this host as the control plane asks').version(agentVersion).exitOverride();

program
  .command('enroll')
  .description('make this host known to the control plane with a one-time token')
  .addOption(configOption())
  .addOption(stateDirOption())
  .requiredOption('--token-file <file>', 'file with the enrollment token')
  .option('--name <name>', 'name of the host; default: the one in the token, or that of the machine')
  .option('--replace', 'give up an earlier identity of this state directory')
  .addOption(hypervisorOption())
  .action(async (flags: SettingFlags & { tokenFile: string; name?: string; replace?: boolean }) => {
    const { enroll } = await import('./commands/enroll.ts');
    print(await enroll({ ...(await pathsOf(flags)), tokenFile: flags.tokenFile, name: flags.name ?? '', replace: flags.replace === true }));
  });

program
  .command('run')
  .description('run the agent in the foreground; the microVMs outlive it')
  .addOption(configOption())
  .addOption(stateDirOption())
  .addOption(hypervisorOption())
  .addOption(settingOption('netbird'))
  .addOption(settingOption('logLevel'))
  .addOption(settingOption('allowPaths'))
  .action(async (flags: SettingFlags) => {
    const { runAgent } = await import('./commands/run.ts');
    const end = await runAgent(deriveRunConfig(await configOf(flags), process.env));
    if (end === 'restart') process.exitCode = launcherExitCodes.startAgain;
  });

program
  .command('guard')
  .description('be the process that ends microVMs whose lease ran out, for a unit of its own; the agent starts one where there is none')
  .addOption(configOption())
  .addOption(stateDirOption())
  .action(async (flags: SettingFlags) => {
    const { runGuard } = await import('./commands/guard.ts');
    runGuard((await pathsOf(flags)).stateDir);
  });

program
  .command('renew')
  .description('get a new certificate now, also for an expired one; for an agent that does not run')
  .addOption(configOption())
  .addOption(stateDirOption())
  .addOption(hypervisorOption())
  .action(async (flags: SettingFlags) => {
    const { renew } = await import('./commands/renew.ts');
    print(await renew(await pathsOf(flags)));
  });

program
  .command('unenroll')
  .description('forget the identity of this host; works offline, and touches no microVM')
  .addOption(configOption())
  .addOption(stateDirOption())
  .option('--keep-microvms', 'also with microVMs left here, which nobody will manage then')
  .action(async (flags: SettingFlags & { keepMicrovms?: boolean }) => {
    const { unenroll } = await import('./commands/unenroll.ts');
    print(await unenroll({ stateDir: (await pathsOf(flags)).stateDir, keepMicroVMs: flags.keepMicrovms === true }));
  });

program
  .command('status')
  .description('what this host knows of itself; works without a control plane and without a running agent')
  .addOption(configOption())
  .addOption(stateDirOption())
  .addOption(outputOption())
  .action(async (flags: OutputFlags) => {
    const { showStatus } = await import('./commands/inspect.ts');
    print(await showStatus({ stateDir: (await pathsOf(flags)).stateDir, output: flags.output }));
  });

program
  .command('check')
  .description('look whether this host can run microVMs, and say what to do where it can not; ends with 1 when something is missing')
  .addOption(configOption())
  .addOption(stateDirOption())
  .addOption(hypervisorOption())
  .addOption(outputOption())
  .action(async (flags: OutputFlags) => {
    const { checkHost } = await import('./commands/check.ts');
    const { text, isReady } = await checkHost({ ...(await pathsOf(flags)), output: flags.output });
    print(text);
    if (!isReady) process.exitCode = exitCodes.failed;
  });

program
  .command('config')
  .description('show every setting, and whether it comes from a flag, the environment, the file or is the default')
  .addOption(configOption())
  .addOption(stateDirOption())
  .addOption(hypervisorOption())
  .addOption(settingOption('netbird'))
  .addOption(settingOption('logLevel'))
  .addOption(settingOption('allowPaths'))
  .addOption(outputOption())
  .action(async (flags: OutputFlags) => {
    const { showConfig } = await import('./commands/show-config.ts');
    print(showConfig(await configOf(flags), flags.output));
  });

program
  .command('support-bundle')
  .description('write what helps others to find a fault into one file, without keys, tokens, specs and console output')
  .addOption(configOption())
  .addOption(stateDirOption())
  .addOption(hypervisorOption())
  .option('--file <file>', 'where to write it; default: nkudo-support-<time>.tar.gz here')
  .action(async (flags: SettingFlags & { file?: string }) => {
    const { writeSupportBundle } = await import('./commands/support-bundle.ts');
    print(await writeSupportBundle(await configOf(flags), flags.file));
  });

program
  .command('update')
  .description('run another version of the agent: from a signed release, or the one before; without either, show the versions here')
  .addOption(configOption())
  .addOption(stateDirOption())
  .option('--from <manifest>', 'file or URL of the manifest of a release; its signature and its files lie beside it')
  .option('--rollback', 'go back to the version that ran before')
  .option('--needs-connection', 'the new version must also reach the control plane to be kept')
  .option('--no-wait', 'do not wait until the new version is ready or was given up')
  .addOption(outputOption())
  .action(async (flags: OutputFlags & { from?: string; rollback?: boolean; needsConnection?: boolean; wait: boolean }) => {
    const { update } = await import('./commands/update.ts');
    const config = await configOf(flags);
    print(await update({ updates: deriveRunConfig(config, process.env).updates, from: flags.from, rollback: flags.rollback === true, needsConnection: flags.needsConnection === true, wait: flags.wait, output: flags.output, environment: process.env }));
  });

program
  .command('verify')
  .description('check who signed a file, offline: by the manifest of its release, or by a signature of its own beside it')
  .argument('<file>', 'the file')
  .addOption(configOption())
  .option('--manifest <file>', 'manifest of the release that the file is of; its signature lies beside it')
  .option('--signature <file>', 'signature of the file; default: <file>.sigstore.json')
  .option('--key <file>', 'trust the public keys of this file only, not those of the program and of the host')
  .action(async (file: string, flags: SettingFlags & { manifest?: string; signature?: string; key?: string }) => {
    const { verifyFile } = await import('./commands/verify.ts');
    print(await verifyFile({ file, manifest: flags.manifest, signature: flags.signature, key: flags.key, keysDirectory: String((await configOf(flags)).releaseKeysDir.value) }));
  });

program
  .command('install')
  .description('put this program, its launcher and its systemd unit where they belong; for hosts without the package')
  .option('--root <directory>', 'below another directory than /', '/')
  .action(async (flags: { root: string }) => {
    const { install } = await import('./commands/install.ts');
    print(await install(flags.root));
  });

const vm = program.command('vm').description('microVMs of this host');

/** An order to the running agent. */
function orderCommand(name: string, kind: SiteOrderKind, description: string): Command {
  return vm
    .command(name)
    .description(description)
    .argument('<name>', 'name, namespace/name or id')
    .addOption(configOption())
    .addOption(stateDirOption())
    .addOption(new Option('--wait <seconds>', 'how long to wait until it is brought about; 0: not at all. The order stands in any case').default(120).argParser(parseSeconds))
    .addOption(outputOption())
    .action(async (named: string, flags: OutputFlags & { wait: number; iAcceptTwoCopies?: boolean; againstSpec?: boolean }) => {
      const { orderMicroVM } = await import('./commands/vm-order.ts');
      const { text, isDone } = await orderMicroVM({
        stateDir: (await pathsOf(flags)).stateDir,
        named,
        kind,
        waitMs: flags.wait * 1_000,
        output: flags.output,
        say: print,
        ...(flags.iAcceptTwoCopies === true ? { acceptsTwoCopies: true } : {}),
        ...(flags.againstSpec === true ? { isAgainstSpec: true } : {}),
      });
      if (text !== '') print(text);
      if (!isDone) process.exitCode = exitCodes.notYet;
    });
}

const twoCopiesOption = () => new Option('--i-accept-two-copies', 'also without a live lease, although a copy may run on another host; told to the control plane');
const againstSpecOption = () => new Option('--against-spec', 'also when its spec says Halted, until that changes; told to the control plane');
orderCommand('start', 'Start', 'start it, and end a stop that was ordered here; works offline').addOption(againstSpecOption()).addOption(twoCopiesOption());
orderCommand('stop', 'Stop', 'stop it until it is started here, or until runPolicy or restartNonce of its spec change; works offline');
orderCommand('restart', 'Restart', 'stop it and start it again, once; works offline').addOption(againstSpecOption()).addOption(twoCopiesOption());
orderCommand('hold', 'Hold', 'stop it and keep it down, whatever its spec says, until it is released here; works offline');
orderCommand('release', 'Release', 'end a hold, a stop or a forced start: it goes by its spec again; works offline');

vm.command('show')
  .description('one microVM, by looking at its VMM; works offline')
  .argument('<name>', 'name, namespace/name or id')
  .addOption(configOption())
  .addOption(stateDirOption())
  .addOption(outputOption())
  .action(async (named: string, flags: OutputFlags) => {
    const { showMicroVM } = await import('./commands/inspect.ts');
    print(await showMicroVM({ stateDir: (await pathsOf(flags)).stateDir, output: flags.output, named }));
  });

vm.command('logs')
  .description('the console of the newest boot of a microVM, as far as it is on this host; works offline')
  .argument('<name>', 'name, namespace/name or id')
  .addOption(configOption())
  .addOption(stateDirOption())
  .option('--follow', 'go on with what comes')
  .action(async (named: string, flags: SettingFlags & { follow?: boolean }) => {
    const { printLogs } = await import('./commands/vm-logs.ts');
    await printLogs({ stateDir: (await pathsOf(flags)).stateDir, named, follow: flags.follow === true, out: process.stdout });
  });

vm.command('console')
  .description('type at the serial console of a microVM, through the running agent; works offline. Ctrl-] leaves it, and the guest goes on')
  .argument('<name>', 'name, namespace/name or id')
  .addOption(configOption())
  .addOption(stateDirOption())
  .option('--take-over', 'also when somebody else types there, who is put out')
  .addOption(new Option('--read-only', 'only watch; beside somebody who types as well').conflicts('takeOver'))
  .addOption(new Option('--escape <key>', 'the key that leaves, such as ^] for Ctrl and ]').default(escapeByDefault, '^]').argParser(parseKey))
  .addOption(new Option('--history <lines>', 'how much of what was printed before comes first').default(historyLinesByDefault).argParser(parseLines))
  .action(async (named: string, flags: SettingFlags & { takeOver?: boolean; readOnly?: boolean; escape: EscapeKey; history: number }) => {
    const { openVmConsole } = await import('./commands/vm-console.ts');
    process.exitCode = await openVmConsole({
      stateDir: (await pathsOf(flags)).stateDir,
      named,
      takesOver: flags.takeOver === true,
      types: flags.readOnly !== true,
      escape: flags.escape,
      historyLines: flags.history,
      input: process.stdin,
      output: process.stdout,
    });
  });

vm.command('ls')
  .description('list the microVMs by looking at their VMMs; works offline')
  .addOption(configOption())
  .addOption(stateDirOption())
  .addOption(outputOption())
  .action(async (flags: OutputFlags) => {
    const { listMicroVMs } = await import('./commands/inspect.ts');
    print(await listMicroVMs({ stateDir: (await pathsOf(flags)).stateDir, output: flags.output }));
  });

function parseSeconds(value: string): number {
  const seconds = Number(value);
  if (!Number.isSafeInteger(seconds) || seconds < 0 || seconds > 86_400) throw new InvalidArgumentError('It must be a whole number from 0 to 86400.');
  return seconds;
}

function parseKey(value: string): EscapeKey {
  const key = parseEscapeKey(value);
  if (key === undefined) throw new InvalidArgumentError('It must be ^ and one of A to Z, \\, ], ^ and _, but C, D, H, I, J and M, which people type.');
  return key;
}

function parseLines(value: string): number {
  const lines = Number(value);
  if (value.trim() === '' || !Number.isSafeInteger(lines) || lines < 0 || lines > historyLinesMax) throw new InvalidArgumentError(`It must be a whole number from 0 to ${historyLinesMax}.`);
  return lines;
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

// No await at the top: the single executable is one CommonJS file.
program.parseAsync().catch((error: unknown) => {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? exitCodes.done : exitCodes.wrongCommand;
  else if (isAppError(error)) {
    process.stderr.write(`nkudo-edge: ${error.code}: ${error.message}\n  what to do: ${error.remedy}\n`);
    const code = error.code === 'INVALID_REQUEST' ? exitCodes.wrongCommand : error.code === 'AGENT_NOT_RUNNING' ? exitCodes.notRunning : exitCodes.failed;
    // Another version of the agent would have found the same.
    process.exitCode = process.env['NKUDO_EDGE_START_ID'] === undefined ? code : launcherExitCodes.notOfThisVersion;
  } else throw error;
});
