/**
 * `nkudo-edge`: the agent on a host. Owns the command line and the exit codes; what the commands put
 * together is in commands/. Secrets come from files only, never from arguments.
 */
import { Command, Option } from 'commander';
import { isAppError } from '#api/model/error-codes.ts';
import { agentVersion, logLevels, parseRunConfig } from './config.ts';

interface InspectFlags {
  stateDir: string;
  output: string;
}

const stateDirOption = () => new Option('--state-dir <directory>', 'where the agent keeps its identity, its journal and the microVMs').makeOptionMandatory();
const outputOption = () => new Option('--output <format>', 'how to print').choices(['table', 'json']).default('table');
const hypervisorOption = () => new Option('--hypervisor <path>', 'path or name of the cloud-hypervisor executable').default('cloud-hypervisor');
const netbirdOption = () => new Option('--netbird <path>', 'path or name of the netbird command, for sites with a mesh').default('netbird');
const collect = (value: string, earlier: readonly string[] = []): string[] => [...earlier, value];

/** Specs and logs of guests lie in the state directory, which a service manager may have made readable. */
process.umask(0o077);

const program = new Command('nkudo-edge').description('runs the microVMs of this host as the control plane asks').version(agentVersion);

program
  .command('enroll')
  .description('make this host known to the control plane with a one-time token')
  .addOption(stateDirOption())
  .requiredOption('--token-file <file>', 'file with the enrollment token')
  .option('--name <name>', 'name of the host; default: the one in the token, or that of the machine')
  .option('--replace', 'give up an earlier identity of this state directory')
  .addOption(hypervisorOption())
  .action(async (flags: { stateDir: string; tokenFile: string; name?: string; hypervisor: string; replace?: boolean }) => {
    const { enroll } = await import('./commands/enroll.ts');
    print(await enroll({ ...flags, name: flags.name ?? '', replace: flags.replace === true }));
  });

program
  .command('run')
  .description('run the agent in the foreground; the microVMs outlive it')
  .addOption(stateDirOption())
  .addOption(hypervisorOption())
  .addOption(netbirdOption())
  .addOption(new Option('--log-level <level>', 'least level that is logged').choices(logLevels).default('info'))
  .option('--allow-path <directory>', 'directory below which kernels and disks may lie; repeat for more; default: /var/lib/nkudo/images', collect)
  .action(async (flags: { stateDir: string; hypervisor: string; netbird: string; logLevel: string; allowPath?: string[] }) => {
    const { runAgent } = await import('./commands/run.ts');
    await runAgent(parseRunConfig({ ...flags, allowPath: flags.allowPath ?? [] }, process.env));
  });

program
  .command('guard')
  .description('be the process that ends microVMs whose lease ran out, for a unit of its own; the agent starts one where there is none')
  .addOption(stateDirOption())
  .action(async (flags: { stateDir: string }) => {
    const { runGuard } = await import('./commands/guard.ts');
    runGuard(flags.stateDir);
  });

program
  .command('renew')
  .description('get a new certificate now, also for an expired one; for an agent that does not run')
  .addOption(stateDirOption())
  .addOption(hypervisorOption())
  .action(async (flags: { stateDir: string; hypervisor: string }) => {
    const { renew } = await import('./commands/renew.ts');
    print(await renew(flags));
  });

program
  .command('unenroll')
  .description('forget the identity of this host; works offline, and touches no microVM')
  .addOption(stateDirOption())
  .option('--keep-microvms', 'also with microVMs left here, which nobody will manage then')
  .action(async (flags: { stateDir: string; keepMicrovms?: boolean }) => {
    const { unenroll } = await import('./commands/unenroll.ts');
    print(await unenroll({ stateDir: flags.stateDir, keepMicroVMs: flags.keepMicrovms === true }));
  });

program
  .command('status')
  .description('what this host knows of itself; works without a control plane and without a running agent')
  .addOption(stateDirOption())
  .addOption(outputOption())
  .action(async (flags: InspectFlags) => {
    const { showStatus } = await import('./commands/inspect.ts');
    print(await showStatus(flags));
  });

program
  .command('vm')
  .description('microVMs of this host')
  .command('ls')
  .description('list the microVMs by looking at their VMMs; works offline')
  .addOption(stateDirOption())
  .addOption(outputOption())
  .action(async (flags: InspectFlags) => {
    const { listMicroVMs } = await import('./commands/inspect.ts');
    print(await listMicroVMs(flags));
  });

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

try {
  await program.parseAsync();
} catch (error) {
  if (!isAppError(error)) throw error;
  process.stderr.write(`nkudo-edge: ${error.code}: ${error.message}\n  what to do: ${error.remedy}\n`);
  process.exitCode = 1;
}
