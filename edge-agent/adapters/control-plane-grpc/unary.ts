/** One unary call as a promise that an AbortSignal ends. */
import { Metadata, type ServiceError } from '@grpc/grpc-js';
import { AppError } from '#api/model/error-codes.ts';
import { toAppError } from './status-error.ts';

type Done<Response> = (error: ServiceError | null, response: Response) => void;

export function unary<Response>(signal: AbortSignal, start: (metadata: Metadata, done: Done<Response>) => { cancel(): void }): Promise<Response> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(new AppError('UNAVAILABLE', 'cancelled'));
    const call = start(new Metadata(), (error, response) => {
      signal.removeEventListener('abort', cancel);
      if (error === null) resolve(response);
      else reject(toAppError(error));
    });
    const cancel = (): void => call.cancel();
    signal.addEventListener('abort', cancel, { once: true });
  });
}
