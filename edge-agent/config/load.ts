/** Reads the configuration file and puts it together with environment and flags. What is right is decided in resolve.ts. */
import { readFileSync, statSync } from 'node:fs';
import { AppError } from '#api/model/error-codes.ts';
import { resolveConfig, type ConfigSources, type EffectiveConfig } from './resolve.ts';
import { configFileByDefault, configVariable } from './settings.ts';

/** Far above any real one, so that a wrong path can't fill the memory. */
const fileBytesMax = 65_536;

/** @param named what `--config` says. @throws INVALID_REQUEST also for a named file that is missing or no YAML */
export async function loadConfig(named: string | undefined, environment: ConfigSources['environment'], flags: ConfigSources['flags']): Promise<EffectiveConfig> {
  const fromEnvironment = environment[configVariable];
  const chosen = named ?? (fromEnvironment === '' ? undefined : fromEnvironment);
  const path = chosen ?? configFileByDefault;
  const text = readText(path, chosen !== undefined);
  return resolveConfig({ ...(text === undefined ? {} : { file: { path, content: await parse(path, text) } }), environment, flags });
}

function readText(path: string, isNamed: boolean): string | undefined {
  try {
    const { size } = statSync(path);
    if (size > fileBytesMax) throw new AppError('INVALID_REQUEST', `${path} is larger than ${fileBytesMax} bytes`, { remedy: 'name the configuration file by --config' });
    return readFileSync(path, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    if ((code === 'ENOENT' || code === 'ENOTDIR') && !isNamed) return undefined;
    if (/^E[A-Z]+$/.test(code)) throw new AppError('INVALID_REQUEST', `the configuration file ${path} can not be read (${code})`, { remedy: 'correct --config, or the rights of the file', cause: error });
    throw error;
  }
}

/** No aliases: a few lines of them could stand for very much. */
async function parse(path: string, text: string): Promise<unknown> {
  // 13 MiB of resident memory, which an agent without a file does not pay.
  const { parseDocument } = await import('yaml');
  const document = parseDocument(text, { prettyErrors: false, uniqueKeys: true });
  const [first] = document.errors;
  if (first !== undefined) {
    const line = text.slice(0, first.pos[0]).split('\n').length;
    throw new AppError('INVALID_REQUEST', `${path} is no YAML: line ${line} (${first.code})`, { remedy: 'correct that line; a setting is "key: value"' });
  }
  try {
    return document.toJS({ maxAliasCount: 0 });
  } catch (cause) {
    throw new AppError('INVALID_REQUEST', `${path} uses YAML aliases, which are not taken`, { remedy: 'write each value out', cause });
  }
}
