/** Time as the controller sees it. Nothing below main.ts asks the machine itself. */
export interface Clock {
  /** Wall clock, epoch milliseconds: for what people read, never for deadlines. */
  nowMs(): number;
  /** Monotonic milliseconds from an arbitrary start: for deadlines within this process. */
  monotonicMs(): number;
}
