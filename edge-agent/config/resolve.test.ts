/** Made from the table of settings, so that a new setting is tested with its first line. */
import { expect, test } from 'vitest';
import { isAppError } from '#api/model/error-codes.ts';
import { resolveConfig, type ConfigSources } from './resolve.ts';
import { settings, type Setting, type SettingKind } from './settings.ts';

const path = '/etc/nkudo-edge/config.yaml';
const table: readonly Setting[] = settings;
const canary = 'CANARY0f9a';

function refusal(sources: Partial<ConfigSources>): string {
  try {
    resolveConfig({ environment: {}, flags: {}, ...sources });
  } catch (error) {
    if (isAppError(error) && error.code === 'INVALID_REQUEST') return error.message;
    throw error;
  }
  throw new Error('it was taken');
}

/** One letter left out, doubled, put in and changed, two swapped, and other ways to write words. */
function misspellings(word: string): readonly string[] {
  const places = [...word].map((_, index) => index);
  const made = places.flatMap((at) => [
    word.slice(0, at) + word.slice(at + 1),
    word.slice(0, at + 1) + word.slice(at),
    `${word.slice(0, at)}${word === word.toUpperCase() ? 'Q' : 'q'}${word.slice(at + 1)}`,
    word.slice(0, at) + (word[at + 1] ?? '') + (word[at] ?? '') + word.slice(at + 2),
  ]);
  const known = new Set(table.flatMap(({ key, variable }) => [key, variable.slice('NKUDO_EDGE_'.length)]));
  return [...new Set([...made, word.toUpperCase(), word.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), word === word.toUpperCase() ? `${word}S` : `${word}s`])].filter((each) => !known.has(each));
}

const wrongValues: Readonly<Record<SettingKind['is'], readonly unknown[]>> = {
  program: ['', ' ', 7, null, true, [canary], { [canary]: 1 }, 'a\0b'],
  directory: ['', ' ', 7, null, true, [canary], { [canary]: 1 }, 'a\0b'],
  directories: ['', canary, 7, null, [], [canary], [`/${canary}`, 'relative'], [7], {}],
  servers: ['', canary, 7, null, true, [canary], ['a/b'], [7], {}, 'http://a'],
  choice: ['', canary, 7, null, true, [], {}],
  device: ['', `${canary}-longer-than-15`, 'a/b', '-wt0', 7, null, [], {}],
  bytes: ['', canary, -1, 0.5, 2 ** 60, '1e3', '5GiB', null, true, [], {}],
  users: ['', canary, 7, '999-2000', '2000-1000', '1000', '1000-', '0-99', '1000-4294967295', null, true, [], {}],
  group: ['', canary, -1, 0.5, 'Two Words', '-x', 'a:b', null, true, [], {}],
  milliseconds: ['', canary, 49, 3_600_001, -1, 0.5, 1e99, '1e3', '30s', null, true, [], {}],
};

/** What a helpful sentence says of a wrong value. */
const helpful: Readonly<Record<SettingKind['is'], RegExp>> = {
  program: /must be the path or name of a program, such as \S+/,
  directory: /must be a directory, such as \/\S+/,
  directories: /must be a list of absolute directories, such as \/\S+/,
  servers: /must be a list of servers as host or host:port in lower case, such as registry\.example:5000/,
  choice: /must be one of \w+, \w+/,
  device: /must be the name of a network device, such as \w+/,
  bytes: /must be a whole number of bytes, 0 or more, such as \d+/,
  users: /must be a range of user numbers from 1000 up, such as \d+-\d+, or agent/,
  group: /must be the name or number of a group, or none/,
  milliseconds: /must be a whole number of milliseconds from 50 to 3600000, such as \d+/,
};

test.for(table)('[E10] every misspelling of the key $key is refused with the right one', ({ key, variable }) => {
  for (const wrong of misspellings(key)) {
    const sentence = refusal({ file: { path, content: { [wrong]: 'x' } } });
    expect(sentence).toContain(`${path} has no setting ${JSON.stringify(wrong)}`);
    expect(sentence, wrong).toContain(`did you mean ${key}?`);
  }
  const name = variable.slice('NKUDO_EDGE_'.length);
  for (const wrong of misspellings(name).filter((each) => each === each.toUpperCase())) {
    expect(refusal({ environment: { [`NKUDO_EDGE_${wrong}`]: 'x' } }), wrong).toContain(`there is no variable NKUDO_EDGE_${wrong}; did you mean ${variable}?`);
  }
});

