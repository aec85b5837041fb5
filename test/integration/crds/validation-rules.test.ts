/**
 * Every validation rule of the CRDs on a real API server: what it accepts, what it refuses, and with
 * exactly which sentence. The table is complete: a rule without a row fails here.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { useCrdServer, type Causes, type CrdServer } from './api-server.ts';
import { allRules, isReservedRule, type Kind, type LocatedRule } from './crd-source.ts';
import { baseSpecs, ruleCases, type RuleCase, type Sample } from './rule-cases.ts';

const rules = allRules();
let server: CrdServer;
beforeAll(async () => {
  server = await useCrdServer({ withUnlocked: true });
});

/** The one rule of the kind whose message begins like this. */
function ruleOf(kind: Kind, beginning: string): LocatedRule {
  const [rule, ...others] = rules.filter((candidate) => candidate.kind === kind && candidate.message.startsWith(beginning));
  if (rule === undefined || others.length > 0) throw new Error(`${kind}: ${others.length === 0 ? 'no' : 'more than one'} rule begins with "${beginning}"`);
  return rule;
}

/** Messages of rules among the causes; other causes come from the schema. */
const messagesOf = (kind: Kind, causes: Causes): string[] =>
  rules
    .filter((rule) => rule.kind === kind && causes.some(({ message }) => message.endsWith(rule.message)))
    .map(({ message }) => message)
    .toSorted();

const offerOf = (row: RuleCase, sample: Sample): Parameters<CrdServer['offer']>[0] => ({ kind: row.kind, variant: row.variant, ...sample });

/** Bad input at creation is a must-show; a change that a transition rule refuses is not. */
const tagOf = (row: RuleCase, sample: Sample): string => (row.variant === 'shipped' && sample.before === undefined ? '[S6] ' : '');

describe.each(ruleCases)('$kind ($variant): $rule', (row) => {
  for (const sample of row.accepted) {
    it(`accepts ${sample.title}`, async () => {
      expect(await server.offer(offerOf(row, sample))).toEqual([]);
    });
  }
  for (const sample of row.refused) {
    it(`${tagOf(row, sample)}refuses ${sample.title} with the sentence of the rule`, async () => {
      const expected = [row.rule, ...(sample.also ?? [])].map((beginning) => ruleOf(row.kind, beginning).message);
      expect(messagesOf(row.kind, await server.offer(offerOf(row, sample)))).toEqual(expected.toSorted());
    });
  }
});

describe('the table of rules', () => {
  it('has an accepted and a refused sample for every rule', () => {
    const covered = new Set(
      ruleCases
        .filter(({ accepted, refused }) => accepted.length > 0 && refused.length > 0)
        .map(({ kind, rule }) => `${kind}: ${ruleOf(kind, rule).message}`),
    );
    expect(rules.map(({ kind, message }) => `${kind}: ${message}`).filter((rule) => !covered.has(rule))).toEqual([]);
  });

  it('tells rules apart by their message', () => {
    const messages = rules.map(({ kind, message }) => `${kind}: ${message}`);
    expect(new Set(messages).size).toBe(messages.length);
  });

  it('says of every reserved field what to do and when it comes', () => {
    for (const rule of rules.filter(isReservedRule)) {
      expect(rule.message).toMatch(/^reserved: \S.* has no effect in this version; remove it \(it comes with .+\)$/);
    }
  });
});

describe('an object that is refused', () => {
  it('[S6] is not stored, not even in part', async () => {
    const body = {
      apiVersion: 'nkudo.dev/v1alpha1',
      kind: 'MicroVM',
      metadata: { name: 'half-made' },
      spec: { ...baseSpecs.MicroVM, memory: { size: '1000000000Gi' } },
    };
    const { status } = await server.client.request('POST', server.collection('MicroVM'), body);
    expect(status).toBe(422);
    expect(await server.client.find(`${server.collection('MicroVM')}/half-made`)).toBeNull();
  });

  it.each(['Site', 'Host', 'MicroVM', 'EnrollmentToken', 'APIKey'] as const)('[S6] can be a %s with a field that does not exist', async (kind) => {
    const causes = await server.offer({ kind, variant: 'shipped', spec: { ...baseSpecs[kind], memroy: { size: '1Gi' } } });
    expect(causes.map(({ message }) => message).join()).toContain('unknown field "spec.memroy"');
  });
});

afterAll(() => {
  const refused = ruleCases.reduce((sum, row) => sum + row.refused.length, 0);
  const accepted = ruleCases.reduce((sum, row) => sum + row.accepted.length, 0);
  const reserved = rules.filter(isReservedRule).length;
  console.log(`CRD rules: ${rules.length} (${reserved} reserve a field), ${accepted} accepted and ${refused} refused samples`);
});
