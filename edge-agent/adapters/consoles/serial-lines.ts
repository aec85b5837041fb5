/** Serial consoles over the unix socket of a VMM, and the file beside it that keeps what came. */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { connect } from 'node:net';
import type { SerialLine, SerialLines, SerialSpool } from '../../ports/consoles.ts';
import { withSocketFile } from '../system/socket-file.ts';

/** Input that the guest has not taken yet, bytes; a person types less. */
const inputBytesMax = 64 * 1024;

export const systemSerialLines: SerialLines = { connect: (path) => withSocketFile(path, connectTo) };

function connectTo(path: string): Promise<SerialLine | null> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('error', () => resolve(null));
    socket.once('connect', () => {
      // The end of the line is seen by its reader; why it ended does not matter.
      socket.on('error', () => undefined);
      resolve({
        output: piecesOf(socket),
        write(bytes) {
          if (!socket.writable || socket.writableLength + bytes.length > inputBytesMax) return false;
          socket.write(bytes);
          return true;
        },
        close: () => void socket.destroy(),
      });
    });
  });
}

async function* piecesOf(socket: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
  try {
    yield* socket;
  } catch {
    // Cut off: the same as an end.
  }
}

/** The number of the boot lies in a file of its own: the log itself is the guest's bytes and nothing else. */
function bootFile(path: string): string {
  return `${path}.boot`;
}

export const systemSerialSpool: SerialSpool = {
  async bootOf(path) {
    try {
      const boot = Number(await withFile(bootFile(path), constants.O_RDONLY, async (file) => (await file.read(Buffer.alloc(bootDigitsMax), 0, bootDigitsMax, 0)).buffer.toString('latin1').replaceAll('\0', '')));
      return Number.isSafeInteger(boot) && boot > 0 ? boot : null;
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  },
  async begin(path, boot) {
    // Emptied first: a crash in between only empties it again.
    await withFile(path, constants.O_WRONLY | constants.O_CREAT, (file) => file.truncate(0));
    await withFile(bootFile(path), constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, (file) => file.writeFile(String(boot)));
  },
  append: (path, bytes) => withFile(path, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, (file) => file.writeFile(bytes)),
  async tail(path, bytesMax) {
    try {
      return await withFile(path, constants.O_RDONLY, async (file) => {
        const { size } = await file.stat();
        const length = Math.min(size, bytesMax);
        const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, size - length);
        return buffer.subarray(0, bytesRead);
      });
    } catch (error) {
      if (isMissing(error)) return new Uint8Array();
      throw error;
    }
  },
};

const bootDigitsMax = 16;

/** The folder is the VMM's: a link, a pipe or a device in the place of the file is not written to. */
async function withFile<Result>(path: string, flags: number, work: (file: FileHandle) => Promise<Result>): Promise<Result> {
  const file = await open(path, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK, 0o600);
  try {
    if (!(await file.stat()).isFile()) throw new Error('what is in the place of the console log is no file');
    return await work(file);
  } finally {
    await file.close();
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
