/** The parts of the HTTPS API that need no server: forms, problems, resumption, origins, the table. */
import { createServer } from 'node:https';
import pino from 'pino';
import { describe, expect, it } from 'vitest';
import { AppError, errorCatalogue, type ErrorCode } from '#api/model/error-codes.ts';
import type { FleetCalls } from '#controller/fleet-api/fleet-calls.ts';
import { refuse } from '#controller/fleet-api/validation.ts';
import { createCors } from './cors.ts';
import { messagesOf } from './descriptors.ts';
import { decodeJson, decodeTexts, encodeMessage } from './message-json.ts';
import { problemHeaders, toProblem } from './problem.ts';
import { createResumption, eventIdOf } from './resumption.ts';
import { createHttpApi } from './server.ts';

const log = pino({ level: 'silent' });

describe('messages as JSON', () => {
  const plan = messagesOf('GetPlan').output;

  it('have the names of protobuf, numbers as numbers and times as texts', () => {
    const message = {
      plan: {
        id: 'p', site: 's', idempotencyKey: 'k', contentHash: 'h', status: 4, createdAt: { seconds: 1, nanos: 2_000_000 }, finishedAt: undefined, errorCode: '', errorMessage: '', warnings: [],
        operations: [], actions: [{ kind: 1, name: 'n', uid: '', state: 'Pending', generation: 2 ** 52, operationId: '', errorCode: '', errorMessage: '' }],
      },
    };
    expect(encodeMessage(plan, message)).toEqual({
      plan: {
        id: 'p', site: 's', idempotencyKey: 'k', contentHash: 'h', status: 'PLAN_STATUS_SUCCEEDED', createdAt: '1970-01-01T00:00:01.002Z', errorCode: '', errorMessage: '', warnings: [],
        operations: [], actions: [{ kind: 'KIND_CREATE', name: 'n', uid: '', state: 'Pending', generation: 2 ** 52, operationId: '', errorCode: '', errorMessage: '' }],
      },
    });
  });

  it('hold the one case of a oneof, and bytes as base64', () => {
    expect(encodeMessage(messagesOf('WatchStatus').output, { change: { $case: 'removedUid', value: 'u' } })).toEqual({ removedUid: 'u' });
    expect(encodeMessage(messagesOf('TailLogs').output, { incarnation: 1, offset: 0, data: Buffer.from('hé'), gapBytes: 0, receivedAt: undefined })).toMatchObject({ data: 'aMOp' });
  });

  it('from a body are refused field by field', () => {
    const { message, problems } = decodeJson(messagesOf('ApplyPlan').input, { site: 1, dryRun: 'yes', namespace: 'n', extra: {}, actions: [{ kind: 'KIND_POD', name: 'a' }, 7] }, (name) => name !== 'namespace');
    expect(problems.map(({ field }) => field)).toEqual(['site', 'dryRun', 'namespace', 'extra', 'actions[0].kind', 'actions[1]']);
    expect(message).toMatchObject({ site: '', dryRun: false, force: false, idempotencyKey: '' });
    expect(decodeJson(messagesOf('ApplyPlan').input, [], () => true).problems).toEqual([{ field: 'body', problem: 'must be a JSON object' }]);
  });

  it('from a query are refused field by field', () => {
    const texts = { namespace: 'n', pageSize: '-1', startedFrom: 'yesterday', status: ['a', 'b'], nothing: 'x', startedBefore: '2026-01-01T00:00:00+01:00' };
    const { message, problems } = decodeTexts(messagesOf('ListExecutions').input, texts, () => true);
    expect(problems.map(({ field }) => field)).toEqual(['pageSize', 'startedFrom', 'status', 'nothing']);
    expect(message).toMatchObject({ namespace: 'n', pageSize: 0, status: '', startedBefore: { seconds: Date.UTC(2025, 11, 31, 23) / 1000, nanos: 0 } });
  });
});

describe('problems', () => {
  it('have a status for every code of the catalogue', () => {
    for (const code of Object.keys(errorCatalogue) as ErrorCode[]) expect(toProblem(new AppError(code), log), code).toMatchObject({ code, status: expect.toSatisfy((status: number) => status >= 400 && status < 600) });
  });

  it('name fields as JSON does, and say nothing of what is not of the catalogue', () => {
    const refused = (): unknown => {
      try {
        refuse([{ field: 'actions[0].object_json', problem: 'must be there' }]);
        return null;
      } catch (error) {
        return error;
      }
    };
    expect(toProblem(refused(), log)).toMatchObject({ status: 400, detail: 'actions[0].objectJson must be there', fields: [{ field: 'actions[0].objectJson', problem: 'must be there' }] });
    expect(JSON.stringify(toProblem(new Error('secret'), log))).not.toContain('secret');
    expect(problemHeaders(toProblem(new AppError('RATE_LIMITED', 'x', { retryAfterMs: 1_200 }), log))).toMatchObject({ 'retry-after': '2' });
    expect(problemHeaders(toProblem(new AppError('UNAUTHENTICATED'), log))).toMatchObject({ 'www-authenticate': 'Bearer realm="nkudo"' });
  });
});

