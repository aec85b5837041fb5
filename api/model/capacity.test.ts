import { describe, expect, test } from 'vitest';
import { decideGrowth } from './capacity.ts';

const mi = 2 ** 20;
const of = (cpus: number, memory: number) => ({ cpus, memoryBytes: memory * mi });
const decide = (free: ReturnType<typeof of>, before: ReturnType<typeof of>, asked: ReturnType<typeof of>) => decideGrowth({ hostName: 'edge-1', free, before, asked });

describe('a growth', () => {
  test('is given as far as there is room beside all that are there, to the last of it', () => {
    expect(decide(of(2, 512), of(1, 256), of(3, 768))).toBeNull();
    expect(decide(of(2, 512), of(1, 256), of(4, 256))).toBe('host edge-1 has 2 vCPUs left, and the new spec asks for 3 more');
    expect(decide(of(1, 512), of(1, 256), of(2, 769))).toBe('host edge-1 has 512Mi of memory left, and the new spec asks for 513Mi more');
  });

  test('is asked about only where something grows, so that a host that promised too much can shrink and stop what it has', () => {
    expect(decide(of(-4, -512), of(4, 256), of(4, 256))).toBeNull();
    expect(decide(of(-4, 512), of(4, 256), of(2, 512))).toBeNull();
    expect(decide(of(-4, 512), of(1, 256), of(2, 256))).toBe('host edge-1 has 0 vCPUs left, and the new spec asks for 1 more');
  });
});
