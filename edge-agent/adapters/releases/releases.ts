/** The Releases port on files and HTTP. A transfer that breaks goes on where it was, a few times in a row without progress. */
import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { KeyObject } from 'node:crypto';
import { manifestBytesMax, parseReleaseManifest } from '#api/codec/release-codec.ts';
import { AppError, isAppError } from '#api/model/error-codes.ts';
import { fullJitterMs } from '../../domain/retry-delay.ts';
import type { Clock, Entropy } from '../../ports/clock.ts';
import type { Releases } from '../../ports/releases.ts';
import type { OpenTransfer } from '../images/http-transfer.ts';
import { pause } from '../images/pace.ts';
import { checkSignature, signatureBytesMax } from './signature.ts';

export interface ReleasesOptions {
  /** Read anew for each release, so that a key may be added while the agent runs. */
  readonly keys: () => readonly KeyObject[];
  readonly openTransfer: OpenTransfer;
  readonly clock: Clock;
  readonly entropy: Entropy;
}

/** Failures in a row without a byte of progress. */
const failuresMax = 4;
const retryLimits = { baseMs: 500, capMs: 10_000 } as const;
export const signatureSuffix = '.sigstore.json';

export function isUrl(location: string): boolean {
  return /^https?:\/\//.test(location);
}

export function createReleases({ keys, openTransfer, clock, entropy }: ReleasesOptions): Releases {
  async function* fetchAll(url: string, signal: AbortSignal): AsyncIterable<Uint8Array> {
    let have = 0;
    for (let inRow = 0; ; ) {
      const before = have;
      try {
        const transfer = await openTransfer({ url, have, allowed: [], signal });
        // A server that can't go on begins anew: what is there already is passed over.
        let skip = transfer.isAppended ? 0 : have;
        for await (const chunk of transfer.body) {
          const passed = Math.min(skip, chunk.length);
          skip -= passed;
          if (passed === chunk.length) continue;
          have += chunk.length - passed;
          yield passed === 0 ? chunk : chunk.subarray(passed);
        }
        if (transfer.totalBytes !== undefined && have < transfer.totalBytes) throw new AppError('IMAGE_UNAVAILABLE', `${new URL(url).host} ended before the file was whole`);
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (!isAppError(error)) throw error;
        inRow = have > before ? 1 : inRow + 1;
        if (error.code !== 'IMAGE_UNAVAILABLE' || inRow > failuresMax) throw unavailable(error);
        await pause(clock, fullJitterMs(inRow, entropy.random(), retryLimits), signal);
        signal.throwIfAborted();
      }
    }
  }

  async function readText(location: string, max: number, signal: AbortSignal): Promise<Buffer> {
    if (isUrl(location)) {
      const chunks: Uint8Array[] = [];
      let length = 0;
      for await (const chunk of fetchAll(location, signal)) {
        length += chunk.length;
        if (length > max) throw new AppError('RELEASE_INVALID', `${location} is larger than ${max} bytes`);
        chunks.push(chunk);
      }
      return Buffer.concat(chunks);
    }
    try {
      if ((await stat(location)).size > max) throw new AppError('RELEASE_INVALID', `${location} is larger than ${max} bytes`);
      return await readFile(location);
    } catch (cause) {
      if (isAppError(cause)) throw cause;
      throw new AppError('RELEASE_UNAVAILABLE', `${location} can not be read`, { cause, remedy: 'name the manifest of a release; its signature and its files lie beside it' });
    }
  }

  return {
    async load(named, signal) {
      const location = isUrl(named) ? named : resolve(named);
      const content = await readText(location, manifestBytesMax, signal);
      const signature = (await readText(beside(location, (name) => name + signatureSuffix), signatureBytesMax, signal)).toString('utf8');
      checkSignature(content, signature, keys(), location);
      const text = content.toString('utf8');
      return {
        manifest: parseReleaseManifest(text),
        text,
        signature,
        open(artifact, opening) {
          const path = beside(location, () => artifact.fileName);
          return isUrl(path) ? fetchAll(path, opening) : readAll(path);
        },
      };
    },
  };
}

async function* readAll(path: string): AsyncIterable<Uint8Array> {
  try {
    // Without an encoding a stream of a file yields buffers.
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) yield chunk as Uint8Array;
  } catch (cause) {
    throw new AppError('RELEASE_UNAVAILABLE', `${path} can not be read`, { cause });
  }
}

/** A file in the same directory. A query, such as a token, stays with it. */
function beside(location: string, rename: (name: string) => string): string {
  if (!isUrl(location)) return join(dirname(location), rename(location.slice(dirname(location).length).replace(/^\/+/, '')));
  const url = new URL(location);
  const slash = url.pathname.lastIndexOf('/');
  url.pathname = url.pathname.slice(0, slash + 1) + rename(url.pathname.slice(slash + 1));
  return url.href;
}

/** The words of images, told of releases. */
function unavailable(cause: AppError): AppError {
  return new AppError('RELEASE_UNAVAILABLE', cause.message, { cause });
}
