/** qcow2 files for tests, made by hand: no program of the host is needed. Source: QEMU docs/interop/qcow2.rst. */

/** The smallest qcow2 file: header, reference counts, and a first-level table without a cluster. */
export function makeQcow2(virtualBytes: number): Buffer {
  const cluster = 65_536;
  const file = Buffer.alloc(4 * cluster);
  file.writeUInt32BE(0x514649fb, 0);
  file.writeUInt32BE(3, 4);
  file.writeUInt32BE(16, 20);
  file.writeBigUInt64BE(BigInt(virtualBytes), 24);
  file.writeUInt32BE(1, 36);
  file.writeBigUInt64BE(BigInt(3 * cluster), 40);
  file.writeBigUInt64BE(BigInt(cluster), 48);
  file.writeUInt32BE(1, 56);
  file.writeUInt32BE(4, 96);
  file.writeUInt32BE(104, 100);
  file.writeBigUInt64BE(BigInt(2 * cluster), cluster);
  for (let index = 0; index < 4; index += 1) file.writeUInt16BE(1, 2 * cluster + 2 * index);
  return file;
}
