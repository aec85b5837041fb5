/** Says what is wrong with a log that should hold numbered lines, each once and in order. Knows nothing of the product. */
import type { TailLogsResponse } from '#api/gen/nkudo/v1/fleet.pb.ts';

export function numberedLine(number: number): string {
  return `line ${String(number).padStart(8, '0')} ${'.'.repeat(number % 61)}\n`;
}

/** Findings, at most ten; empty when the text holds lines 1 to `count` and nothing is missing, twice or out of order. */
export function checkLines(text: string, count: number): readonly string[] {
  const findings: string[] = [];
  const lines = text.split('\n').filter((line) => line.startsWith('line '));
  for (let index = 0; index < Math.max(lines.length, count) && findings.length < 10; index += 1) {
    const wanted = numberedLine(index + 1).slice(0, -1);
    if (index >= count) findings.push(`line ${index + 1} is one too many: ${lines[index]}`);
    else if (lines[index] !== wanted) findings.push(`line ${index + 1} is ${JSON.stringify(lines[index])}`);
  }
  return findings;
}

export interface Piece {
  readonly incarnation: number;
  readonly offset: number;
  readonly gapBytes: number;
  readonly data: Uint8Array;
}

/** Findings on the offsets of one boot's pieces: each must begin where the one before ended. */
export function checkPieces(pieces: readonly Piece[]): readonly string[] {
  let next = 0;
  return pieces.flatMap((piece) => {
    const problem = piece.offset === next && piece.gapBytes === 0 ? [] : [`a piece at ${piece.offset} with a gap of ${piece.gapBytes} after ${next} bytes`];
    next = piece.offset + piece.data.byteLength;
    return problem;
  });
}

/** Puts the answers of one reader together over many calls, each of which begins anew. */
export function createFollower(): { take(answer: TailLogsResponse): void; bytes(): Buffer; gaps(): readonly string[] } {
  const parts: Buffer[] = [];
  const gaps: string[] = [];
  let next = 0;
  return {
    take: ({ offset, data }) => {
      if (offset > next) gaps.push(`bytes ${next} to ${offset} never came`);
      const news = data.subarray(Math.max(0, next - offset));
      if (news.byteLength === 0) return;
      parts.push(Buffer.from(news));
      next = offset + data.byteLength;
    },
    bytes: () => Buffer.concat(parts),
    gaps: () => gaps,
  };
}