test.for(table)('[E10] every wrong value of $key is refused in file, environment and flag, and never repeated', ({ key, variable, olderVariable, flag, kind }) => {
  for (const value of wrongValues[kind.is]) {
    const sentence = refusal({ file: { path, content: { [key]: value } } });
    expect(sentence, JSON.stringify(value)).toContain(`${key} in ${path}: `);
    expect(sentence).toMatch(helpful[kind.is]);
    expect(sentence).not.toContain(canary);
    if (typeof value !== 'string') continue;
    for (const name of [variable, olderVariable]) {
      // An empty variable is one that is not set; a NUL can't be in one.
      if (name === undefined || value === '' || (kind.is === 'directories' && value.startsWith('/'))) continue;
      const said = refusal({ environment: { [name]: value } });
      expect(said).toContain(`${name}: `);
      expect(said).toMatch(helpful[kind.is]);
      expect(said).not.toContain(canary);
    }
    if (flag !== undefined) expect(refusal({ flags: { [key]: kind.is === 'directories' ? [value] : value } })).toMatch(new RegExp(`^${flag}: .*${helpful[kind.is].source}`));
  }
});

test('[E10] a choice that is nearly right is answered with the right one', () => {
  expect(refusal({ flags: { logLevel: 'inof' } })).toContain('did you mean info?');
  expect(refusal({ environment: { NKUDO_IP_FORWARD: 'Keep' } })).toContain('did you mean keep?');
});

test('all that is wrong is said at once, also where another place overrides it', () => {
  const sentence = refusal({ file: { path, content: { logLevel: 'loud', statedir: '/x' } }, environment: { NKUDO_EDGE_MESH_POLL_MS: '1' }, flags: { logLevel: 'debug' } });
  expect(sentence).toContain(`logLevel in ${path}`);
  expect(sentence).toContain('did you mean stateDir?');
  expect(sentence).toContain('NKUDO_EDGE_MESH_POLL_MS');
});

const rightValues: Readonly<Record<SettingKind['is'], readonly [string, string, string]>> = {
  program: ['/one', '/two', '/three'],
  directory: ['/one', '/two', '/three'],
  directories: ['/one', '/two', '/three'],
  servers: ['one.example', 'two.example:5000', 'three.example'],
  choice: ['', '', ''],
  device: ['one0', 'two0', 'three0'],
  bytes: ['0', '2000', '3000'],
  milliseconds: ['1000', '2000', '3000'],
  users: ['1000-1999', '2000-2999', 'agent'],
  group: ['one', 'two', '3'],
};

test.for(table)('$key: flag over environment over file over default, each with where it came from', (setting) => {
  const { key, kind, variable, olderVariable, flag, byDefault } = setting;
  const first = kind.is === 'choice' ? kind.choices : [];
  const [one, two, three] = kind.is === 'choice' ? [first[0] ?? '', first[1] ?? '', first.at(-1) ?? ''] : rightValues[kind.is];
  const asList = (value: string): string | readonly string[] => (kind.is === 'directories' || kind.is === 'servers' ? [value] : value);
  const asValue = (value: string): unknown => (kind.is === 'milliseconds' || kind.is === 'bytes' ? Number(value) : asList(value));
  const file = { path, content: { [key]: asList(one) } };
  const effective = (sources: Partial<ConfigSources>): unknown => Object.entries(resolveConfig({ environment: {}, flags: {}, ...sources })).find(([name]) => name === key)?.[1];
  expect(effective({})).toEqual({ value: byDefault, source: 'default' });
  expect(effective({ file })).toEqual({ value: asValue(one), source: `file ${path}` });
  expect(effective({ file, environment: { [variable]: two } })).toEqual({ value: asValue(two), source: `environment ${variable}` });
  if (olderVariable !== undefined) {
    expect(effective({ file, environment: { [olderVariable]: two } })).toEqual({ value: asValue(two), source: `environment ${olderVariable}` });
    expect(effective({ environment: { [olderVariable]: two, [variable]: three } })).toEqual({ value: asValue(three), source: `environment ${variable}` });
  }
  if (flag !== undefined) expect(effective({ file, environment: { [variable]: two }, flags: { [key]: asList(three) } })).toEqual({ value: asValue(three), source: `flag ${flag}` });
});

test('an empty file says nothing, and one that is a list is refused', () => {
  expect(resolveConfig({ file: { path, content: null }, environment: {}, flags: {} }).logLevel.source).toBe('default');
  expect(refusal({ file: { path, content: ['a'] } })).toContain('must hold lines of the form');
});

test('a variable of the same family that belongs to another program is left alone', () => {
  expect(resolveConfig({ environment: { NKUDO_EDGE_LISTEN: '127.0.0.1:0' }, flags: {} }).logLevel.value).toBe('info');
});
