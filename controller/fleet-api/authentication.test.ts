import { Metadata } from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import { createCallLimits, defaultCallLimits } from '#controller/domain/quota/call-limits.ts';
import { createAuthentication, type FleetCaller, type KubernetesUser, type ReviewPort } from './authentication.ts';

const user: KubernetesUser = { username: 'ann', uid: 'u1', groups: ['g'], extra: {} };
const ann: FleetCaller = { user, key: null };
const right = { verb: 'get', resource: 'microvms' } as const;

function fixture(answers: { readonly allowed?: boolean } = {}) {
  let nowMs = 0;
  const asked: string[] = [];
  const review: ReviewPort = {
    reviewToken: (token, audience) => {
      asked.push(`token ${audience}`);
      return Promise.resolve(token === 'good' ? user : null);
    },
    reviewAccess: (who, namespace) => {
      asked.push(`access ${who.username} ${namespace}`);
      return Promise.resolve(answers.allowed ?? true);
    },
  };
  return { asked, authentication: createAuthentication(review, { nowMs: () => nowMs, monotonicMs: () => nowMs }), pass: (ms: number) => { nowMs += ms; } };
}

function metadata(authorization?: string): Metadata {
  const made = new Metadata();
  if (authorization !== undefined) made.set('authorization', authorization);
  return made;
}

describe('authentication', () => {
  it('accepts a bearer token of the audience and asks again only after a while', async () => {
    const { authentication, asked, pass } = fixture();
    for (let time = 0; time < 3; time += 1) expect(await authentication.authenticate(metadata('Bearer good'))).toEqual(ann);
    expect(asked).toEqual(['token nkudo']);
    pass(10_000);
    await authentication.authenticate(metadata('bearer good'));
    expect(asked).toHaveLength(2);
  });

  it('refuses no token, another scheme, an over-long one and a bad one', async () => {
    const { authentication } = fixture();
    for (const header of [undefined, 'Basic good', 'Bearer', `Bearer ${'x'.repeat(20_000)}`, 'Bearer bad']) {
      await expect(authentication.authenticate(metadata(header))).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
    }
  });

  it('keeps a refusal for a shorter time than a grant, and never mixes namespaces', async () => {
    const { authentication, asked, pass } = fixture({ allowed: false });
    await expect(authentication.authorize(ann, 'a', right)).rejects.toMatchObject({ code: 'PERMISSION_DENIED', message: 'ann may not get microvms in namespace a' });
    pass(2_000);
    await expect(authentication.authorize(ann, 'a', right)).rejects.toMatchObject({ code: 'PERMISSION_DENIED' });
    await expect(authentication.authorize(ann, 'b', right)).rejects.toMatchObject({ code: 'PERMISSION_DENIED' });
    expect(asked).toEqual(['access ann a', 'access ann a', 'access ann b']);
  });

  it('does not grow with the number of tokens', async () => {
    const { authentication, asked } = fixture();
    for (let index = 0; index < 2_000; index += 1) await authentication.authenticate(metadata(`Bearer bad${index}`)).catch(() => {});
    const before = asked.length;
    await authentication.authenticate(metadata('Bearer bad0')).catch(() => {});
    expect(asked).toHaveLength(before + 1); // The first one was forgotten, as the cache is bounded.
  });
});

describe('many calls at once', () => {
  it('with one token ask once', async () => {
    const { authentication, asked } = fixture();
    await Promise.all(Array.from({ length: 100 }, () => authentication.authenticate(metadata('Bearer good'))));
    expect(asked).toEqual(['token nkudo']);
  });

  it('hold a place of their tenant from the right to the end, and a call that asked for none holds none', async () => {
    const review: ReviewPort = { reviewToken: () => Promise.resolve(user), reviewAccess: () => Promise.resolve(true) };
    const clock = { nowMs: () => 0, monotonicMs: () => 0 };
    const authentication = createAuthentication(review, clock, { limits: createCallLimits({ ...defaultCallLimits, callsPerTenant: 2 }) });
    const begin = async () => {
      const caller = await authentication.authenticateHeader('Bearer good');
      return { caller, ticket: authentication.open(caller, { isStream: false, end: () => {} }) };
    };
    const [one, two, three] = [await begin(), await begin(), await begin()];
    expect(one.ticket.isGranted).toBe(false);
    for (const { caller } of [one, two]) await authentication.authorize(caller, 'a', right);
    expect(one.ticket.isGranted).toBe(true);
    await expect(authentication.authorize(three.caller, 'a', right)).rejects.toMatchObject({ code: 'RATE_LIMITED' });
    expect(three.ticket.isGranted).toBe(false);
    await authentication.authorize(three.caller, 'b', right);
    one.ticket.close();
    one.ticket.close();
    const four = await begin();
    await authentication.authorize(four.caller, 'a', right);
    // A call that was over before its right came holds nothing.
    const late = await begin();
    late.ticket.close();
    two.ticket.close();
    await authentication.authorize(late.caller, 'a', right);
    const five = await begin();
    await authentication.authorize(five.caller, 'a', right);
  });
});
