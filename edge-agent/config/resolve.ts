/**
 * File, environment and flags to one set of values, each with where it came from; later ones win. Pure.
 * All that is wrong is said at once, also in a place that another one overrides: a wrong line would
 * take effect on the day the other goes. The text of a refused value of the environment is never repeated.
 */
import { isAbsolute } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import { noGroup, parseUserRange, sameUser, userIdMin } from '../domain/user-range.ts';
import { nearest } from './nearest.ts';
import { configVariable, settings, variablesOfOthers, type Setting, type SettingKey, type SettingValue } from './settings.ts';

export interface EffectiveValue {
  readonly value: SettingValue;
  /** `default`, `file <path>`, `environment <variable>` or `flag <flag>`. */
  readonly source: string;
}

export type EffectiveConfig = Readonly<Record<SettingKey, EffectiveValue>>;

export interface ConfigSources {
  /** Parsed YAML; absent without a file. */
  readonly file?: { readonly path: string; readonly content: unknown };
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** By key; absent or undefined: not given. */
  readonly flags: Readonly<Partial<Record<SettingKey, string | readonly string[] | undefined>>>;
}

type Outcome = { readonly value: SettingValue } | { readonly problem: string };

/** @throws INVALID_REQUEST that names every wrong key and value, with what would be right */
export function resolveConfig(sources: ConfigSources): EffectiveConfig {
  const problems = [...wrongKeys(sources), ...wrongVariables(sources.environment)];
  const entries = settings.map((setting: Setting): [string, EffectiveValue] => {
    let effective: EffectiveValue = { value: setting.byDefault, source: 'default' };
    for (const { raw, source, name } of given(setting, sources)) {
      const outcome = read(setting, raw);
      if ('problem' in outcome) problems.push(`${name}: ${outcome.problem}`);
      else effective = { value: outcome.value, source };
    }
    return [setting.key, effective];
  });
  if (problems.length > 0) throw new AppError('INVALID_REQUEST', problems.join('; '), { remedy: 'correct what is named; nkudo-edge config shows every setting and where it comes from' });
  return Object.freeze(Object.fromEntries(entries)) as EffectiveConfig; // One entry for each setting, by construction.
}

interface Given {
  readonly raw: unknown;
  readonly source: string;
  /** How a person finds it. */
  readonly name: string;
}

/** In rising precedence. */
function given(setting: Setting, { file, environment, flags }: ConfigSources): readonly Given[] {
  const found: Given[] = [];
  if (file !== undefined && isMapping(file.content) && Object.hasOwn(file.content, setting.key)) {
    found.push({ raw: file.content[setting.key], source: `file ${file.path}`, name: `${setting.key} in ${file.path}` });
  }
  for (const variable of [setting.olderVariable, setting.variable]) {
    const text = variable === undefined ? undefined : environment[variable];
    if (variable === undefined || text === undefined || text === '') continue;
    found.push({ raw: setting.kind.is === 'directories' ? text.split(':') : setting.kind.is === 'servers' ? text.split(',') : text, source: `environment ${variable}`, name: variable });
  }
  const flag = flags[setting.key as SettingKey]; // Settings come from the table that SettingKey is made from.
  if (flag !== undefined && setting.flag !== undefined) found.push({ raw: flag, source: `flag ${setting.flag}`, name: setting.flag });
  return found;
}

function wrongKeys({ file }: ConfigSources): readonly string[] {
  // An empty file is one without settings.
  if (file === undefined || file.content === null || file.content === undefined) return [];
  if (!isMapping(file.content)) return [`${file.path} must hold lines of the form "key: value"`];
  const keys = settings.map(({ key }) => key);
  return Object.keys(file.content)
    .filter((key) => !keys.some((known) => known === key))
    .map((key) => `${file.path} has no setting ${JSON.stringify(key.slice(0, shownMax))}${suggest(key, keys)}`);
}

const variablePrefix = 'NKUDO_EDGE_';

