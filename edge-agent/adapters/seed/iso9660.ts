/**
 * Writes an ISO 9660 image of a few small files in one directory, readable by Linux, BSD and Windows: plain 8.3 names,
 * Rock Ridge names and modes (System Use Sharing Protocol), and Joliet names. Pure; equal input gives equal bytes, since
 * all times are one constant. Only as much of the formats as that needs.
 *
 * Source: ECMA-119 (2nd edition); IEEE P1282 draft 1.12 (Rock Ridge) and P1281 (SUSP); Joliet Specification 1.
 */

export interface IsoFile {
  /** ASCII, at most {@link nameMax} characters, without `/`. */
  readonly name: string;
  readonly content: Uint8Array;
}

const sectorBytes = 2048;
const nameMax = 64;
/** A directory is one sector here. */
const filesMax = 8;

/** Sectors in their order; the first 16 are not ours. */
const layout = { primary: 16, joliet: 17, terminator: 18, pathTables: 19, jolietPathTables: 21, root: 23, jolietRoot: 24, data: 25 } as const;

/** 2000-01-01 00:00:00 UTC, in the two forms of the format. */
const recordTime = [100, 1, 1, 0, 0, 0, 0] as const;
const volumeTime = '2000010100000000\0';
const noTime = '0000000000000000\0';

/** Readable by the owner alone: a guest's other users do not read what is on the disk. */
const fileMode = 0o100400;
const directoryMode = 0o040500;

/** @param volume label, at most 16 characters. @throws RangeError for input that the format can't hold */
export function writeIso(volume: string, files: readonly IsoFile[]): Uint8Array {
  if (files.length > filesMax || volume.length > 16) throw new RangeError('too many files, or too long a label');
  for (const { name } of files) if (!/^[\x21-\x2e\x30-\x7e]+$/.test(name) || name.length > nameMax) throw new RangeError(`no name for a file: ${name}`);
  const places = placeFiles(files);
  const sectors = Math.max(layout.data, ...places.map(({ sector, file }) => sector + sectorsOf(file.content.length)));
  const image = Buffer.alloc(sectors * sectorBytes);
  const put = (sector: number, bytes: Uint8Array): void => image.set(bytes, sector * sectorBytes);
  put(layout.primary, describeVolume({ volume, sectors, isJoliet: false }));
  put(layout.joliet, describeVolume({ volume, sectors, isJoliet: true }));
  put(layout.terminator, Buffer.from([255, ...Buffer.from('CD001'), 1]));
  put(layout.pathTables, pathTable(layout.root, 'little'));
  put(layout.pathTables + 1, pathTable(layout.root, 'big'));
  put(layout.jolietPathTables, pathTable(layout.jolietRoot, 'little'));
  put(layout.jolietPathTables + 1, pathTable(layout.jolietRoot, 'big'));
  put(layout.root, directory(layout.root, places, plainRecord, [[...sharing, ...posix(directoryMode, 2), ...rockRidge], posix(directoryMode, 2)]));
  put(layout.jolietRoot, directory(layout.jolietRoot, places, jolietRecord, [[], []]));
  for (const { sector, file } of places) put(sector, file.content);
  return image;
}

interface Place {
  readonly file: IsoFile;
  readonly sector: number;
  readonly number: number;
}

function sectorsOf(bytes: number): number {
  return Math.ceil(bytes / sectorBytes);
}

/** In the order of their names, as directories must list them. */
function placeFiles(files: readonly IsoFile[]): readonly Place[] {
  let sector: number = layout.data;
  return files.toSorted((a, b) => (a.name < b.name ? -1 : 1)).map((file, number) => {
    const place = { file, sector, number };
    sector += sectorsOf(file.content.length);
    return place;
  });
}

/** A number in both byte orders, as the format writes most of them. */
function both32(value: number): number[] {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(value, 0);
  bytes.writeUInt32BE(value, 4);
  return [...bytes];
}

function both16(value: number): number[] {
  return [value & 255, value >> 8, value >> 8, value & 255];
}

interface Record {
  readonly identifier: Uint8Array;
  readonly sector: number;
  readonly bytes: number;
  readonly isDirectory: boolean;
  readonly systemUse: readonly number[];
}

/** Source: ECMA-119, 9.1. */
function encodeRecord({ identifier, sector, bytes, isDirectory, systemUse }: Record): Uint8Array {
  const padding = identifier.length % 2 === 0 ? [0] : [];
  const rest = [0, ...both32(sector), ...both32(bytes), ...recordTime, isDirectory ? 2 : 0, 0, 0, ...both16(1), identifier.length, ...identifier, ...padding, ...systemUse];
  const even = rest.length % 2 === 0 ? [0] : [];
  return Uint8Array.from([1 + rest.length + even.length, ...rest, ...even]);
}

