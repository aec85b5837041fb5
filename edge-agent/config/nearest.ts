/** The word that was probably meant. Pure. */

/** The nearest of `words` by edits, when it is near enough to be helpful; the first of equals. */
export function nearest(word: string, words: readonly string[]): string | undefined {
  const wanted = fold(word);
  const scored = words.map((candidate) => ({ candidate, distance: editDistance(wanted, fold(candidate)) }));
  const best = scored.reduce<(typeof scored)[number] | undefined>((least, next) => (least === undefined || next.distance < least.distance ? next : least), undefined);
  if (best === undefined) return undefined;
  return best.distance <= Math.max(2, Math.floor(fold(best.candidate).length / 2)) ? best.candidate : undefined;
}

/** Bounds the work on a word from outside; no name of ours is longer. */
const wordMax = 64;

/** `state_dir`, `state-dir` and `stateDir` are one. */
function fold(word: string): string {
  return word.slice(0, wordMax).toLowerCase().replaceAll(/[-_]/g, '');
}

/** Levenshtein, with a swap of neighbours as one edit. */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const isSame = a[i - 1] === b[j - 1];
      let cost = Math.min(at(last, j) + 1, at(row, j - 1) + 1, at(last, j - 1) + (isSame ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) cost = Math.min(cost, at(beforeLast, j - 2) + 1);
      row.push(cost);
    }
    beforeLast = last;
    last = row;
  }
  return at(last, b.length);
}

function at(row: readonly number[], index: number): number {
  return row[index] ?? Number.MAX_SAFE_INTEGER;
}