function wrongVariables(environment: ConfigSources['environment']): readonly string[] {
  const known = [...settings.map(({ variable }) => variable), configVariable];
  return Object.keys(environment)
    .filter((name) => name.startsWith(variablePrefix) && !known.includes(name) && !variablesOfOthers.includes(name))
    .map((name) => `there is no variable ${name.slice(0, shownMax)}${suggest(name.slice(variablePrefix.length), known.map((variable) => variable.slice(variablePrefix.length)), variablePrefix)}`);
}

/** Text of others that is repeated in a sentence. */
const shownMax = 64;

function suggest(word: string, words: readonly string[], prefix = ''): string {
  const meant = nearest(word, words);
  return meant === undefined ? `; there are ${words.map((each) => prefix + each).join(', ')}` : `; did you mean ${prefix}${meant}?`;
}

function read({ kind, byDefault }: Setting, raw: unknown): Outcome {
  switch (kind.is) {
    case 'program':
      return isText(raw) ? { value: raw } : { problem: `must be the path or name of a program, such as ${String(byDefault)}` };
    case 'directory':
      return isText(raw) ? { value: raw } : { problem: `must be a directory, such as ${String(byDefault)}` };
    case 'directories': {
      const wrong = { problem: `must be a list of absolute directories, such as ${String(byDefault)}` };
      if (!Array.isArray(raw) || raw.length === 0) return wrong;
      const paths: unknown[] = raw;
      return paths.every((path): path is string => isText(path) && isAbsolute(path)) ? { value: paths } : wrong;
    }
    case 'servers': {
      const servers: unknown[] | null = Array.isArray(raw) ? raw : null;
      const areRight = servers?.every((server): server is string => typeof server === 'string' && /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?$/.test(server)) === true;
      return areRight && servers !== null ? { value: servers.map(String) } : { problem: 'must be a list of servers as host or host:port in lower case, such as registry.example:5000' };
    }
    case 'choice': {
      const choice = kind.choices.find((each) => each === raw);
      if (choice !== undefined) return { value: choice };
      const meant = typeof raw === 'string' ? nearest(raw, kind.choices) : undefined;
      return { problem: `must be one of ${kind.choices.join(', ')}${meant === undefined ? '' : `; did you mean ${meant}?`}` };
    }
    case 'device':
      return isText(raw) && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$/.test(raw) ? { value: raw } : { problem: `must be the name of a network device, such as ${String(byDefault)}` };
    case 'milliseconds': {
      const value = wholeNumber(raw);
      const isInside = Number.isSafeInteger(value) && value >= kind.min && value <= kind.max;
      return isInside ? { value } : { problem: `must be a whole number of milliseconds from ${kind.min} to ${kind.max}, such as ${String(byDefault)}` };
    }
    case 'users':
      return raw === sameUser || (typeof raw === 'string' && parseUserRange(raw) !== null) ? { value: raw } : { problem: `must be a range of user numbers from ${userIdMin} up, such as ${String(byDefault)}, or ${sameUser}` };
    case 'group': {
      const value = typeof raw === 'number' ? String(raw) : raw;
      return isText(value) && /^(?:[a-z_][a-z0-9_-]{0,31}|\d{1,10})$/.test(value) ? { value } : { problem: `must be the name or number of a group, or ${noGroup}` };
    }
    case 'bytes': {
      const value = wholeNumber(raw);
      return Number.isSafeInteger(value) && value >= 0 ? { value } : { problem: `must be a whole number of bytes, 0 or more, such as ${String(byDefault)}` };
    }
  }
}

function wholeNumber(raw: unknown): number {
  return typeof raw === 'number' || (typeof raw === 'string' && /^\d{1,16}$/.test(raw)) ? Number(raw) : Number.NaN;
}

function isText(raw: unknown): raw is string {
  return typeof raw === 'string' && raw.trim() !== '' && !raw.includes('\0');
}

function isMapping(content: unknown): content is Readonly<Record<string, unknown>> {
  return typeof content === 'object' && content !== null && !Array.isArray(content);
}
