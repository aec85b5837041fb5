/** Against archives of GNU tar, in each of its formats, and of nobody: whatever the bytes are, the answer is an entry or a refusal. */
import { execFileSync } from 'node:child_process';
import { chmodSync, linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { extract } from 'tar-stream';
import { expect, test } from 'vitest';
import { readTar } from './tar-reader.ts';

async function* pieces(content: Buffer, bytes: number): AsyncGenerator<Buffer> {
  for (let offset = 0; offset < content.length; offset += bytes) yield content.subarray(offset, offset + bytes);
}

async function list(content: Buffer, bytes: number): Promise<readonly object[]> {
  const entries: object[] = [];
  for await (const { content: body, path, ...rest } of readTar(pieces(content, bytes))) {
    const chunks: Buffer[] = [];
    if (!path.endsWith('skipped')) for await (const chunk of body()) chunks.push(chunk);
    entries.push({ ...rest, path: Buffer.from(path, 'latin1').toString('utf8').replace(/^\.\//, ''), text: Buffer.concat(chunks).toString('utf8') });
  }
  return entries;
}

test.each(['ustar', 'pax', 'gnu'])('reads what GNU tar wrote as %s, in pieces of any size', async (format) => {
  const base = mkdtempSync(join(tmpdir(), 'nkudo-tar-'));
  try {
    const long = format === 'ustar' ? `${'a'.repeat(60)}/${'b'.repeat(90)}` : `${'ä'.repeat(60)}/${'b'.repeat(200)}`;
    mkdirSync(join(base, long.split('/')[0] ?? ''));
    writeFileSync(join(base, long), 'far');
    writeFileSync(join(base, 'file'), 'x'.repeat(1_300));
    writeFileSync(join(base, 'skipped'), 'y'.repeat(5_000));
    writeFileSync(join(base, 'z'), 'last');
    chmodSync(join(base, 'file'), 0o4711);
    utimesSync(join(base, 'file'), 1_600_000_000, 1_600_000_000);
    linkSync(join(base, 'file'), join(base, 'hard'));
    symlinkSync('file', join(base, 'soft'));
    const names = ['file', 'hard', 'soft', 'skipped', long.split('/')[0] ?? '', 'z'];
    const archive = execFileSync('tar', ['-c', `--format=${format}`, '--owner=:1234567', '--group=:7', '-C', base, ...names]);
    const [one, other] = [await list(archive, 7), await list(archive, 100_000)];
    expect(one).toEqual(other);
    expect(one).toEqual([
      expect.objectContaining({ path: 'file', type: 'file', mode: 0o4711, uid: 1_234_567, gid: 7, mtime: 1_600_000_000, bytes: 1_300, text: 'x'.repeat(1_300) }),
      expect.objectContaining({ path: 'hard', type: 'hardLink', link: 'file' }),
      expect.objectContaining({ path: 'soft', type: 'symlink', link: 'file' }),
      expect.objectContaining({ path: 'skipped', bytes: 5_000, text: '' }),
      expect.objectContaining({ path: `${Buffer.from(long.split('/')[0] ?? '').toString()}/`, type: 'directory' }),
      expect.objectContaining({ path: long, text: 'far' }),
      expect.objectContaining({ path: 'z', text: 'last' }),
    ]);
    await expect(list(archive.subarray(0, 900), 64)).rejects.toMatchObject({ code: 'IMAGE_REFUSED' });
  } finally {
    rmSync(base, { recursive: true });
  }
});

/** A block with a check sum, and the content behind it in whole blocks. */
function member(name: string, flag: string, content: Buffer): Buffer {
  const header = Buffer.alloc(512);
  header.write(name, 0);
  header.write('0000644\0', 100);
  header.write(`${content.length.toString(8).padStart(11, '0')}\0`, 124);
  header.write(flag, 156);
  header.write('ustar\x0000', 257);
  header.write('        ', 148);
  header.write(`${header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([header, content, Buffer.alloc((512 - (content.length % 512)) % 512)]);
}

test('an attribute stays the bytes that it is, which tar-stream makes text of', async () => {
  // What `setcap cap_net_raw+ep` gives a file.
  const capability = Buffer.from('0100000200200000ff0000000000000080000000', 'hex');
  const rest = Buffer.concat([Buffer.from(' SCHILY.xattr.security.capability='), capability, Buffer.from('\n')]);
  const record = Buffer.concat([Buffer.from(String(rest.length + 2)), rest]);
  const archive = Buffer.concat([member('pax', 'x', record), member('ping', '0', Buffer.from('x')), Buffer.alloc(1024)]);
  const [entry] = await list(archive, 100);
  expect(entry).toMatchObject({ path: 'ping', xattrs: new Map([['security.capability', capability]]) });
  // When this holds no longer, tar-stream can take the place of the reader.
  const seen = await new Promise<unknown>((resolve, reject) => {
    const reader = extract();
    reader.on('entry', ({ pax }, _content, next) => {
      resolve(Object.values(pax ?? {})[0]);
      next();
    });
    reader.on('error', reject);
    reader.end(archive);
  });
  expect(Buffer.from(String(seen))).not.toEqual(capability);
});

test('whatever the bytes are, it ends, and says at most that they are refused', async () => {
  const block = fc.oneof(fc.uint8Array({ minLength: 512, maxLength: 512 }), fc.constant(new Uint8Array(512)));
  await fc.assert(
    fc.asyncProperty(fc.array(block, { maxLength: 6 }), fc.integer({ min: 0, max: 600 }), fc.boolean(), async (blocks, cut, isSummed) => {
      const content = Buffer.concat(blocks);
      if (isSummed && content.length >= 512) {
        const header = content.subarray(0, 512);
        header.write('        ', 148);
        header.write(`${header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, '0')}\0 `, 148);
      }
      await list(content.subarray(0, Math.max(0, content.length - cut)), 200).catch((error: unknown) => expect(error).toMatchObject({ code: 'IMAGE_REFUSED' }));
    }),
    { numRuns: 300 },
  );
});
