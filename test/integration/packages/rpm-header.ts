/** Reads the header of an rpm. Source: https://rpm-software-management.github.io/rpm/manual/format_v4.html and its list of tags. */

export interface RpmHeader {
  readonly name: string;
  readonly version: string;
  readonly release: string;
  readonly architecture: string;
  readonly license: string;
  readonly requires: readonly string[];
  readonly scripts: { readonly post: string; readonly preun: string; readonly postun: string };
  readonly files: readonly { readonly path: string; readonly mode: number; readonly isSetting: boolean; readonly isKept: boolean }[];
}

const tags = { name: 1000, version: 1001, release: 1002, license: 1014, architecture: 1022, post: 1024, preun: 1025, postun: 1026, fileModes: 1030, fileFlags: 1037, requires: 1049, directoryIndexes: 1116, baseNames: 1117, directoryNames: 1118 } as const;
const leadBytes = 96;
const headerMagic = 0x8eade801;
const entryBytes = 16;
const introBytes = 16;
const flags = { setting: 1, noReplace: 16 } as const;

export function readRpmHeader(rpm: Buffer): RpmHeader {
  if (rpm.readUInt32BE(0) !== 0xedabeedb) throw new Error('this is no rpm');
  const signature = sizeAt(rpm, leadBytes);
  // The header begins at a multiple of eight behind the signature.
  const start = leadBytes + Math.ceil(signature / 8) * 8;
  const count = rpm.readUInt32BE(start + 8);
  const store = start + introBytes + count * entryBytes;
  const values = new Map<number, readonly (string | number)[]>();
  for (let index = 0; index < count; index += 1) {
    const entry = start + introBytes + index * entryBytes;
    const [tag, type, offset, length] = [0, 4, 8, 12].map((at) => rpm.readUInt32BE(entry + at));
    values.set(Number(tag), valuesAt(rpm, store + Number(offset), Number(type), Number(length)));
  }
  const list = (name: keyof typeof tags): readonly (string | number)[] => values.get(tags[name]) ?? [];
  const text = (name: keyof typeof tags): string => String(list(name)[0] ?? '');
  const files = list('baseNames').map((base, index) => {
    const flag = Number(list('fileFlags')[index]);
    return { path: `${String(list('directoryNames')[Number(list('directoryIndexes')[index])])}${String(base)}`, mode: Number(list('fileModes')[index]) & 0o7777, isSetting: (flag & flags.setting) !== 0, isKept: (flag & flags.noReplace) !== 0 };
  });
  return {
    name: text('name'), version: text('version'), release: text('release'), architecture: text('architecture'), license: text('license'),
    requires: list('requires').map(String),
    scripts: { post: text('post'), preun: text('preun'), postun: text('postun') },
    files: files.toSorted((left, right) => (left.path < right.path ? -1 : 1)),
  };
}

function sizeAt(rpm: Buffer, at: number): number {
  if (rpm.readUInt32BE(at) !== headerMagic) throw new Error('this is no header of an rpm');
  return introBytes + rpm.readUInt32BE(at + 8) * entryBytes + rpm.readUInt32BE(at + 12);
}

/** 16 and 32 bit numbers and texts; others are of no use here. */
function valuesAt(rpm: Buffer, at: number, type: number, count: number): readonly (string | number)[] {
  if (type === 3) return Array.from({ length: count }, (_, index) => rpm.readUInt16BE(at + index * 2));
  if (type === 4) return Array.from({ length: count }, (_, index) => rpm.readUInt32BE(at + index * 4));
  if (type !== 6 && type !== 8 && type !== 9) return [];
  const texts: string[] = [];
  for (let position = at; texts.length < count; ) {
    const end = rpm.indexOf(0, position);
    texts.push(rpm.toString('utf8', position, end));
    position = end + 1;
  }
  return texts;
}
