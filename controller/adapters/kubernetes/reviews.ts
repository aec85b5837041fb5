/**
 * TokenReview and SubjectAccessReview: questions that are POSTed and leave no object behind, so they don't
 * go through the client for objects. Each has a deadline; every failure is UNAVAILABLE, never a verdict.
 */
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { AppError } from '#api/model/error-codes.ts';
import type { KubernetesUser, ReviewPort } from '#controller/fleet-api/authentication.ts';
import type { Connection } from './kubernetes-client.ts';

const reviewDeadlineMs = 10_000;
const answerBytesMax = 1_048_576;

type Answer = Readonly<Record<string, unknown>>;

function isRecord(value: unknown): value is Answer {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

async function post(connection: Connection, path: string, body: object): Promise<Answer> {
  const options = await connection.credentials();
  const url = new URL(connection.server.replace(/\/$/, '') + path);
  const payload = Buffer.from(JSON.stringify(body));
  return new Promise((resolve, reject) => {
    const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
    const outgoing = send(
      url,
      { ...options, method: 'POST', headers: { ...options.headers, 'content-type': 'application/json', accept: 'application/json', 'content-length': payload.byteLength }, signal: AbortSignal.timeout(reviewDeadlineMs) },
      (response) => {
        const parts: Buffer[] = [];
        let length = 0;
        response.on('data', (part: Buffer) => {
          length += part.byteLength;
          if (length > answerBytesMax) response.destroy(new Error('the answer is too long'));
          else parts.push(part);
        });
        response.on('error', reject);
        response.on('end', () => {
          try {
            const answer: unknown = JSON.parse(Buffer.concat(parts).toString());
            if (response.statusCode === 201 && isRecord(answer)) resolve(answer);
            else reject(new Error(`${path}: status ${response.statusCode}`));
          } catch (error) {
            reject(error instanceof Error ? error : new Error('the answer is no JSON'));
          }
        });
      },
    );
    outgoing.on('error', reject).end(payload);
  });
}

async function askStatus(connection: Connection, path: string, body: object): Promise<Answer> {
  try {
    const { status } = await post(connection, path, body);
    return isRecord(status) ? status : {};
  } catch (error) {
    throw new AppError('UNAVAILABLE', 'the Kubernetes API can not be asked about the caller', { cause: error });
  }
}

function texts(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === 'string') : [];
}

function parseUser(value: unknown): KubernetesUser | null {
  if (!isRecord(value) || typeof value['username'] !== 'string' || value['username'] === '') return null;
  const extra = isRecord(value['extra']) ? value['extra'] : {};
  return {
    username: value['username'],
    uid: typeof value['uid'] === 'string' ? value['uid'] : '',
    groups: texts(value['groups']),
    extra: Object.fromEntries(Object.entries(extra).map(([key, values]) => [key, texts(values)])),
  };
}

export function createKubernetesReviews(connection: Connection): ReviewPort {
  return {
    reviewToken: async (token, audience) => {
      const status = await askStatus(connection, '/apis/authentication.k8s.io/v1/tokenreviews', {
        apiVersion: 'authentication.k8s.io/v1',
        kind: 'TokenReview',
        spec: { token, audiences: [audience] },
      });
      // Without its audience in the answer the token was made for somebody else.
      return status['authenticated'] === true && texts(status['audiences']).includes(audience) ? parseUser(status['user']) : null;
    },
    reviewAccess: async (user, namespace, right) => {
      const status = await askStatus(connection, '/apis/authorization.k8s.io/v1/subjectaccessreviews', {
        apiVersion: 'authorization.k8s.io/v1',
        kind: 'SubjectAccessReview',
        spec: {
          user: user.username,
          uid: user.uid,
          groups: user.groups,
          extra: user.extra,
          resourceAttributes: { group: 'nkudo.dev', namespace, verb: right.verb, resource: right.resource, ...(right.subresource === undefined ? {} : { subresource: right.subresource }), ...(right.name === undefined ? {} : { name: right.name }) },
        },
      });
      return status['allowed'] === true;
    },
  };
}
