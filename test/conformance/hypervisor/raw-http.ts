/**
 * Sends bytes over a unix socket and reads HTTP answers byte for byte: status lines without reason
 * phrases and unusual headers are what the suite is about, so no HTTP client may hide them.
 */
import { connect, type Socket } from 'node:net';

export interface RawAnswer {
  /** First line, without CR LF. */
  readonly statusLine: string;
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Longest wait for an answer. A real VMM answers within milliseconds. */
const answerTimeoutMs = 20_000;

export interface RawConnection {
  send(bytes: string | Uint8Array): void;
  /** @throws Error when the connection ends before a whole answer came. */
  read(): Promise<RawAnswer>;
  /** Resolves when the other side has closed the connection. */
  readonly closed: Promise<void>;
  isClosed(): boolean;
  close(): void;
}

export async function openConnection(socketPath: string): Promise<RawConnection> {
  const socket: Socket = connect(socketPath);
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  let buffer = Buffer.alloc(0);
  let hasEnded = false;
  let wake: () => void = () => undefined;
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => {
      hasEnded = true;
      wake();
      resolve();
    });
  });
  socket.on('error', () => undefined); // A reset shows as an end without a whole answer.
  socket.on('end', () => {
    hasEnded = true;
    wake();
  });
  socket.on('data', (chunk: Buffer) => {
    buffer = Buffer.concat([buffer, chunk]);
    wake();
  });

  async function read(): Promise<RawAnswer> {
    const deadline = AbortSignal.timeout(answerTimeoutMs);
    for (;;) {
      const taken = takeAnswer(buffer);
      if (taken !== null) {
        buffer = buffer.subarray(taken.length);
        return taken.answer;
      }
      if (hasEnded) throw new Error(`connection ended after ${buffer.length} bytes: ${buffer.toString('latin1')}`);
      if (deadline.aborted) throw new Error(`no answer within ${answerTimeoutMs} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, answerTimeoutMs);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  return {
    send: (bytes) => void socket.write(bytes),
    read,
    closed,
    isClosed: () => hasEnded,
    close: () => socket.destroy(),
  };
}

/** One request on a connection of its own. */
export async function exchange(socketPath: string, bytes: string | Uint8Array): Promise<RawAnswer> {
  const connection = await openConnection(socketPath);
  try {
    connection.send(bytes);
    return await connection.read();
  } finally {
    connection.close();
  }
}

export function requestBytes(method: string, path: string, body?: string): string {
  const head = `${method} ${path} HTTP/1.1\r\nHost: localhost\r\n`;
  if (body === undefined) return `${head}\r\n`;
  return `${head}Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

function takeAnswer(buffer: Buffer): { answer: RawAnswer; length: number } | null {
  const headEnd = buffer.indexOf('\r\n\r\n');
  if (headEnd < 0) return null;
  const [statusLine = '', ...lines] = buffer.subarray(0, headEnd).toString('latin1').split('\r\n');
  const headers = Object.fromEntries(
    lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  const bodyLength = Number(headers['content-length'] ?? 0);
  const length = headEnd + 4 + bodyLength;
  if (buffer.length < length) return null;
  const body = buffer.subarray(headEnd + 4, length).toString('utf8');
  return { answer: { statusLine, status: Number(statusLine.split(' ')[1]), headers, body }, length };
}