describe('a watcher that comes back', () => {
  let nowMs = 0;
  let made = 0;
  const uuid = (): string => `w${(made += 1)}`;
  const open = { owner: 'ann', lastEventId: undefined, cut: () => {} };

  it('is due what came after its last event, and removals too', async () => {
    const resumption = createResumption({ clock: { monotonicMs: () => nowMs }, uuid });
    const first = await resumption.open(open);
    first.memory.note('a', '1');
    first.memory.note('b', '1');
    const at = eventIdOf(first);
    first.memory.note('a', '2');
    first.memory.noteGone('b');
    first.park();
    const second = await resumption.open({ ...open, lastEventId: at });
    expect(second).toMatchObject({ isResumed: true, id: first.id });
    expect(second.memory.isDue('a', '2')).toBe(true);
    expect(second.memory.missing(new Map([['a', 1]]))).toEqual(['b']);
    second.park();
    const third = await resumption.open({ ...open, lastEventId: eventIdOf(second) });
    expect(third.memory.isDue('a', '2')).toBe(true); // Noted as due, and not sent since.
  });

  it('begins anew as somebody else, too late, or with an id that is none of its own', async () => {
    const resumption = createResumption({ clock: { monotonicMs: () => nowMs }, uuid });
    const parked = async (): Promise<string> => {
      const session = await resumption.open(open);
      session.memory.note('a', '1');
      session.park();
      return eventIdOf(session);
    };
    expect((await resumption.open({ ...open, owner: 'bob', lastEventId: await parked() })).isResumed).toBe(false);
    expect((await resumption.open({ ...open, lastEventId: `${await parked()}9` })).isResumed).toBe(false);
    expect((await resumption.open({ ...open, lastEventId: 'made-up' })).isResumed).toBe(false);
    const late = await parked();
    nowMs += 120_001;
    expect((await resumption.open({ ...open, lastEventId: late })).isResumed).toBe(false);
  });

  it('takes over from a connection whose end was not noticed', async () => {
    const resumption = createResumption({ clock: { monotonicMs: () => nowMs }, uuid });
    const cut = Promise.withResolvers<void>();
    const first = await resumption.open({ ...open, cut: cut.resolve });
    first.memory.note('a', '1');
    const second = resumption.open({ ...open, lastEventId: eventIdOf(first) });
    await cut.promise;
    first.park();
    expect((await second).isResumed).toBe(true);
  });
});

describe('pages in browsers', () => {
  const preflight = (origin: string) => ({ method: 'OPTIONS', headers: { origin, 'access-control-request-method': 'POST' } });

  it('may call from the origins that are named, and from no other', () => {
    const cors = createCors(['https://console.example.com']);
    expect(cors.headersFor(preflight('https://console.example.com'))).toMatchObject({ 'access-control-allow-origin': 'https://console.example.com', vary: 'Origin' });
    expect(cors.preflightFor(preflight('https://console.example.com'))).toMatchObject({ 'access-control-allow-methods': 'GET, POST' });
    expect(cors.headersFor(preflight('https://evil.example.com'))).toEqual({ vary: 'Origin' });
    expect(cors.preflightFor(preflight('https://evil.example.com'))).toBeNull();
    expect(createCors([]).headersFor(preflight('https://console.example.com'))).toEqual({});
  });
});

describe('the table of routes', () => {
  const api = () =>
    createHttpApi(
      {
        calls: {} as FleetCalls, // Nothing is called.
        authentication: { authenticateHeader: () => Promise.reject(new AppError('UNAUTHENTICATED')), open: () => { throw new Error('nobody comes so far'); } },
        log, clock: { nowMs: () => 0, monotonicMs: () => 0 }, uuid: () => 'x', allowedOrigins: [],
      },
      (handler) => createServer(handler),
    ).app;

  it('[C1] refuses a handler outside of it at the start', () => {
    expect(() => api().get('/v1/other', () => 'x')).toThrow('no access rule for GET /v1/other');
    expect(() => api().delete('/v1/namespaces/:namespace/sites', () => 'x')).toThrow('no access rule');
  });

  it('answers what it does not have with problems', async () => {
    const app = api();
    const ask = async (method: 'GET' | 'DELETE' | 'POST', url: string, headers = {}) => {
      const answer = await app.inject({ method, url, headers });
      return { status: answer.statusCode, code: (JSON.parse(answer.body) as { code: string }).code, allow: answer.headers['allow'] };
    };
    expect(await ask('GET', '/nothing')).toMatchObject({ status: 404, code: 'NOT_FOUND' });
    expect(await ask('DELETE', '/v1/namespaces/n/plans')).toMatchObject({ status: 405, code: 'INVALID_REQUEST', allow: 'GET, POST' });
    expect(await ask('GET', `/v1/namespaces/n/sites?pageToken=${'x'.repeat(9_000)}`)).toMatchObject({ status: 414, code: 'INVALID_REQUEST' });
    expect(await ask('GET', '/v1/namespaces/n/sites')).toMatchObject({ status: 401, code: 'UNAUTHENTICATED' });
    expect((await app.inject({ method: 'GET', url: '/openapi.json' })).statusCode).toBe(200);
    await app.close();
  });
});
