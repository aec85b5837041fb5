/**
 * What goes both ways once a connection to the control socket has become a console: frames of one byte for the kind, four
 * for the length (big endian), and so many bytes. A kind that one side does not know is passed over. Pure.
 */
export const frameKinds = { output: 1, history: 2, end: 3, input: 4 } as const;
export type FrameKind = keyof typeof frameKinds;

/** Longest content of one frame, bytes. */
export const frameBytesMax = 64 * 1024;
const headBytes = 5;

/** Longer bytes become several frames. */
export function encodeFrames(kind: FrameKind, bytes: Uint8Array): Uint8Array {
  const frames: Uint8Array[] = [];
  for (let from = 0; from === 0 || from < bytes.length; from += frameBytesMax) {
    const content = bytes.subarray(from, from + frameBytesMax);
    const head = Buffer.alloc(headBytes);
    head.writeUInt8(frameKinds[kind], 0);
    head.writeUInt32BE(content.length, 1);
    frames.push(head, content);
  }
  return Buffer.concat(frames);
}

/** @returns what takes bytes as they come, and false when they are no frames: then the connection is of no use any more */
export function createFrameReader(onFrame: (kind: FrameKind, bytes: Uint8Array) => void): (bytes: Uint8Array) => boolean {
  let rest: Buffer = Buffer.alloc(0);
  return (bytes) => {
    rest = rest.length === 0 ? Buffer.from(bytes) : Buffer.concat([rest, bytes]);
    while (rest.length >= headBytes) {
      const length = rest.readUInt32BE(1);
      if (length > frameBytesMax) return false;
      if (rest.length < headBytes + length) return true;
      const number = rest.readUInt8(0);
      const kind = (Object.keys(frameKinds) as FrameKind[]).find((known) => frameKinds[known] === number); // The keys are these.
      const content = rest.subarray(headBytes, headBytes + length);
      rest = rest.subarray(headBytes + length);
      if (kind !== undefined) onFrame(kind, content);
    }
    return true;
  };
}
