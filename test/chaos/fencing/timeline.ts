/** Virtual time: what is due runs in order, and nothing else makes time pass. */

export class Timeline {
  nowMs = 0;
  #serial = 0;
  readonly #due: { readonly atMs: number; readonly serial: number; readonly run: () => void }[] = [];

  /** Returns how to cancel it. */
  after(ms: number, run: () => void): () => void {
    let isCancelled = false;
    const item = { atMs: this.nowMs + Math.max(0, ms), serial: (this.#serial += 1), run: () => void (isCancelled || run()) };
    // Sorted insertion: schedules hold some dozens of items.
    let index = this.#due.length;
    while (index > 0 && this.#isLater(this.#due[index - 1], item)) index -= 1;
    this.#due.splice(index, 0, item);
    return () => {
      isCancelled = true;
    };
  }

  runUntil(endMs: number): void {
    for (let next = this.#due[0]; next !== undefined && next.atMs <= endMs; next = this.#due[0]) {
      this.#due.shift();
      this.nowMs = next.atMs;
      next.run();
    }
    this.nowMs = endMs;
  }

  #isLater(a: { readonly atMs: number; readonly serial: number } | undefined, b: { readonly atMs: number }): boolean {
    return a !== undefined && a.atMs > b.atMs;
  }
}
