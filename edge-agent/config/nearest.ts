/** The word that was probably meant. Pure. */
import leven from 'leven';

/** The nearest of `words` by edits, when it is near enough to be helpful; the first of equals. */
export function nearest(word: string, words: readonly string[]): string | undefined {
  const wanted = fold(word);
  const [best] = words.map((candidate) => ({ candidate, distance: leven(wanted, fold(candidate)) })).toSorted((a, b) => a.distance - b.distance);
  if (best === undefined) return undefined;
  return best.distance <= Math.max(2, Math.floor(fold(best.candidate).length / 2)) ? best.candidate : undefined;
}

/** Bounds the work on a word from outside; no name of ours is longer. */
const wordMax = 64;

/** `state_dir`, `state-dir` and `stateDir` are one. */
function fold(word: string): string {
  return word.slice(0, wordMax).toLowerCase().replaceAll(/[-_]/g, '');
}
