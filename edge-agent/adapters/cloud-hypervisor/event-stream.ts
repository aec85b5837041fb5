/**
 * Follows the event file of one VMM process until that process is gone. Owns resuming at a cursor
 * and noticing the end by the process, since the VMM may lose its last events. File notifications
 * only make it prompt; a slow look-around catches what they miss.
 */
import { constants, watch } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { AppError } from '#api/model/error-codes.ts';
import type { EventCursor, ProcessIdentity, VmmEvent } from '../../ports/hypervisor.ts';
import { isErrno } from '../system/errno.ts';
import { createEventParser, type EventParser } from './event-parser.ts';
import { vmFile } from './vm-files.ts';

const chunkBytes = 16 * 1024;
/** Bounds how late an end without a file notification (the reaper was killed too) is seen. */
const lookAroundMs = 5000;

export async function* followEvents(options: {
  vmDirectory: string;
  process: ProcessIdentity;
  cursor: EventCursor | null;
  isAlive: () => Promise<boolean>;
  signal: AbortSignal;
}): AsyncIterable<VmmEvent> {
  const { process, cursor, signal } = options;
  const isSameProcess = cursor !== null && cursor.pid === process.pid && cursor.startTime === process.startTime;
  let offset = isSameProcess ? cursor.offset : 0;
  const parser = createEventParser(offset);
  // The events are in the folder of the VMM, the record of its end beside it.
  const bell = createBell(new Set([options.vmDirectory, dirname(vmFile(options.vmDirectory, 'events'))]), signal);
  try {
    for (;;) {
      signal.throwIfAborted();
      // Asked before reading: what a process that is gone by now wrote is complete in the file.
      const wasAlive = await options.isAlive();
      const chunks = await readFrom(vmFile(options.vmDirectory, 'events'), offset);
      for (const chunk of chunks) {
        offset += chunk.length;
        for (const event of parse(parser, chunk)) {
          yield {
            source: event.source,
            event: event.event,
            properties: event.properties,
            sinceStartMs: event.sinceStartMs,
            cursor: { pid: process.pid, startTime: process.startTime, offset: event.endOffset },
          };
        }
      }
      if (!wasAlive) return;
      await bell.next(lookAroundMs);
    }
  } finally {
    bell.close();
  }
}

function parse(parser: EventParser, chunk: Uint8Array) {
  try {
    return parser.push(chunk);
  } catch (error) {
    throw new AppError('HYPERVISOR_FAILED', 'the event stream of the VMM can not be read', { cause: error });
  }
}

async function readFrom(path: string, offset: number): Promise<Buffer[]> {
  let file;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return []; // The VMM has not made it yet.
    throw error;
  }
  try {
    const chunks: Buffer[] = [];
    let position = offset;
    for (;;) {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(chunkBytes), 0, chunkBytes, position);
      if (bytesRead === 0) return chunks;
      chunks.push(buffer.subarray(0, bytesRead));
      position += bytesRead;
    }
  } finally {
    await file.close();
  }
}

/** Rings when something in the directories changes, also for a change between two waits. */
function createBell(directories: ReadonlySet<string>, signal: AbortSignal) {
  let hasRung = false;
  let wake: () => void = () => undefined;
  const ring = () => {
    hasRung = true;
    wake();
  };
  const watchers = [...directories].map((directory) => watch(directory, ring));
  for (const watcher of watchers) watcher.on('error', ring); // The directory is gone; the look at the process ends the stream.
  signal.addEventListener('abort', ring, { once: true });
  return {
    async next(timeoutMs: number): Promise<void> {
      if (!hasRung) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, timeoutMs);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
      hasRung = false;
    },
    close() {
      for (const watcher of watchers) watcher.close();
      signal.removeEventListener('abort', ring);
    },
  };
}
