/**
 * Every logger call of the programs against the vocabulary, by reading the source: the fields of a call must be written
 * where it stands, so that whoever reads it, and this test, sees their names.
 */
import { globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { logFields } from './log-fields.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const methods = new Set(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'child']);
/** What a logger is called in this code. */
const loggerName = /^#?(log|logger)$/;
/** What these return is in the vocabulary, and says so where it is declared. */
const fieldsOfCalls: Readonly<Record<string, readonly string[]>> = { errorFields: ['error', 'code'] };

interface Found {
  readonly calls: number;
  /** Names with the place of each use. */
  readonly fields: ReadonlyMap<string, readonly string[]>;
  /** Places where no name can be read. */
  readonly unreadable: readonly string[];
}

function nameOf(node: ts.Node): string {
  if (ts.isCallExpression(node) && ts.isPropertyAccessExpression(node.expression) && node.expression.name.text === 'child') return nameOf(node.expression.expression);
  return ts.isIdentifier(node) || ts.isPrivateIdentifier(node) ? node.text : ts.isPropertyAccessExpression(node) ? node.name.text : '';
}

/** Null where the names can't be told. */
function namesIn(node: ts.Expression): readonly string[] | null {
  if (ts.isParenthesizedExpression(node)) return namesIn(node.expression);
  if (ts.isConditionalExpression(node)) return all([namesIn(node.whenTrue), namesIn(node.whenFalse)]);
  if (ts.isCallExpression(node)) return fieldsOfCalls[nameOf(node.expression)] ?? null;
  if (!ts.isObjectLiteralExpression(node)) return null;
  return all(node.properties.map((property) => (ts.isSpreadAssignment(property) ? namesIn(property.expression) : property.name !== undefined && ts.isIdentifier(property.name) ? [property.name.text] : null)));
}

function all(parts: readonly (readonly string[] | null)[]): readonly string[] | null {
  return parts.includes(null) ? null : parts.flatMap((part) => part ?? []);
}

function examine(file: string, text: string): Found {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const fields = new Map<string, string[]>();
  const unreadable: string[] = [];
  let calls = 0;
  const visit = (node: ts.Node): void => {
    ts.forEachChild(node, visit);
    if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression) || !methods.has(node.expression.name.text) || !loggerName.test(nameOf(node.expression.expression))) return;
    calls += 1;
    const place = `${file}:${source.getLineAndCharacterOfPosition(node.getStart()).line + 1}`;
    const [first] = node.arguments;
    if (first === undefined || ts.isStringLiteralLike(first)) return;
    const names = namesIn(first);
    if (names === null) unreadable.push(place);
    for (const name of names ?? []) fields.set(name, [...(fields.get(name) ?? []), place]);
  };
  visit(source);
  return { calls, fields, unreadable };
}

function examineAll(): Found {
  const files = globSync('{api,controller,db,edge-agent}/**/*.ts', { cwd: root, exclude: (name) => name.endsWith('.test.ts') || name === 'gen' }).toSorted();
  const found = files.map((file) => examine(file, readFileSync(`${root}${file}`, 'utf8')));
  const fields = new Map<string, readonly string[]>();
  for (const each of found) for (const [name, places] of each.fields) fields.set(name, [...(fields.get(name) ?? []), ...places]);
  return { calls: found.reduce((sum, each) => sum + each.calls, 0), fields, unreadable: found.flatMap((each) => each.unreadable) };
}

describe('the fields of the programs’ logs', () => {
  const found = examineAll();

  it('are all of the one vocabulary, and each word of it is used', () => {
    expect(found.calls).toBeGreaterThan(100);
    expect(found.unreadable).toEqual([]);
    expect([...found.fields].filter(([name]) => !(name in logFields)).map(([name, places]) => `${name}: ${places.join(', ')}`)).toEqual([]);
    const ofTheLogger = ['time', 'level', 'msg', 'program', 'pid'];
    expect(Object.keys(logFields).filter((name) => !found.fields.has(name) && !ofTheLogger.includes(name))).toEqual([]);
  });

  it('are explained to operators in the same words', () => {
    const page = readFileSync(`${root}docs/operations.md`, 'utf8');
    const rows = new Map([...page.matchAll(/^\| `(\w+)` \| (.+) \|$/gm)].map(([, name, meaning]) => [name, meaning]));
    expect(Object.entries(logFields).filter(([name, meaning]) => rows.get(name) !== meaning)).toEqual([]);
  });

  it('are found by this reading wherever they stand, and what it can not read is said', () => {
    const text = `
      this.#deps.log.warn({ hostId, ...(isLate ? { ageMs: 1 } : {}), ...errorFields(error) }, 'x');
      logger.child({ part: 'a' }).info({ key: 1 }, 'x');
      log.info(addresses, 'a variable');
      log.error({ ...rest }, 'a spread');
      catalog.info({ notALogger: 1 }, 'x');`;
    const { calls, fields, unreadable } = examine('example.ts', text);
    expect({ calls, names: [...fields.keys()], unreadable }).toEqual({ calls: 5, names: ['hostId', 'ageMs', 'error', 'code', 'part', 'key'], unreadable: ['example.ts:4', 'example.ts:5'] });
  });
});
