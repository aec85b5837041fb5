/** The review port on the Kubernetes API: TokenReview and SubjectAccessReview, with a deadline each. */
import type { AuthenticationV1Api, AuthorizationV1Api } from '@kubernetes/client-node';
import { AppError } from '#api/model/error-codes.ts';
import type { ReviewPort } from './authentication.ts';

const reviewDeadlineMs = 10_000;

async function ask<Result>(work: Promise<Result>): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('the API server did not answer in time')), reviewDeadlineMs);
  });
  try {
    return await Promise.race([work, late]);
  } catch (error) {
    throw new AppError('UNAVAILABLE', 'the Kubernetes API can not be asked about the caller', { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

export function createKubernetesReviews(authentication: AuthenticationV1Api, authorization: AuthorizationV1Api): ReviewPort {
  return {
    reviewToken: async (token, audience) => {
      const { status } = await ask(authentication.createTokenReview({ body: { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenReview', spec: { token, audiences: [audience] } } }));
      if (status?.authenticated !== true || status.audiences?.includes(audience) !== true) return null;
      const user = status.user;
      if (user?.username === undefined || user.username === '') return null;
      return { username: user.username, uid: user.uid ?? '', groups: user.groups ?? [], extra: user.extra ?? {} };
    },
    reviewAccess: async (user, namespace, right) => {
      const { status } = await ask(
        authorization.createSubjectAccessReview({
          body: {
            apiVersion: 'authorization.k8s.io/v1',
            kind: 'SubjectAccessReview',
            spec: {
              user: user.username,
              uid: user.uid,
              groups: [...user.groups],
              extra: Object.fromEntries(Object.entries(user.extra).map(([key, values]) => [key, [...values]])),
              resourceAttributes: { group: 'nkudo.dev', namespace, verb: right.verb, resource: right.resource, ...(right.subresource === undefined ? {} : { subresource: right.subresource }) },
            },
          },
        }),
      );
      return status?.allowed === true;
    },
  };
}