type ToRecord = (place: Place) => Record;

/** `own`: system use of the entries for the directory itself and for its parent, which is itself as well. */
function directory(sector: number, places: readonly Place[], toRecord: ToRecord, own: readonly [readonly number[], readonly number[]]): Uint8Array {
  const self = own.map((systemUse, index) => encodeRecord({ identifier: Uint8Array.of(index), sector, bytes: sectorBytes, isDirectory: true, systemUse }));
  const content = Buffer.concat([...self, ...places.map((place) => encodeRecord(toRecord(place)))]);
  if (content.length > sectorBytes) throw new RangeError('the directory does not fit');
  return content;
}

/** Short names are numbered: whoever can't read the long ones is no cloud-init. */
function plainRecord({ file, sector, number }: Place): Record {
  const identifier = Buffer.from(`FILE${number}.;1`);
  return { identifier, sector, bytes: file.content.length, isDirectory: false, systemUse: [...posix(fileMode, 1), ...alternateName(file.name)] };
}

function jolietRecord({ file, sector }: Place): Record {
  return { identifier: ucs2(file.name), sector, bytes: file.content.length, isDirectory: false, systemUse: [] };
}

function ucs2(text: string): Buffer {
  return Buffer.from(text, 'utf16le').swap16();
}

/** SP: the system use fields of this volume follow SUSP. */
const sharing = [...Buffer.from('SP'), 7, 1, 0xbe, 0xef, 0];
/** ER: and they are those of Rock Ridge. */
const rockRidge = [...Buffer.from('ER'), 18, 1, 10, 0, 0, 1, ...Buffer.from('RRIP_1991A')];

/** PX: mode, links, user, group. */
function posix(mode: number, links: number): number[] {
  return [...Buffer.from('PX'), 36, 1, ...both32(mode), ...both32(links), ...both32(0), ...both32(0)];
}

/** NM: the name as it is. */
function alternateName(name: string): number[] {
  return [...Buffer.from('NM'), 5 + name.length, 1, 0, ...Buffer.from(name)];
}

/** The one entry of the root. Source: ECMA-119, 9.4. */
function pathTable(sector: number, order: 'little' | 'big'): Uint8Array {
  const table = Buffer.alloc(10);
  table[0] = 1;
  if (order === 'little') table.writeUInt32LE(sector, 2);
  else table.writeUInt32BE(sector, 2);
  table[order === 'little' ? 6 : 7] = 1;
  return table;
}

/** Source: ECMA-119, 8.4 and 8.5; the escape sequence is that of Joliet, level 3. */
function describeVolume({ volume, sectors, isJoliet }: { readonly volume: string; readonly sectors: number; readonly isJoliet: boolean }): Uint8Array {
  const descriptor = Buffer.alloc(sectorBytes);
  const text = (value: string, offset: number, length: number): void => {
    const filler = isJoliet ? Buffer.alloc(length, Buffer.from([0, 0x20])) : Buffer.alloc(length, 0x20);
    descriptor.set(filler, offset);
    descriptor.set(isJoliet ? ucs2(value) : Buffer.from(value), offset);
  };
  const tables = isJoliet ? layout.jolietPathTables : layout.pathTables;
  descriptor.set([isJoliet ? 2 : 1, ...Buffer.from('CD001'), 1]);
  text('', 8, 32);
  text(volume, 40, 32);
  descriptor.set(both32(sectors), 80);
  if (isJoliet) descriptor.set(Buffer.from('%/E'), 88);
  descriptor.set([...both16(1), ...both16(1), ...both16(sectorBytes), ...both32(10)], 120);
  descriptor.writeUInt32LE(tables, 140);
  descriptor.writeUInt32BE(tables + 1, 148);
  descriptor.set(encodeRecord({ identifier: Uint8Array.of(0), sector: isJoliet ? layout.jolietRoot : layout.root, bytes: sectorBytes, isDirectory: true, systemUse: [] }), 156);
  text('', 190, 128 * 4);
  text('', 702, 36);
  text('', 739, 36);
  text('', 776, 36);
  descriptor.set(Buffer.from(volumeTime + volumeTime + noTime + noTime, 'latin1'), 813);
  descriptor[881] = 1;
  return descriptor;
}

